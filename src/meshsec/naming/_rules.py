"""What a client's DestinationRules and the PeerAuthentications of a service change about an entry.

Which rule is for a host is Istio's: the client's own namespace, the service's, the root namespace; the first that has
one decides alone. The host is looked for first: a closer rule that is for other clients hides a wider one. Must not
know: how entries come to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from ..resources import (
    ClientTls,
    DestinationRule,
    MeshConfig,
    MtlsMode,
    PeerAuthentication,
    Resource,
    TlsMode,
    TrafficPolicy,
    Workload,
    host_pattern,
)
from ._accounts import Accounts
from ._entry import Entry, Ids
from ._services import DOMAIN, visible

__all__ = ["Rules", "covers"]

_ALONE: Final = (
    "is not what {} is under otherwise: only a VirtualService leads to a subset, and none is followed here; "
    "give the host the same tls, or the subset none"
)


def covers(pattern: str, host: str) -> bool:
    """Whether a host, or a pattern of hosts, is one of a pattern's."""
    return pattern in ("*", host) or (pattern.startswith("*.") and host.endswith(pattern[1:]))


class Rules:
    """The rules that this workload's connections are under."""

    def __init__(
        self, resources: Sequence[Resource], workload: Workload, config: MeshConfig, accounts: Accounts
    ) -> None:
        rules = sorted((item for item in resources if isinstance(item, DestinationRule)), key=lambda rule: rule.age)
        # What is in the root namespace for everybody is no more for its own clients than for anybody else's.
        is_own = _is_private if workload.namespace == config.root_namespace else _is_for_its_own
        self._own = [rule for rule in rules if rule.namespace == workload.namespace and is_own(rule)]
        self._exported = [rule for rule in rules if not _is_private(rule)]
        peers = (item for item in resources if isinstance(item, PeerAuthentication))
        self._peers = sorted((peer for peer in peers if _is_for_all(peer)), key=lambda peer: peer.age)
        self._namespace = workload.namespace
        self._labels = workload.labels
        self._root = config.root_namespace
        self._accounts = accounts

    def apply(self, entry: Entry) -> Entry:
        """The entry as its rule wants it; without a rule for TLS, mutual TLS unless its namespace disables it."""
        rules = self._rules_of(entry)
        rule = next((rule for rule in rules if rule.spec.traffic_policy is not None), None)
        found = self._under(None, entry, None) if rule is None else self._ruled(entry, rule)
        for rule in rules:
            self._check_subsets(rule, entry, found)
        return found

    def _ruled(self, entry: Entry, rule: DestinationRule) -> Entry:
        policy = rule.spec.traffic_policy or TrafficPolicy()
        settings = reversed(policy.port_level_settings)  # of two for one port the first counts
        ports = {one.port.number: self._under(one.tls, entry, rule) for one in settings}
        return replace(self._under(policy.tls, entry, rule), by_port=ports)

    def _check_subsets(self, rule: DestinationRule, entry: Entry, found: Entry) -> None:
        """Nobody is led to a subset here: what one alone asks for would not happen."""
        for index, subset in enumerate(rule.spec.subsets):
            policy, place = subset.traffic_policy or TrafficPolicy(), f"spec.subsets[{index}].trafficPolicy"
            asked = [(f"{place}.tls", policy.tls, found.at(None))]
            for at, one in enumerate(policy.port_level_settings):
                asked.append((f"{place}.portLevelSettings[{at}].tls", one.tls, found.at(one.port.number)))
            for field, tls, others in asked:
                if tls is not None and any(_way(self._under(tls, entry, rule)) != _way(other) for other in others):
                    self._accounts.complain(_ALONE.format(entry.host), rule, field)

    def _under(self, tls: ClientTls | None, entry: Entry, rule: DestinationRule | None) -> Entry:
        if tls is None or rule is None:
            return replace(entry, mode=TlsMode.DISABLE) if self._is_disabled(entry.namespace) else entry
        found = replace(entry, mode=tls.mode, sni=tls.sni or "")
        if tls.mode is TlsMode.ISTIO_MUTUAL and tls.subject_alt_names:
            return replace(found, ids=self._accounts.exactly(tls.subject_alt_names, rule))
        return found

    def _rules_of(self, entry: Entry) -> list[DestinationRule]:
        """Those for the host of which one decides: with a selector first, then the oldest."""
        own = _closest(self._own, entry.host)
        if own:
            mine = (rule for rule in own if _selects(rule, self._labels))
            return sorted(mine, key=lambda rule: rule.spec.workload_selector is None)
        for namespace in dict.fromkeys((entry.namespace, self._root)):
            found = _closest([rule for rule in self._exported if rule.namespace == namespace], entry.host)
            shown = [rule for rule in found if visible(rule.spec.export_to, namespace, self._namespace)]
            if shown:
                return shown
        return []

    def _is_disabled(self, namespace: str) -> bool:
        """By the oldest that holds for the namespace, else for the mesh, as in Istio; not by a workload's own."""
        places = dict.fromkeys((namespace, self._root)) if namespace else ()
        oldest = (next((peer for peer in self._peers if peer.namespace == place), None) for place in places)
        modes = (peer.spec.mtls.mode for peer in oldest if peer is not None)
        return next((mode for mode in modes if mode is not MtlsMode.UNSET), None) is MtlsMode.DISABLE


def _is_for_all(peer: PeerAuthentication) -> bool:
    return peer.spec.selector is None or not peer.spec.selector.match_labels


def _is_private(rule: DestinationRule) -> bool:
    """Whether it is for clients of its own namespace alone, as every rule with a selector is."""
    return rule.spec.workload_selector is not None or set(rule.spec.export_to) in ({"."}, {rule.namespace})


def _is_for_its_own(rule: DestinationRule) -> bool:
    """Whether it is for clients of its own namespace, too."""
    return _is_private(rule) or visible(rule.spec.export_to, rule.namespace, rule.namespace)


def _selects(rule: DestinationRule, labels: Mapping[str, str]) -> bool:
    selector = rule.spec.workload_selector
    return selector is None or selector.matches(labels)


def _closest(rules: Sequence[DestinationRule], host: str) -> list[DestinationRule]:
    """The rules for the most specific of the hosts, and patterns of hosts, that this host is one of."""
    found = [rule for rule in rules if covers(_full_host(rule), host)]
    best = max(map(_full_host, found), key=lambda name: (not name.startswith("*"), len(name)), default="")
    return [rule for rule in found if _full_host(rule) == best]


def _full_host(rule: DestinationRule) -> str:
    """A name without a dot is a Kubernetes service's, in the rule's namespace."""
    host = host_pattern(rule.spec.host)
    return host if "." in host or host == "*" else f"{host}.{rule.namespace}.{DOMAIN}"


def _way(entry: Entry) -> tuple[TlsMode, Ids, str]:
    """How a host is spoken to."""
    return entry.mode, entry.ids, entry.sni
