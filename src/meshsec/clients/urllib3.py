"""A pool manager for urllib3: ``MeshPoolManager(mesh).request("GET", "https://reviews.prod/")``.

``http://`` URLs are upgraded to mutual TLS, as a sidecar does; they stay plaintext only where the configuration says
so. Only services that the mesh names are reached. What other libraries build on urllib3 finds its pools here, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from urllib3 import HTTPConnectionPool, HTTPHeaderDict, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, URLSchemeUnknown
from urllib3.response import BaseHTTPResponse

from ..mesh import Mesh
from ..tls import MeshSSLContext
from ._services import MAX_AGE, Route, ServicePools, Tokens

__all__ = ["MeshPoolManager", "MeshPools"]

_Endpoints = tuple[tuple[str, int], ...]

# Whatever keeps a connection from being made; no byte of a request has left then.
_UNREACHABLE: Final = (OSError, HTTPError)


class MeshPools:
    """urllib3's connection pools, one for each service of the mesh.

    Args:
        mesh: whose identity is presented, and whose secure naming is checked.
        max_age: for how many seconds a connection is given new requests; also ends when our certificate changes.
        tokens: which token travels along to which service.
        options: of ``urllib3.HTTPSConnectionPool`` (``maxsize``, ``block``, ``timeout``, ``retries``).
    """

    def __init__(self, mesh: Mesh, *, max_age: float = MAX_AGE, tokens: Tokens | None = None, **options: Any) -> None:
        self._options = options
        self._services = ServicePools(mesh, self._make, max_age=max_age, tokens=tokens)

    def pool(self, scheme: str, host: str, port: int | None = None) -> HTTPConnectionPool:
        """The pool for a service.

        Raises:
            SvidError: the mesh does not name the host, or nobody for it.
        """
        if scheme not in ("http", "https"):
            raise URLSchemeUnknown(scheme)
        route = self._services.route(scheme, host.strip("[]"), port)
        # A pool closes its connections when nobody refers to it any more: what is under way comes to its end.
        self._services.take_closable()
        return self._services.current(route)

    def close(self) -> None:
        """Close every connection."""
        for pool in self._services.take_all():
            pool.close()

    def _make(self, context: MeshSSLContext, route: Route) -> HTTPConnectionPool:
        if route.ids is None:
            return _PlainPool(route.host, route.port, dialled=route.endpoints, **self._options)
        # Names are checked by our context, inside the handshake; a SPIFFE certificate has no DNS name to match.
        return _MutualPool(
            route.host,
            route.port,
            dialled=route.endpoints,
            ssl_context=context,
            server_hostname=route.server_name,
            assert_hostname=False,
            token=lambda: self._services.token(route),
            **self._options,
        )


class MeshPoolManager(PoolManager):
    """urllib3's ``PoolManager`` for services of the mesh. Takes the arguments of :class:`MeshPools`."""

    def __init__(self, mesh: Mesh, *, headers: Any = None, **options: Any) -> None:
        super().__init__(headers=headers)
        self._mesh_pools = MeshPools(mesh, **options)

    def connection_from_host(
        self, host: str | None, port: int | None = None, scheme: str | None = "http", pool_kwargs: Any = None
    ) -> HTTPConnectionPool:
        """The pool for a service."""
        if pool_kwargs:
            raise ValueError("a pool of the mesh is set up when its manager is made")
        return self._mesh_pools.pool(scheme or "http", host or "", port)

    def clear(self) -> None:
        """Close every connection."""
        self._mesh_pools.close()


class _PlainConnection(HTTPConnection):
    """To a service that is spoken to without TLS."""

    def __init__(self, *arguments: Any, dialled: _Endpoints, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._dialled = dialled

    def connect(self) -> None:
        _connect(self, super().connect, self._dialled)


class _MutualConnection(HTTPSConnection):
    """To a service over mutual TLS."""

    def __init__(self, *arguments: Any, dialled: _Endpoints, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._dialled = dialled
        if self.port == HTTPConnection.default_port:
            self.default_port = self.port  # type: ignore[misc] # the upgraded URL named no port: nor does Host

    def connect(self) -> None:
        _connect(self, super().connect, self._dialled)


def _connect(connection: HTTPConnection, connect: Callable[[], None], dialled: _Endpoints) -> None:
    """Dial one endpoint after the other; the first that answers and may answer is it."""
    host, port = connection.host, connection.port
    try:
        for connection.host, connection.port in dialled[:-1]:
            try:
                return connect()
            except _UNREACHABLE:
                connection.close()
        connection.host, connection.port = dialled[-1]
        return connect()
    finally:
        # Everything else about a connection is the service's: its name in the Host header above all.
        connection.host, connection.port = host, port


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection  # pyright: ignore[reportAssignmentType] # its Final is no protocol member


class _MutualPool(HTTPSConnectionPool):
    """One service's connections; its requests carry the service's token."""

    ConnectionCls = _MutualConnection  # pyright: ignore[reportAssignmentType]

    def __init__(self, *arguments: Any, token: Callable[[], str | None], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._token = token

    def urlopen(
        self, method: str, url: str, body: Any = None, headers: Any = None, *rest: Any, **options: Any
    ) -> BaseHTTPResponse:
        headers = self.headers if headers is None else headers
        token = self._token()
        if token is not None:
            # A copy: what a redirect is made of stays without the token. What the request itself says comes first.
            headers = HTTPHeaderDict(headers)
            headers.setdefault("Authorization", f"Bearer {token}")
        return super().urlopen(method, url, body, headers, *rest, **options)
