"""``meshsec check``: does a central folder load, for every workload in it, and is every policy for one of them?"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import click

from ..authn import compile_peer_authentication
from ..errors import ConfigError, Problem
from ..naming import SecureNaming
from ..policy import WorkloadPolicy
from ..resources import (
    AuthorizationPolicy,
    MeshFile,
    MeshPolicy,
    PeerAuthentication,
    Policy,
    RequestAuthentication,
    Resource,
    load_mesh,
    load_policies,
)

__all__ = ["check"]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), envvar="MESHSEC_CONFIG")
def check(folder: Path) -> None:
    """Load FOLDER (or its mesh.yaml), or list every problem with file:line:column.

    Exits with 0 if every workload in it can be served, else with 1. A policy that is for none of them is a warning:
    the mesh may have workloads that are not named here.
    """
    file = load_mesh(folder)
    resources = load_policies(file)
    problems: list[Problem] = []
    applied: set[str] = set()
    for workload in file.workloads.values():
        try:
            applied.update(WorkloadPolicy.compile(resources, workload, file.config).applied)
            SecureNaming(file.config.services, file.config, resources=resources, workload=workload)
        except ConfigError as error:
            problems.extend(problem for problem in error.problems if problem not in problems)
    if problems:
        raise ConfigError(problems)
    warnings = list(_idle(resources, file, applied)) if file.workloads else []
    if not (file.workloads or resources):
        warnings = [Problem("no resource and no workload stands here: is it the right folder?", str(folder))]
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    counted = f"resources: {len(resources)}, workloads: {len(file.workloads)}, problems: 0"
    click.echo(f"{folder}: {counted}" + (f", warnings: {len(warnings)}" if warnings else ""))


def _idle(resources: Iterable[Resource], file: MeshFile, applied: Collection[str]) -> Iterator[Problem]:
    """Policies that are for no workload of the folder: a misspelt target or label is never an error by itself."""
    for item in resources:
        if isinstance(item, PeerAuthentication):
            workloads = file.workloads.values()
            idle = not any(compile_peer_authentication([item], one, file.config).declared for one in workloads)
        else:
            judged = isinstance(item, AuthorizationPolicy | RequestAuthentication | Policy | MeshPolicy)
            idle = judged and f"{type(item).__name__} {item.id}" not in applied
        if idle:
            yield Problem(_why(item), item.location, resource=f"{type(item).__name__} {item.id}")


def _why(item: Resource) -> str:
    if isinstance(item, Policy | MeshPolicy):
        names = ", ".join(target.name for target in getattr(item.spec, "targets", ()))
        aimed = (
            f"no workload here is a service named {names}" if names else "another policy is closer to each of them"
        )
        return f"it is for no workload: {aimed}"
    if getattr(item.spec, "target_refs", ()):  # type: ignore[union-attr]
        return "it is for no workload: targetRefs name gateways, and a policy that has them is for nothing else"
    return "it is for no workload: none here has its namespace and the labels it selects"
