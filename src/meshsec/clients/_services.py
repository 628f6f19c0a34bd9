"""What every client needs of a mesh: how a service is reached, and pools that do not outlive what they stand on.

Must not know: any one client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import Final, Generic, TypeVar

from ..mesh import Mesh
from ..naming import SecureNaming
from ..resources import host_key
from ..spiffe import SpiffeId
from ..tls import MeshSSLContext, TlsMaterial
from ._tokens import TokenSource

__all__ = ["MAX_AGE", "Lease", "Route", "ServicePools", "Tokens", "dial"]

MAX_AGE: Final = 600.0
"""How long a pooled connection is given new requests, in seconds."""

Tokens = Mapping[str, TokenSource]
"""Which token travels along to which service."""

_PORTS: Final = {"http": 80, "https": 443}
_MOST: Final = 1024
"""How many services are remembered: a pattern of hosts may name any number of them."""

_DIAL_SECONDS: Final = 10.0

Pool = TypeVar("Pool")
Connection = TypeVar("Connection")


@dataclass(frozen=True, slots=True)
class Route:
    """How a service is reached.

    Attributes:
        host: the service, as it was asked for.
        port: of the service; it may be another one where it is dialled.
        endpoints: where to dial, in the order to try.
        ids: who may answer; None where the configuration says that it is plaintext.
        server_name: what is sent as TLS server name; who answers is judged by ``host`` all the same.
    """

    host: str
    port: int
    endpoints: tuple[tuple[str, int], ...]
    ids: frozenset[SpiffeId] | None
    server_name: str

    @property
    def scheme(self) -> str:
        """How it is spoken to: ``http`` only where the configuration says so."""
        return "http" if self.ids is None else "https"

    @property
    def authority(self) -> str:
        """What a request over TLS says that it goes to (RFC 9113 section 8.3.1)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS["https"] else f"{host}:{self.port}"


async def dial(route: Route, connect: Callable[[str, int], Awaitable[Connection]]) -> Connection:
    """One endpoint after the other; the first that answers and may answer is it. Raises OSError of the last."""
    for endpoint in route.endpoints[:-1]:
        with suppress(OSError):
            return await _in_time(connect(*endpoint))
    return await _in_time(connect(*route.endpoints[-1]))


async def _in_time(connecting: Awaitable[Connection]) -> Connection:
    async with asyncio.timeout(_DIAL_SECONDS):
        return await connecting


@dataclass(slots=True, eq=False)
class Lease(Generic[Pool]):
    """One pool, and what it stands on: who we were when it was made, where it leads, and who might answer."""

    pool: Pool
    born: float
    material: TlsMaterial | None
    route: Route
    users: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Routes:
    """The routes that one table of names has led to."""

    naming: SecureNaming
    found: dict[tuple[str, str, int | None], Route] = field(default_factory=dict)


