"""What every client needs of a mesh: where a service is reached, and the context that checks who answers."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

from ..mesh import Mesh

__all__ = ["ServicePools"]

Pool = TypeVar("Pool")


class ServicePools(Generic[Pool]):
    """One connection pool for each service.

    Two services may share an endpoint, and a connection that was checked for one of them must never carry the other's
    requests: so pools are kept by service name, not by address.
    """

    def __init__(self, mesh: Mesh, make: Callable[[ssl.SSLContext], Pool]) -> None:
        self._mesh = mesh
        self._context = mesh.client_context()
        self._make = make
        self._pools: dict[str, Pool] = {}
        self._lock = Lock()

    def pool(self, host: str) -> Pool:
        """The pool for one service; made on first use. The context checks the name at every handshake."""
        with self._lock:
            if host not in self._pools:
                self._pools[host] = self._make(self._context)
            return self._pools[host]

    def endpoints(self, host: str, port: int) -> tuple[tuple[str, int], ...]:
        """Where to dial, in the order to try. Raises SvidError for a host that the mesh does not name."""
        self._mesh.naming.ids(host)
        return self._mesh.naming.endpoints(host, port)

    def take_all(self) -> list[Pool]:
        """Every pool made so far, which the caller closes; later calls begin anew."""
        with self._lock:
            pools = list(self._pools.values())
            self._pools.clear()
            return pools
