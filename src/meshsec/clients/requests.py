"""An adapter for requests: ``session.mount("https://", MeshAdapter(mesh))``.

Mounted at ``http://`` too, it upgrades plain URLs to mutual TLS, as a sidecar does; they stay plaintext only where
the configuration says so. Only services that the mesh names are reached. ``verify=`` and proxies of the environment
have no say: who answers is checked by secure naming, always.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from requests.adapters import HTTPAdapter
from requests.models import PreparedRequest
from urllib3.connectionpool import ConnectionPool

from ..mesh import Mesh
from ._services import MAX_AGE, Tokens
from .urllib3 import MeshPools

__all__ = ["MeshAdapter"]


class MeshAdapter(HTTPAdapter):
    """Dials the endpoints of the mesh's services over mutual TLS and checks who answers.

    Args:
        mesh: whose identity is presented, and whose secure naming is checked.
        max_age: for how many seconds a connection is given new requests; also ends when our certificate changes.
        tokens: which token travels along to which service.
        options: passed on to ``requests.adapters.HTTPAdapter``.
    """

    def __init__(self, mesh: Mesh, *, max_age: float = MAX_AGE, tokens: Tokens | None = None, **options: Any) -> None:
        self._make_pools = partial(MeshPools, mesh, max_age=max_age, tokens=tokens)
        super().__init__(**options)

    def init_poolmanager(
        self,
        connections: int,
        maxsize: int,
        block: bool = False,  # noqa: FBT001, FBT002 - the signature is requests'
        **options: Any,
    ) -> None:
        """Every service has a pool of its own; requests' single manager stays empty."""
        self._pools = self._make_pools(maxsize=maxsize, block=block, **options)
        super().init_poolmanager(connections, maxsize, block, **options)

    def get_connection_with_tls_context(
        self,
        request: PreparedRequest,
        verify: Any,
        proxies: Any = None,  # noqa: ARG002 - the mesh is dialled directly
        cert: Any = None,  # noqa: ARG002 - our SVID is in the context
    ) -> ConnectionPool:
        """The service's pool."""
        if verify is False:
            raise ValueError("verify=False cannot be used in a mesh: who answers is always checked")
        url = urlsplit(request.url or "")
        return self._pools.pool(url.scheme, url.hostname or "", url.port)

    def request_url(self, request: PreparedRequest, proxies: Mapping[str, str] | None) -> str:  # noqa: ARG002
        """As without a proxy."""
        return str(super().request_url(request, {}))

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Nothing: requests would load the Web's authorities here; ours are in the context."""

    def add_headers(self, request: PreparedRequest, **kwargs: Any) -> None:  # noqa: ARG002 - requests passes its own options
        """Name the service in the Host header as the URL does, whatever port it is upgraded to."""
        request.headers.setdefault("Host", urlsplit(request.url or "").netloc.rpartition("@")[2])

    def close(self) -> None:
        """Close every connection."""
        self._pools.close()
        super().close()
