"""What every client needs of a mesh: how a service is reached, and pools that do not outlive what they stand on.

Must not know: any one client.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Final, Generic, TypeVar

from ..mesh import Mesh
from ..spiffe import SpiffeId
from ..tls import MeshSSLContext, TlsMaterial

__all__ = ["MAX_AGE", "Lease", "Route", "ServicePools"]

MAX_AGE: Final = 600.0
"""How long a pooled connection is given new requests, in seconds."""

_PORTS: Final = {"http": 80, "https": 443}

Pool = TypeVar("Pool")


@dataclass(frozen=True, slots=True)
class Route:
    """How a service is reached.

    Attributes:
        host: the service, as it was asked for.
        endpoints: where to dial, in the order to try.
        ids: who may answer; None where the configuration says that it is plaintext.
    """

    host: str
    endpoints: tuple[tuple[str, int], ...]
    ids: frozenset[SpiffeId] | None

    @property
    def scheme(self) -> str:
        """How it is spoken to: ``http`` only where the configuration says so."""
        return "http" if self.ids is None else "https"


@dataclass(slots=True, eq=False)
class Lease(Generic[Pool]):
    """One pool, and what it stands on: who we were when it was made, and who might answer."""

    pool: Pool
    born: float
    material: TlsMaterial | None
    ids: frozenset[SpiffeId] | None
    users: int = 0
    retired: bool = False


class ServicePools(Generic[Pool]):
    """One connection pool for each service.

    Two services may share an endpoint, and a connection that was checked for one of them must never carry the other's
    requests: so pools are kept by service name, not by address. A pool is replaced when our certificate, an authority
    or the service's IDs changed, and after some time; the old one ends with its last request, which nothing cuts off.

    Args:
        mesh: whose identity and naming.
        make: makes a pool whose connections use the context.
        max_age: after how many seconds a pool is replaced.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        mesh: Mesh,
        make: Callable[[MeshSSLContext], Pool],
        *,
        max_age: float = MAX_AGE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mesh = mesh
        self._context = mesh.client_context()
        self._make = make
        self._max_age = max_age
        self._clock = clock
        self._leases: dict[str, Lease[Pool]] = {}
        self._closable: list[Pool] = []
        self._lock = Lock()

    def route(self, scheme: str, host: str, port: int | None) -> Route:
        """How to reach a service: over mTLS whatever the scheme, as a sidecar would.

        Raises:
            SvidError: the mesh does not name the host, or nobody for it.
        """
        naming = self._mesh.naming
        plain = scheme == "http" and naming.is_plaintext(host)
        ids = None if plain else naming.ids(host)
        return Route(host, naming.endpoints(host, port or _PORTS[scheme]), ids)

    def lease(self, route: Route) -> Lease[Pool]:
        """The pool for one service, made on first use and after every change; the caller releases it once."""
        with self._lock:
            lease = self._leases.get(route.host)
            if lease is None or not self._holds(lease, route):
                if lease is not None:
                    self._retire(lease)
                pool = self._make(self._context)
                lease = Lease(pool, self._clock(), self._context.snapshot(), route.ids)
                self._leases[route.host] = lease
            lease.users += 1
            return lease

    def release(self, lease: Lease[Pool]) -> None:
        """A request has ended."""
        with self._lock:
            lease.users -= 1
            if lease.retired and not lease.users:
                self._closable.append(lease.pool)

    def take_closable(self) -> list[Pool]:
        """Pools that are out of use, which the caller closes."""
        with self._lock:
            pools, self._closable = self._closable, []
            return pools

    def take_all(self) -> list[Pool]:
        """Every pool that is not closed yet, which the caller closes; later calls begin anew."""
        with self._lock:
            pools = [*self._closable, *(lease.pool for lease in self._leases.values())]
            self._closable = []
            self._leases.clear()
            return pools

    def _holds(self, lease: Lease[Pool], route: Route) -> bool:
        young = self._clock() - lease.born < self._max_age
        return young and lease.ids == route.ids and lease.material is self._context.snapshot()

    def _retire(self, lease: Lease[Pool]) -> None:
        lease.retired = True
        if not lease.users:
            self._closable.append(lease.pool)
