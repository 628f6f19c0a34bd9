"""An adapter for requests: ``session.mount("https://", MeshAdapter(mesh))``.

Mounted at ``http://`` too, it upgrades plain URLs to mutual TLS, as a sidecar does; they stay plaintext only where
the configuration says so. Only services that the mesh names are reached. ``verify=`` and proxies of the environment
have no say: who answers is checked by secure naming, always.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from requests.adapters import HTTPAdapter
from requests.models import PreparedRequest
from urllib3 import PoolManager
from urllib3.connectionpool import ConnectionPool

from ..mesh import Mesh
from ..tls import MeshSSLContext
from ._services import MAX_AGE, ServicePools

__all__ = ["MeshAdapter"]


class MeshAdapter(HTTPAdapter):
    """Dials the endpoints of the mesh's services over mutual TLS and checks who answers.

    Args:
        mesh: whose identity is presented, and whose secure naming is checked.
        max_age: for how many seconds a connection is given new requests; also ends when our certificate changes.
        options: passed on to ``requests.adapters.HTTPAdapter``.
    """

    def __init__(self, mesh: Mesh, *, max_age: float = MAX_AGE, **options: Any) -> None:
        self._options: dict[str, Any] = {}
        self._pools = ServicePools(mesh, self._made, max_age=max_age)
        super().__init__(**options)

    def init_poolmanager(
        self,
        connections: int,
        maxsize: int,
        block: bool = False,  # noqa: FBT001, FBT002 - the signature is requests'
        **options: Any,
    ) -> None:
        """Every service has a manager of its own; requests' single one stays empty."""
        self._options = {"num_pools": connections, "maxsize": maxsize, "block": block, **options}
        super().init_poolmanager(connections, maxsize, block, **options)

    def get_connection_with_tls_context(
        self,
        request: PreparedRequest,
        verify: Any,
        proxies: Any = None,  # noqa: ARG002 - the mesh is dialled directly
        cert: Any = None,  # noqa: ARG002 - our SVID is in the context
    ) -> ConnectionPool:
        """A pool for the service's first endpoint."""
        if verify is False:
            raise ValueError("verify=False cannot be used in a mesh: who answers is always checked")
        url = urlsplit(request.url or "")
        route = self._pools.route(url.scheme, url.hostname or "", url.port)
        lease = self._pools.lease(route)
        # urllib3 closes a connection of a cleared manager when its request has ended: no need to wait for that.
        self._pools.release(lease)
        for manager in self._pools.take_closable():
            manager.clear()
        address, port = route.endpoints[0]
        named = {"server_hostname": route.host, "assert_hostname": False} if route.ids is not None else {}
        pool: ConnectionPool = lease.pool.connection_from_host(address, port, route.scheme, pool_kwargs=named)
        return pool

    def request_url(self, request: PreparedRequest, proxies: Mapping[str, str] | None) -> str:  # noqa: ARG002
        """As without a proxy."""
        return str(super().request_url(request, {}))

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Nothing: requests would load the Web's authorities here; ours are in the context."""

    def add_headers(self, request: PreparedRequest, **kwargs: Any) -> None:  # noqa: ARG002 - requests passes its own options
        """Name the service in the Host header, not the address that is dialled."""
        request.headers.setdefault("Host", urlsplit(request.url or "").netloc.rpartition("@")[2])

    def close(self) -> None:
        """Close every connection."""
        for manager in self._pools.take_all():
            manager.clear()
        super().close()

    def _made(self, context: MeshSSLContext) -> PoolManager:
        # Names are checked by our context, inside the handshake; a SPIFFE certificate has no DNS name to match.
        return PoolManager(ssl_context=context, **self._options)
