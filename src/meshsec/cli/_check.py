"""``meshsec check``: does a central folder load, for every workload in it?"""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import ConfigError, Problem
from ..naming import SecureNaming
from ..policy import WorkloadPolicy
from ..resources import load_mesh, load_policies

__all__ = ["check"]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), envvar="MESHSEC_CONFIG")
def check(folder: Path) -> None:
    """Load FOLDER (or its mesh.yaml), or list every problem with file:line:column.

    Exits with 0 if every workload in it can be served, else with 1.
    """
    file = load_mesh(folder)
    resources = load_policies(file)
    problems: list[Problem] = []
    for workload in file.workloads.values():
        try:
            WorkloadPolicy.compile(resources, workload, file.config)
            SecureNaming(file.config.services, file.config, resources=resources, workload=workload)
        except ConfigError as error:
            problems.extend(problem for problem in error.problems if problem not in problems)
    if problems:
        raise ConfigError(problems)
    click.echo(f"{folder}: resources: {len(resources)}, workloads: {len(file.workloads)}, problems: 0")
