"""Kubernetes Services and ServiceEntries, with the workloads behind them → entries.

For a host, the accounts of all its workloads, whatever their port, and the accounts that the service itself declares;
any of them may answer. Must not know: DestinationRules, who asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..resources import (
    EntryEndpoint,
    EntryPort,
    KubernetesService,
    Pod,
    PodMaker,
    Resource,
    ServiceEntry,
    WorkloadEntry,
    host_pattern,
)
from ._accounts import Accounts, Located
from ._entry import Address, Entry, Ids, merged

__all__ = ["DOMAIN", "service_entries", "visible"]

DOMAIN: Final = "svc.cluster.local"
"""Where Kubernetes' services live: Istio's ``domainSuffix``, which is not the trust domain."""

_CANONICAL: Final = "alpha.istio.io/canonical-serviceaccounts"
_KUBERNETES: Final = "alpha.istio.io/kubernetes-serviceaccounts"

_Rank = tuple[bool, bool, float, str, str]
"""Not the client's namespace, no Kubernetes Service, age: the smallest wins."""


@dataclass(frozen=True, slots=True)
class _Workload:
    """What runs behind a service, of any kind."""

    namespace: str
    labels: Mapping[str, str]
    ids: Ids
    endpoint: EntryEndpoint | None = None

    def has(self, namespace: str, labels: Mapping[str, str]) -> bool:
        return self.namespace == namespace and all(self.labels.get(key) == value for key, value in labels.items())


def service_entries(resources: Sequence[Resource], namespace: str, accounts: Accounts) -> list[Entry]:
    """Every host that a client in this namespace sees, once.

    Where several services have one host, the client's own namespace wins, then Kubernetes' Service, then the oldest;
    those of one namespace are taken together.
    """
    workloads = list(_workloads(resources, accounts))
    found: dict[str, list[tuple[_Rank, Entry]]] = {}
    for item in resources:
        if isinstance(item, KubernetesService):
            entry = _of_service(item, workloads, namespace, accounts)
            found.setdefault(entry.host, []).append(((item.namespace != namespace, False, 0.0, "", ""), entry))
        elif isinstance(item, ServiceEntry) and visible(item.spec.export_to, item.namespace, namespace):
            rank = (item.namespace != namespace, True, *item.age)
            for entry in _of_service_entry(item, workloads, accounts):
                found.setdefault(entry.host, []).append((rank, entry))
    return [_chosen(candidates) for candidates in found.values()]


def visible(export_to: Sequence[str], owner: str, client: str) -> bool:
    """Whether ``exportTo`` shows a resource of one namespace to a client in another."""
    return not export_to or "*" in export_to or client in export_to or ("." in export_to and owner == client)


def _chosen(candidates: Iterable[tuple[_Rank, Entry]]) -> Entry:
    ordered = [entry for _, entry in sorted(candidates, key=lambda candidate: candidate[0])]
    first = ordered[0]
    same = [entry for entry in ordered if entry.namespace == first.namespace]
    addresses: dict[int, tuple[Address, ...]] = {}
    for entry in same:
        for port, found in entry.addresses.items():
            addresses[port] = (*addresses.get(port, ()), *found)
    ids = merged(*(entry.ids for entry in same))
    return Entry(host=first.host, ids=ids, names=first.names, addresses=addresses, namespace=first.namespace)


def _workloads(resources: Iterable[Resource], accounts: Accounts) -> Iterator[_Workload]:
    for item in resources:
        if isinstance(item, Pod | PodMaker):
            yield _Workload(item.namespace, item.labels, accounts.account(item.namespace, item.service_account, item))
        elif isinstance(item, WorkloadEntry):
            yield _outside(item.spec, item.namespace, item, accounts)


def _outside(endpoint: EntryEndpoint, namespace: str, resource: Located, accounts: Accounts) -> _Workload:
    """Its account is known only where it is written: there is no default one."""
    account = endpoint.service_account
    ids = accounts.account(namespace, account, resource) if account else {}
    return _Workload(namespace, endpoint.labels, ids, endpoint)


def _of_service(
    service: KubernetesService, workloads: Iterable[_Workload], namespace: str, accounts: Accounts
) -> Entry:
    behind = [item.ids for item in workloads if service.selects(item.namespace, item.labels)]
    annotations = service.metadata.annotations
    declared = [
        *(accounts.identity(text, service) for text in _listed(annotations.get(_CANONICAL))),
        *(accounts.account(service.namespace, text, service) for text in _listed(annotations.get(_KUBERNETES))),
    ]
    short = f"{service.name}.{service.namespace}"
    names = (f"{short}.{DOMAIN}", f"{short}.svc", short, *((service.name,) if service.namespace == namespace else ()))
    return Entry(host=names[0], ids=merged(*behind, *declared), names=names, namespace=service.namespace)


def _listed(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _of_service_entry(entry: ServiceEntry, workloads: Iterable[_Workload], accounts: Accounts) -> Iterator[Entry]:
    spec, namespace = entry.spec, entry.namespace
    if spec.workload_selector is not None:
        behind = [item for item in workloads if item.has(namespace, spec.workload_selector.labels)]
    else:
        behind = [_outside(endpoint, namespace, entry, accounts) for endpoint in spec.endpoints]
    ids = merged(*(item.ids for item in behind), *(accounts.identity(text, entry) for text in spec.subject_alt_names))
    endpoints = [item.endpoint for item in behind if item.endpoint is not None]
    addresses = {port.number: tuple(_dialled(endpoints, port)) for port in spec.ports}
    for host in map(host_pattern, spec.hosts):
        yield Entry(host=host, ids=ids, names=(host,), addresses=addresses, namespace=namespace)


def _dialled(endpoints: Iterable[EntryEndpoint], port: EntryPort) -> Iterator[Address]:
    for endpoint in endpoints:
        if endpoint.address and not endpoint.address.startswith("unix:"):
            yield endpoint.address, endpoint.ports.get(port.name) or port.target_port or port.number
