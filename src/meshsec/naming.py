"""WHO SHOULD IT BE? Secure naming: a host → where it is dialled, and the SPIFFE IDs that may answer for it.

Belongs here: what Istio computes from services and their accounts, and trust domain aliases for it. Must not know:
sockets, TLS, DNS, or who the caller is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from .errors import ConfigError, Problem, SpiffeIdError, SvidError
from .resources import MeshConfig, Service, host_key
from .spiffe import SpiffeId, TrustDomain

__all__ = ["SecureNaming"]


class SecureNaming:
    """The services of a mesh, by host name; names are compared without case and without the dot at their end.

    Args:
        services: host name to who may answer for it and where it is reached. Short names are names like any other:
            ``reviews`` and ``reviews.prod`` are two hosts.
        config: for the mesh's trust domain and its aliases.

    Raises:
        ConfigError: a host name, a SPIFFE ID or an endpoint is malformed, or two keys name one host.
    """

    def __init__(self, services: Mapping[str, Service], config: MeshConfig) -> None:
        self._ids: dict[str, frozenset[SpiffeId]] = {}
        self._addresses: dict[str, tuple[tuple[str, int], ...]] = {}
        problems: list[Problem] = []
        for host, service in services.items():
            try:
                key = host_key(host)
                if key in self._ids:
                    raise ValueError("another service has this name")
                self._addresses[key] = service.addresses
                self._ids[key] = frozenset(_expand(map(SpiffeId.parse, service.ids), config))
            except (ValueError, SpiffeIdError) as error:
                problems.append(Problem(str(error), source="<services>", field=f"services[{host[:80]!a}]"))
        if problems:
            raise ConfigError(problems)

    def knows(self, host: str) -> bool:
        """Whether the mesh names this host; if not, its server cannot be told from an impostor."""
        return _key(host) in self._ids

    def ids(self, host: str) -> frozenset[SpiffeId]:
        """The SPIFFE IDs that may answer for a host, aliases included; never empty.

        Raises:
            SvidError: ``unknown_service``: the mesh does not name the host; ``no_identity_named``: it names nobody
                for it. Istio lets anyone in the mesh answer then; here nobody may.
        """
        ids = self._ids.get(_key(host))
        if ids is None:
            raise SvidError(f"the mesh names no service {host[:80]!a}{self._near(host)}", code="unknown_service")
        if not ids:
            raise SvidError(f"the mesh names no identity for {host[:80]!a}", code="no_identity_named")
        return ids

    def endpoints(self, host: str, port: int) -> tuple[tuple[str, int], ...]:
        """Where to dial, in the order to try: (address, port). The host itself where no endpoint is listed.

        Says nothing about who answers there: whoever dials must check with :meth:`authorize`.
        """
        return self._addresses.get(_key(host)) or ((host, port),)

    def authorize(self, peer: SpiffeId, server_hostname: str | None) -> None:
        """Check who answered for a host.

        Args:
            peer: the **verified** ID of the server; that its certificate holds is not checked here.
            server_hostname: the host that was asked for.

        Raises:
            SvidError: the host is unknown or was not told, nobody is named for it, or ``peer`` is somebody else
                (``peer_not_authorized``).
        """
        if server_hostname is None:
            raise SvidError("no host name was asked for, so nobody can be the right one", code="unknown_service")
        ids = self.ids(server_hostname)
        if peer not in ids:
            names = ", ".join(sorted(map(str, ids))[:5])
            raise SvidError(f"{peer} answered for {server_hostname}, expected is {names}", code="peer_not_authorized")

    def _near(self, host: str) -> str:
        near = get_close_matches(_key(host)[:253], self._ids, n=3)
        return f"; near it are: {', '.join(near)}" if near else ""


def _key(host: str) -> str:
    """The key to look up; what is no host name has none that any service has."""
    try:
        return host_key(host)
    except ValueError:
        return ""


def _expand(ids: Iterator[SpiffeId], config: MeshConfig) -> Iterator[SpiffeId]:
    """Each ID, and, where it is a service account's, its twins in the aliases of the mesh's trust domain.

    Istio makes these twins of foreign IDs too, so that our own old name could answer for a partner's service; here
    only the mesh's own are, unless Istio's reading is asked for.
    """
    aliases = config.trust_domain_aliases
    for spiffe_id in ids:
        yield spiffe_id
        own = spiffe_id.trust_domain.name in (config.trust_domain, *aliases)
        if spiffe_id.service_account is not None and (own or config.compatibility == "istio"):
            yield from (SpiffeId(TrustDomain(alias), spiffe_id.path) for alias in aliases)
