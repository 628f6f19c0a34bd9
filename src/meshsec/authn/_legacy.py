"""The legacy kinds of one workload, compiled: the policy of each of its ports.

This file must not know authorization, or where keys come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ..attributes import PeerIdentity, RequestFacts
from ..decision import Reason
from ..resources import KubernetesService, MeshConfig, MeshPolicy, Policy, Resource, Workload
from ._keys import KeySnapshot, KeySource, NeedKeys
from ._legacy_policy import LegacyPolicy, LegacyRefusal, LegacyResult
from ._legacy_select import Choice, select_legacy
from ._peer import PeerModes

__all__ = ["CompiledLegacy", "compile_legacy"]

_NO_POLICY: Final = LegacyPolicy()


@dataclass(frozen=True, slots=True)
class CompiledLegacy:
    """The policies of one workload's ports, frozen. Build with :func:`compile_legacy`.

    Attributes:
        ports: by port, where it has one of its own.
        other: of every other port.
        modes: what each port takes on the wire.
        sources: the key sets that are not written into the policies.
        applied: the resources they were made of.
    """

    ports: Mapping[int, LegacyPolicy]
    other: LegacyPolicy
    modes: PeerModes
    sources: tuple[KeySource, ...]
    applied: tuple[Policy | MeshPolicy, ...]

    @property
    def token_headers(self) -> frozenset[str]:
        """The headers in which a token may stand, lower case."""
        policies = (self.other, *self.ports.values())
        return frozenset(name for policy in policies for group in policy.origins for name in group.token_headers)

    def authenticate(
        self,
        port: int | None,
        peer: PeerIdentity | None,
        facts: RequestFacts,
        keys: KeySnapshot,
        *,
        now: float,
        ask: bool = True,
    ) -> LegacyResult | LegacyRefusal | NeedKeys:
        """Judge the peer, then the tokens, by the policy of the port.

        Args:
            port: the workload's; None: not known, which is refused where it makes a difference.
            peer: verified; its dates are not checked here.
            facts: the request.
            keys: the key sets at hand.
            now: wall clock, POSIX seconds.
            ask: whether a question may be the answer.
        """
        if port is None and any(policy is not self.other for policy in self.ports.values()):
            why = "the port of the request is not known, and a legacy policy is for one port alone"
            return LegacyRefusal.of_peer(Reason.PORT_UNKNOWN, why)
        policy = self.other if port is None else self.ports.get(port, self.other)
        return policy.authenticate(peer, facts, keys, now=now, ask=ask)


def compile_legacy(resources: Iterable[Resource], workload: Workload, config: MeshConfig) -> CompiledLegacy | None:
    """Compile the legacy policies for a workload; None where there is none.

    Args:
        resources: all of them; the Services among them say which policies are for the workload.
        workload: whose ports they are.
        config: the mesh-wide settings.

    Raises:
        ConfigError: see :func:`select_legacy`; or an inline key set holds no usable key.
    """
    resources = tuple(resources)
    policies = [item for item in resources if isinstance(item, Policy | MeshPolicy)]
    services = [item for item in resources if isinstance(item, KubernetesService)]
    selection = select_legacy(policies, services, workload)
    if selection is None:
        return None
    choices = (selection.other, *selection.ports.values())
    applied = tuple(item for item in policies if any(item is choice for choice in choices))
    compiled = {id(item): LegacyPolicy.of(item, config) for item in applied}

    def policy_of(choice: Choice) -> LegacyPolicy:
        return compiled.get(id(choice), _NO_POLICY)

    other = policy_of(selection.other)
    ports = {port: policy_of(choice) for port, choice in selection.ports.items()}
    modes = PeerModes(
        other.mode, MappingProxyType({port: policy.mode for port, policy in ports.items()}), declared=True
    )
    sources = (source for policy in compiled.values() for group in policy.origins for source in group.sources)
    return CompiledLegacy(MappingProxyType(ports), other, modes, tuple(dict.fromkeys(sources)), applied)
