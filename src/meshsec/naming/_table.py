"""The table of a mesh's hosts, as one workload sees it. Must not know: how resources become entries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Final

from ..errors import ConfigError, Problem, SpiffeIdError, SvidError
from ..resources import MeshConfig, Resource, Service, TlsMode, Workload, host_key
from ..spiffe import SpiffeId
from ._accounts import Accounts
from ._entry import Entry
from ._rules import Rules
from ._services import service_entries

__all__ = ["SecureNaming"]

_SHORT_FORM: Final = "services of mesh.yaml"
_FOREIGN: Final = (TlsMode.SIMPLE, TlsMode.MUTUAL)


class SecureNaming:
    """The services of a mesh, by host name; names are compared without case and without the dot at their end.

    Args:
        services: the short form: host name to who may answer for it and where it is reached. Short names are names
            like any other: ``reviews`` and ``reviews.prod`` are two hosts. They win over what resources say.
        config: for the mesh's trust domain and its aliases, and the root namespace.
        resources: Services, pods, ServiceEntries, DestinationRules and what else is there; the rest is passed over.
        workload: who calls: its namespace completes short names of Kubernetes' services.

    Raises:
        ConfigError: a host name, a SPIFFE ID or an endpoint is malformed, or two keys name one host.
    """

    def __init__(
        self,
        services: Mapping[str, Service],
        config: MeshConfig,
        *,
        resources: Sequence[Resource] = (),
        workload: Workload | None = None,
    ) -> None:
        client = workload or Workload(name="client")
        accounts = Accounts(config)
        computed = service_entries(resources, client.namespace, accounts)
        rules = Rules(resources, client, config, accounts)
        found = [rules.apply(entry) for entry in computed]
        explicit = [rules.apply(entry) for entry in _explicit(services, accounts)]
        if accounts.problems:
            raise ConfigError(accounts.problems)
        self._hosts = {entry.host: entry for entry in found}
        # Kubernetes' short names come first, as they do in its DNS: a ServiceEntry cannot take one over.
        self._hosts |= {name: entry for entry in found for name in entry.names[1:]}
        self._hosts |= {entry.host: entry for entry in explicit}

    def entries(self) -> Iterable[Entry]:
        """Every host in force, in the order of their names; one that is hidden by another is left out."""
        return sorted({id(entry): entry for entry in self._hosts.values()}.values(), key=lambda entry: entry.host)

    def knows(self, host: str) -> bool:
        """Whether the mesh names this host; if not, its server cannot be told from an impostor."""
        return self._find(host) is not None

    def is_plaintext(self, host: str, port: int | None = None) -> bool:
        """Whether the configuration says that this host is spoken to without TLS. Never so for an unknown one.

        Args:
            host: the service.
            port: of the service; without one, whether that is so at each of its ports.
        """
        entry = self._find(host)
        return entry is not None and all(found.mode is TlsMode.DISABLE for found in entry.at(port))

    def ids(self, host: str, port: int | None = None) -> frozenset[SpiffeId]:
        """The SPIFFE IDs that may answer for a host, aliases included; never empty.

        Args:
            host: the service.
            port: of the service; without one, who may answer at every port that is under the mesh's own TLS.

        Raises:
            SvidError: ``unknown_service``: the mesh does not name the host; ``no_identity_named``: it names nobody
                for it. Istio lets anyone in the mesh answer then; here nobody may. ``foreign_tls``: its server shows
                a certificate of the Web, as a DestinationRule says, which none of ours can judge.
        """
        entry = self._find(host)
        if entry is None:
            raise SvidError(f"the mesh names no service {host[:80]!a}{self._near(host)}", code="unknown_service")
        own = [found for found in entry.at(port) if found.mode not in _FOREIGN]
        if not own:
            mode = entry.at(port)[0].mode
            raise SvidError(f"{host[:80]!a} is under TLS mode {mode}, not the mesh's own", code="foreign_tls")
        ids = frozenset(own[0].ids).intersection(*(found.ids for found in own[1:]))
        if not ids:
            raise SvidError(f"the mesh names no identity for {host[:80]!a}", code="no_identity_named")
        return ids

    def server_name(self, host: str, port: int) -> str:
        """The TLS server name to send to a host: its own, unless a DestinationRule has another one.

        A certificate is judged by what was asked for (:meth:`authorize`), never by what was sent.
        """
        entry = self._find(host)
        return (entry.at(port)[0].sni if entry else "") or host

    def endpoints(self, host: str, port: int) -> tuple[tuple[str, int], ...]:
        """Where to dial, in the order to try: (address, port). The host itself where no endpoint is listed.

        Says nothing about who answers there: whoever dials must check with :meth:`authorize`.
        """
        entry = self._find(host)
        found = (entry.addresses.get(port) or entry.addresses.get(0)) if entry else ()
        return found or ((host, port),)

    def authorize(self, peer: SpiffeId, server_hostname: str | None, port: int | None = None) -> None:
        """Check who answered for a host.

        Args:
            peer: the **verified** ID of the server; that its certificate holds is not checked here.
            server_hostname: the host that was asked for.
            port: of the service, as for :meth:`ids`.

        Raises:
            SvidError: the host is unknown or was not told, nobody is named for it, or ``peer`` is somebody else
                (``peer_not_authorized``).
        """
        if server_hostname is None:
            raise SvidError("no host name was asked for, so nobody can be the right one", code="unknown_service")
        ids = self.ids(server_hostname, port)
        if peer not in ids:
            names = ", ".join(sorted(map(str, ids))[:5])
            raise SvidError(f"{peer} answered for {server_hostname}, expected is {names}", code="peer_not_authorized")

    def _find(self, host: str) -> Entry | None:
        """By its own name, else by the longest pattern it ends with."""
        key = _key(host)
        found = self._hosts.get(key)
        while found is None and key:
            key = key.partition(".")[2]
            found = self._hosts.get("*." + key if key else "*")
        return found if _key(host) else None

    def _near(self, host: str) -> str:
        near = get_close_matches(_key(host)[:253], self._hosts, n=3)
        return f"; near it are: {', '.join(near)}" if near else ""


def _key(host: str) -> str:
    """The key to look up; what is no host name has none that any service has."""
    try:
        return host_key(host)
    except ValueError:
        return ""


def _explicit(services: Mapping[str, Service], accounts: Accounts) -> Iterable[Entry]:
    seen: set[str] = set()
    for host, service in services.items():
        try:
            key = host_key(host)
            if key in seen:
                raise ValueError("another service has this name")
            seen.add(key)
            ids = accounts.expanded(dict.fromkeys(map(SpiffeId.parse, service.ids), (_SHORT_FORM,)))
            yield Entry(host=key, ids=ids, names=(key,), addresses={0: service.addresses})
        except (ValueError, SpiffeIdError) as error:
            accounts.problems.append(Problem(str(error), source="<services>", field=f"services[{host[:80]!a}]"))
