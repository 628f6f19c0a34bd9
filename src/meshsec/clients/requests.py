"""An adapter for requests: ``session.mount("https://", MeshAdapter(mesh))``.

Only services that the mesh names are reached. ``verify=`` and proxies of the environment have no say: who answers is
checked by secure naming, always.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from requests.adapters import HTTPAdapter
from requests.models import PreparedRequest
from urllib3.connectionpool import ConnectionPool

from ..mesh import Mesh

__all__ = ["MeshAdapter"]


class MeshAdapter(HTTPAdapter):
    """Dials the endpoints of the mesh's services over mutual TLS and checks who answers.

    Args:
        mesh: whose identity is presented, and whose secure naming is checked.
        options: passed on to ``requests.adapters.HTTPAdapter``.
    """

    def __init__(self, mesh: Mesh, **options: Any) -> None:
        self._mesh = mesh
        self._context = mesh.client_context()
        super().__init__(**options)

    def get_connection_with_tls_context(
        self,
        request: PreparedRequest,
        verify: Any,
        proxies: Any = None,  # noqa: ARG002 - the mesh is dialled directly
        cert: Any = None,  # noqa: ARG002 - our SVID is in the context
    ) -> ConnectionPool:
        """A pool for the service's first endpoint; urllib3 keeps pools apart by ``server_hostname``."""
        if verify is False:
            raise ValueError("verify=False cannot be used in a mesh: who answers is always checked")
        url = urlsplit(request.url or "")
        host = url.hostname or ""
        self._mesh.naming.ids(host)
        address, port = self._mesh.naming.endpoints(host, url.port or 443)[0]
        context = {
            "ssl_context": self._context,
            "server_hostname": host,
            # Names are checked by our context, inside the handshake; a SPIFFE certificate has no DNS name to match.
            "assert_hostname": False,
        }
        pool: ConnectionPool = self.poolmanager.connection_from_host(
            address, port, scheme="https", pool_kwargs=context
        )
        return pool

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Nothing: requests would load the Web's authorities here; ours are in the context."""

    def add_headers(self, request: PreparedRequest, **kwargs: Any) -> None:  # noqa: ARG002 - requests passes its own options
        """Name the service in the Host header, not the address that is dialled."""
        request.headers.setdefault("Host", urlsplit(request.url or "").netloc.rpartition("@")[2])
