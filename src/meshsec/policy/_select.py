"""Which of the mesh's resources apply to a workload, and which of them cannot apply together.

Must not know: how a resource is compiled, or requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from ..authn import CompiledLegacy, PeerModes
from ..errors import ConfigError, Problem
from ..resources import (
    AuthorizationPolicy,
    MeshConfig,
    PeerAuthentication,
    RequestAuthentication,
    Resource,
    Workload,
)

__all__ = ["refuse_both", "refuse_root_selectors", "select"]

_Selectable = TypeVar("_Selectable", AuthorizationPolicy, RequestAuthentication)


def _applies(item: AuthorizationPolicy | RequestAuthentication, workload: Workload, config: MeshConfig) -> bool:
    """Namespace and selector; a policy with targetRefs is for gateways and never for a workload."""
    if item.spec.target_refs or item.namespace not in (workload.namespace, config.root_namespace):
        return False
    selector = item.spec.selector
    return selector is None or selector.matches(workload.labels)


def select(
    resources: Iterable[Resource], kind: type[_Selectable], workload: Workload, config: MeshConfig
) -> list[_Selectable]:
    return [item for item in resources if isinstance(item, kind) and _applies(item, workload, config)]


def refuse_root_selectors(peers: Iterable[PeerAuthentication], config: MeshConfig) -> None:
    """Istio ignores these without a word, so that a STRICT is silently not applied: refused here."""
    problems = [
        Problem(
            "a PeerAuthentication with a selector has no effect in the root namespace: move it to the workload's",
            source=item.location,
            resource=f"PeerAuthentication {item.id}",
            field="spec.selector",
        )
        for item in peers
        if item.namespace == config.root_namespace and item.spec.selector and item.spec.selector.match_labels
    ]
    if problems:
        raise ConfigError(problems)


def refuse_both(
    legacy: CompiledLegacy, requests: Sequence[RequestAuthentication], modes: PeerModes, workload: Workload
) -> None:
    """Istio read both at once and let one win, which was not always the one that its owner thought of."""
    today = [f"RequestAuthentication {item.id}" for item in requests]
    today += ["a PeerAuthentication"] if modes.declared else []
    if today:
        both = (
            f"applies to workload {workload.name} beside {', '.join(today)}: a workload has legacy kinds or today's"
        )
        raise ConfigError(Problem(both, item.location, resource=f"{item.kind} {item.id}") for item in legacy.applied)
