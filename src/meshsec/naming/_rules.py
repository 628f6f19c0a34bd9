"""What a client's DestinationRules and the PeerAuthentications of a service change about an entry.

Which rule is for a host is Istio's: the client's own namespace, the service's, the root namespace; the first that has
one decides alone. Must not know: how entries come to be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from ..resources import (
    ClientTls,
    DestinationRule,
    MeshConfig,
    MtlsMode,
    PeerAuthentication,
    Resource,
    TlsMode,
    Workload,
    host_pattern,
)
from ._accounts import Accounts
from ._entry import Entry
from ._services import DOMAIN, visible

__all__ = ["Rules", "covers"]


def covers(pattern: str, host: str) -> bool:
    """Whether a host, or a pattern of hosts, is one of a pattern's."""
    return pattern in ("*", host) or (pattern.startswith("*.") and host.endswith(pattern[1:]))


class Rules:
    """The rules that this workload's connections are under."""

    def __init__(
        self, resources: Sequence[Resource], workload: Workload, config: MeshConfig, accounts: Accounts
    ) -> None:
        rules = (item for item in resources if isinstance(item, DestinationRule))
        self._rules = sorted((rule for rule in rules if _is_for(rule, workload)), key=lambda rule: rule.age)
        peers = (item for item in resources if isinstance(item, PeerAuthentication))
        self._peers = sorted((peer for peer in peers if _is_for_all(peer)), key=lambda peer: peer.age)
        self._namespace = workload.namespace
        self._root = config.root_namespace
        self._accounts = accounts

    def apply(self, entry: Entry) -> Entry:
        """The entry as its rule wants it; without a rule for TLS, mutual TLS unless its namespace disables it."""
        rule = self._rule(entry)
        policy = rule.spec.traffic_policy if rule else None
        if rule is None or policy is None:
            return self._under(None, entry, None)
        settings = reversed(policy.port_level_settings)  # of two for one port the first counts
        ports = {one.port.number: self._under(one.tls, entry, rule) for one in settings}
        return replace(self._under(policy.tls, entry, rule), by_port=ports)

    def _under(self, tls: ClientTls | None, entry: Entry, rule: DestinationRule | None) -> Entry:
        if tls is None or rule is None:
            return replace(entry, mode=TlsMode.DISABLE) if self._is_disabled(entry.namespace) else entry
        found = replace(entry, mode=tls.mode, sni=tls.sni or "")
        if tls.mode is TlsMode.ISTIO_MUTUAL and tls.subject_alt_names:
            return replace(found, ids=self._accounts.exactly(tls.subject_alt_names, rule))
        return found

    def _rule(self, entry: Entry) -> DestinationRule | None:
        for namespace in dict.fromkeys((self._namespace, entry.namespace, self._root)):
            there = [rule for rule in self._rules if rule.namespace == namespace]
            found = [rule for rule in there if covers(_full_host(rule), entry.host)]
            if found:
                best = max(map(_full_host, found), key=lambda host: (not host.startswith("*"), len(host)))
                return _merged(rule for rule in found if _full_host(rule) == best)
        return None

    def _is_disabled(self, namespace: str) -> bool:
        """Only what holds for a whole namespace or the mesh counts, as in Istio; a workload's own does not."""
        return next(self._modes(namespace), None) is MtlsMode.DISABLE if namespace else False

    def _modes(self, namespace: str) -> Iterator[MtlsMode]:
        for place in dict.fromkeys((namespace, self._root)):
            for peer in self._peers:
                if peer.namespace == place and peer.spec.mtls.mode is not MtlsMode.UNSET:
                    yield peer.spec.mtls.mode


def _is_for_all(peer: PeerAuthentication) -> bool:
    return peer.spec.selector is None or not peer.spec.selector.match_labels


def _is_for(rule: DestinationRule, workload: Workload) -> bool:
    """A rule with a selector is for clients of its own namespace only."""
    own = rule.namespace == workload.namespace
    selector = rule.spec.workload_selector
    if selector is not None and not (own and selector.matches(workload.labels)):
        return False
    return own or visible(rule.spec.export_to, rule.namespace, workload.namespace)


def _full_host(rule: DestinationRule) -> str:
    """A name without a dot is a Kubernetes service's, in the rule's namespace."""
    host = host_pattern(rule.spec.host)
    return host if "." in host or host == "*" else f"{host}.{rule.namespace}.{DOMAIN}"


def _merged(rules: Iterable[DestinationRule]) -> DestinationRule:
    """Of several for one host: those with a selector first, then the oldest that says anything."""
    ordered = sorted(rules, key=lambda rule: rule.spec.workload_selector is None)
    return next((rule for rule in ordered if rule.spec.traffic_policy is not None), ordered[0])