class ServicePools(Generic[Pool]):
    """One connection pool for each service.

    Two services may share an endpoint, and a connection that was checked for one of them must never carry the other's
    requests: so pools are kept by the service's name and port, not by address. A pool is replaced when our
    certificate, an authority, or what the mesh says of the service changed, and after some time; the old one ends
    with its last request, which nothing cuts off.

    Args:
        mesh: whose identity and naming.
        make: makes a pool whose connections use the context and reach that service.
        max_age: after how many seconds a pool is replaced.
        tokens: by service, the token that its requests carry.
        clock: seconds that never go back.

    Attributes:
        has_tokens: whether any service is listed for one.
    """

    def __init__(
        self,
        mesh: Mesh,
        make: Callable[[MeshSSLContext, Route], Pool],
        *,
        max_age: float = MAX_AGE,
        tokens: Tokens | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mesh = mesh
        self._context = mesh.client_context()
        self._make = make
        self._max_age = max_age
        self._clock = clock
        self._tokens = {host_key(host): source for host, source in (tokens or {}).items()}
        self.has_tokens = bool(self._tokens)
        self._leases: dict[tuple[str, int], Lease[Pool]] = {}
        self._retired: set[Lease[Pool]] = set()  # and still in use
        self._routes = _Routes(mesh.naming)
        self._closable: list[Pool] = []
        self._lock = Lock()

    def route(self, scheme: str, host: str, port: int | None) -> Route:
        """How to reach a service: over mTLS whatever the scheme, as a sidecar would.

        Raises:
            SvidError: the mesh does not name the host, or nobody for it.
        """
        naming, known = self._mesh.naming, self._routes
        if known.naming is not naming:
            known = self._routes = _Routes(naming)
        route = known.found.get((scheme, host, port))
        if route is None:
            if len(known.found) >= _MOST:
                known.found.clear()
            route = known.found[scheme, host, port] = self._route(naming, scheme, host, port)
        return route

    def _route(self, naming: SecureNaming, scheme: str, host: str, port: int | None) -> Route:
        asked = port or _PORTS[scheme]
        plain = scheme == "http" and naming.is_plaintext(host, asked)
        ids = None if plain else naming.ids(host, asked)
        return Route(host, asked, naming.endpoints(host, asked), ids, naming.server_name(host, asked))

    def token(self, route: Route) -> str | None:
        """What a request for the service carries, waiting for it if need be; nothing ever to a plain one."""
        source = self._source(route)
        return source.token() if source else None

    async def token_async(self, route: Route) -> str | None:
        """As :meth:`token`, without blocking the event loop."""
        source = self._source(route)
        return (source.at_hand() or await asyncio.to_thread(source.token)) if source else None

    def _source(self, route: Route) -> TokenSource | None:
        return self._tokens.get(host_key(route.host)) if self.has_tokens and route.ids is not None else None

    def lease(self, route: Route) -> Lease[Pool]:
        """The pool for one service, made on first use and after every change; the caller releases it once."""
        with self._lock:
            key = (route.host, route.port)
            lease = self._leases.get(key)
            if lease is None or not self._holds(lease, route):
                if lease is None and len(self._leases) >= _MOST:
                    lease = self._leases.pop(next(iter(self._leases)))
                if lease is not None:
                    self._retire(lease)
                material = self._context.snapshot()  # before the pool: a change in between is seen next time
                lease = Lease(self._make(self._context_for(route), route), self._clock(), material, route)
                self._leases[key] = lease
            lease.users += 1
            return lease

    def current(self, route: Route) -> Pool:
        """As :meth:`lease`, for who sees to it by himself that a pool which is closable ends no request."""
        lease = self._leases.get((route.host, route.port))
        if lease is None or not self._holds(lease, route):
            lease = self.lease(route)
            self.release(lease)
        return lease.pool

    def release(self, lease: Lease[Pool]) -> None:
        """A request has ended."""
        with self._lock:
            lease.users -= 1
            if not lease.users and lease in self._retired:
                self._retired.remove(lease)
                self._closable.append(lease.pool)

    def take_closable(self) -> list[Pool]:
        """Pools that are out of use, which the caller closes."""
        if not self._closable:
            return []
        with self._lock:
            pools, self._closable = self._closable, []
            return pools

    def take_all(self) -> list[Pool]:
        """Every pool that is not closed yet, which the caller closes; later calls begin anew."""
        with self._lock:
            pools = [*self._closable, *(lease.pool for lease in (*self._leases.values(), *self._retired))]
            self._closable = []
            self._leases.clear()
            self._retired.clear()
            return pools

    def _context_for(self, route: Route) -> MeshSSLContext:
        """Whatever server name is sent: who answers is who may answer for the service, at that port."""
        host, port = route.host, route.port
        return self._mesh.client_context(lambda peer, _sent: self._mesh.naming.authorize(peer, host, port))

    def _holds(self, lease: Lease[Pool], route: Route) -> bool:
        young = self._clock() - lease.born < self._max_age
        same = lease.route is route or lease.route == route
        return young and same and lease.material is self._context.snapshot()

    def _retire(self, lease: Lease[Pool]) -> None:
        if lease.users:
            self._retired.add(lease)
        else:
            self._closable.append(lease.pool)
