"""PeerAuthentication, resolved: what each port of one workload accepts (istio.io, "Peer authentication").

This file must not know connections: whether one meets the mode is judged elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from ..resources import MeshConfig, MtlsMode, PeerAuthentication, Workload

__all__ = ["PeerModes", "compile_peer_authentication"]

_ISTIO_DEFAULT: Final = MtlsMode.PERMISSIVE
_NO_PORTS: Final[Mapping[int, MtlsMode]] = MappingProxyType({})
# What an unknown port is held to: the strictest of what it may be.
_STRICTNESS: Final = {MtlsMode.DISABLE: 0, MtlsMode.PERMISSIVE: 1, MtlsMode.STRICT: 2}


@dataclass(frozen=True, slots=True)
class PeerModes:
    """The mode of each port. Never UNSET.

    Attributes:
        default: the mode of every port without one of its own.
        ports: the ports with a mode of their own.
        declared: whether any PeerAuthentication applies to the workload; without one, Istio's default holds.
    """

    default: MtlsMode = _ISTIO_DEFAULT
    ports: Mapping[int, MtlsMode] = field(default_factory=lambda: _NO_PORTS)
    declared: bool = False

    def mode(self, port: int | None) -> MtlsMode:
        """The mode of a workload port; for an unknown port the strictest of all."""
        if not self.ports:
            return self.default
        if port is None:
            return max((self.default, *self.ports.values()), key=_STRICTNESS.__getitem__)
        return self.ports.get(port, self.default)


def compile_peer_authentication(
    resources: Iterable[PeerAuthentication], workload: Workload, config: MeshConfig
) -> PeerModes:
    """Resolve the mode: mesh, then namespace, then workload; in each scope the oldest object alone counts.

    Args:
        resources: all of them; what is for other workloads is left out here.
        workload: whose ports they are.
        config: its root namespace is where mesh-wide objects stand.

    An object with a selector in the root namespace never counts, as in Istio: refuse it before.
    """
    scopes: dict[str, list[PeerAuthentication]] = {"mesh": [], "namespace": [], "workload": []}
    for item in resources:
        scope = _scope(item, workload, config)
        if scope:
            scopes[scope].append(item)
    winners = {name: min(items, key=lambda item: item.age) for name, items in scopes.items() if items}
    mode = _ISTIO_DEFAULT
    for winner in winners.values():
        mode = _inherit(winner.spec.mtls.mode, mode)
    own = winners.get("workload")
    levels = own.spec.port_level_mtls if own else {}
    ports = MappingProxyType({port: _inherit(mtls.mode, mode) for port, mtls in levels.items()})
    return PeerModes(mode, ports, declared=bool(winners))


def _scope(item: PeerAuthentication, workload: Workload, config: MeshConfig) -> str | None:
    selector = item.spec.selector
    in_root = item.namespace == config.root_namespace
    if selector is None or not selector.match_labels:
        return "mesh" if in_root else "namespace" if item.namespace == workload.namespace else None
    if in_root or item.namespace != workload.namespace or not selector.matches(workload.labels):
        return None
    return "workload"


def _inherit(mode: MtlsMode, wider: MtlsMode) -> MtlsMode:
    return wider if mode is MtlsMode.UNSET else mode
