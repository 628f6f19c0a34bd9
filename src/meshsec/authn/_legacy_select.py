"""Which legacy Policy is for which port of a workload: exactly one each, and none is merged with another.

A policy names services and their ports. A workload's services are the Kubernetes Services whose selector its labels
satisfy; where there is none, it is one itself, by its own name and ports. This file must not know requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from ..errors import ConfigError, Problem
from ..resources import KubernetesService, MeshPolicy, Policy, PortSelector, Workload

__all__ = ["Choice", "Selection", "select_legacy"]

Choice = Policy | MeshPolicy | None
"""The policy of a port; None: no policy is for it, and mutual TLS is disabled there."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The policy of every port.

    Attributes:
        ports: by the workload's port, where a service leads to it.
        other: of every other port.
    """

    ports: Mapping[int, Choice]
    other: Choice


@dataclass(frozen=True, slots=True)
class _View:
    """A service of the workload.

    Attributes:
        name: the service's.
        ports: (the service's port, its name, the workload's port); the last is None where that is not known.
        document: whether a Service says so; else it is the workload itself.
    """

    name: str
    ports: tuple[tuple[int, str, int | None], ...]
    document: bool = False

    @classmethod
    def of(cls, service: KubernetesService, workload: Workload) -> Self:
        ports = []
        for item in service.spec.ports:
            target = item.port if item.target_port is None else item.target_port
            ports.append((item.port, item.name, workload.ports.get(target) if isinstance(target, str) else target))
        return cls(service.name, tuple(ports), document=True)

    @classmethod
    def itself(cls, workload: Workload) -> Self:
        return cls(workload.name, tuple((number, name, number) for name, number in workload.ports.items()))

    def targets(self, policy: Policy) -> Iterator[tuple[int, tuple[PortSelector, ...]]]:
        """The index of each target that names this service, and its ports."""
        for index, target in enumerate(policy.spec.targets):
            if target.name == self.name:
                yield index, target.ports


def select_legacy(
    policies: Iterable[Policy | MeshPolicy], services: Iterable[KubernetesService], workload: Workload
) -> Selection | None:
    """Select for each port the first of: a policy for its service and port, for its service, its namespace, the mesh.

    Args:
        policies: all of them; among equals the oldest counts.
        services: all of them.
        workload: whose ports they are.

    Returns:
        None where no policy is for any port.

    Raises:
        ConfigError: a policy names a port that cannot be found, or two services lead different policies to one port.
    """
    by_age = sorted(policies, key=lambda item: item.age)
    mine = [item for item in by_age if isinstance(item, Policy) and item.namespace == workload.namespace]
    default: Choice = next((item for item in mine if not item.spec.targets), None)
    default = default or next((item for item in by_age if isinstance(item, MeshPolicy)), None)
    views = [_View.of(item, workload) for item in services if item.selects(workload.namespace, workload.labels)]
    views = views or [_View.itself(workload)]
    _check_ports(mine, views)
    wide = [_wide(mine, view) or default for view in views]
    ports = _by_port(mine, views, wide)
    other = wide[0] if all(item is wide[0] for item in wide) else default
    return Selection(ports, other) if any((other, *ports.values())) else None


def _wide(policies: Iterable[Policy], view: _View) -> Choice:
    """The policy for a service without regard to its ports."""
    return next((item for item in policies if any(not ports for _, ports in view.targets(item))), None)


def _by_port(policies: Sequence[Policy], views: Sequence[_View], wide: Sequence[Choice]) -> dict[int, Choice]:
    found: dict[int, tuple[Choice, str]] = {}
    for view, whole in zip(views, wide, strict=True):
        for number, name, port in view.ports:
            choice: Choice = next((item for item in policies if _names(item, view, number, name)), whole)
            if port is None:
                continue
            before, service = found.setdefault(port, (choice, view.name))
            if before is not choice:
                raise ConfigError(
                    f"services {service} and {view.name} both lead to port {port}, but {_called(before)} is for one "
                    f"and {_called(choice)} for the other: a port has one policy"
                )
    return {port: choice for port, (choice, _) in found.items()}


def _called(choice: Choice) -> str:
    return f"{choice.kind} {choice.id}" if choice else "no policy"


def _names(policy: Policy, view: _View, number: int, name: str) -> bool:
    return any(_is(port, number, name) for _, ports in view.targets(policy) for port in ports)


def _is(port: PortSelector, number: int, name: str) -> bool:
    return port.number == number if port.number is not None else port.name == name


def _check_ports(policies: Iterable[Policy], views: Iterable[_View]) -> None:
    """What a policy says of a port that cannot be found would silently not hold."""
    problems = []
    for policy in policies:
        for view in views:
            for index, ports in view.targets(policy):
                for place, port in enumerate(ports):
                    message = _missing(port, view)
                    if message:
                        field = f"spec.targets[{index}].ports[{place}]"
                        problems.append(Problem(message, policy.location, resource=_called(policy), field=field))
    if problems:
        raise ConfigError(problems)


def _missing(port: PortSelector, view: _View) -> str | None:
    what = port.number if port.number is not None else port.name
    found = [target for number, name, target in view.ports if _is(port, number, name)]
    if not found and view.document:
        return f"Service {view.name} has no port {what}"
    if not found:
        return f"no Service selects the workload {view.name}, which has no port {what} itself: add its Service"
    if None in found:
        return f"port {what} of Service {view.name} leads to a named port that the workload does not have"
    return None
