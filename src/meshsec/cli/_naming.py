"""``meshsec naming``: who may answer for what, as one workload's clients see it, and from which file that follows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ..naming import Entry, SecureNaming
from ..resources import TlsMode, Workload, load_mesh, load_policies
from ._ca_show import format_option

__all__ = ["naming"]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), envvar="MESHSEC_CONFIG")
@click.option("--workload", envvar="MESHSEC_WORKLOAD", help="Whose view it is; by default the only workload's.")
@format_option
def naming(folder: Path, workload: str | None, output: str) -> None:
    """Print who may answer for what, from FOLDER (or its mesh.yaml).

    Namespaces, exportTo and DestinationRules make the table a little different for each workload.
    """
    file = load_mesh(folder)
    client = file.workload(workload) if file.workloads or workload else Workload(name="client")
    table = SecureNaming(file.config.services, file.config, resources=load_policies(file), workload=client)
    if output == "json":
        click.echo(json.dumps([_described(entry) for entry in table.entries()]))
        return
    for entry in table.entries():
        for line in _lines(entry):
            click.echo(line)


def _described(entry: Entry) -> dict[str, Any]:
    ids = {str(spiffe_id): list(origins) for spiffe_id, origins in sorted(entry.ids.items())}
    return {"host": entry.host, "names": list(entry.names), "mode": entry.mode.value, "ids": ids}


def _lines(entry: Entry) -> Iterator[str]:
    also = f" ({', '.join(entry.names[1:])})" if entry.names[1:] else ""
    yield f"{entry.host}{also}{'' if entry.mode is TlsMode.ISTIO_MUTUAL else f': TLS mode {entry.mode}'}"
    for spiffe_id, origins in sorted(entry.ids.items()):
        yield f"  {spiffe_id}  from {'; '.join(origins)}"
    if not entry.ids:
        yield "  nobody: every call is refused"
