"""A connector for aiohttp: ``aiohttp.ClientSession(connector=MeshConnector(mesh))``.

``http://`` URLs are upgraded to mutual TLS, as a sidecar does; they stay plaintext only where the configuration says
so. Only services that the mesh names are reached. Proxies of the environment have no say.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from yarl import URL

from ..mesh import Mesh
from ..tls import MeshSSLContext
from ._services import MAX_AGE, Route, ServicePools, Tokens

__all__ = ["MeshConnector"]

_SCHEMES: Final = {"http": "http", "ws": "http", "https": "https", "wss": "https"}
_SECURE: Final = {"http": "https", "ws": "wss"}


@dataclass(slots=True, eq=False)
class _Way:
    """Where a context leads: aiohttp keeps connections of different contexts apart.

    Attributes:
        route: how the service is reached.
        made: the connections that are open, each with its transport, which aiohttp forgets when it closes one.
        retired: whether another context has taken this one's place.
    """

    route: Route
    made: WeakKeyDictionary[ResponseHandler, asyncio.Transport] = field(default_factory=WeakKeyDictionary)
    retired: bool = False


class MeshConnector(aiohttp.TCPConnector):
    """Dials the endpoints of the mesh's services over mutual TLS and checks who answers.

    Made inside a running event loop, as every connector is.

    Args:
        mesh: whose identity is presented, and whose secure naming is checked.
        max_age: for how many seconds a connection is given new requests; also ends when our certificate changes.
        tokens: which token travels along to which service.
        options: of ``aiohttp.TCPConnector`` (``limit``, ``limit_per_host``, ``keepalive_timeout``), but ``ssl``.
    """

    def __init__(self, mesh: Mesh, *, max_age: float = MAX_AGE, tokens: Tokens | None = None, **options: Any) -> None:
        super().__init__(ssl=mesh.client_context(), **options)
        self._services = ServicePools(mesh, self._make, max_age=max_age, tokens=tokens)
        self._ways: WeakKeyDictionary[MeshSSLContext, _Way] = WeakKeyDictionary()

    async def connect(self, req: ClientRequest, traces: Any, timeout: aiohttp.ClientTimeout) -> Connection:  # noqa: ASYNC109 - the signature is aiohttp's
        """A connection to a service, pooled or new."""
        if self.closed:
            raise aiohttp.ClientConnectionError("Connector is closed")
        if req.ssl is not True:
            raise ValueError("ssl= cannot be used in a mesh: who answers is always checked, by the mesh")
        services, asked = self._services, req.url
        scheme = asked.scheme
        if scheme not in _SCHEMES:
            raise aiohttp.NonHttpUrlClientError(asked)
        route = services.route(_SCHEMES[scheme], asked.host or "", asked.port)
        if services.has_tokens:
            token = await services.token_async(route)
            if token is not None:
                req.headers.setdefault("Authorization", f"Bearer {token}")
        req.proxy = None
        if route.ids is not None:
            req.server_hostname = route.server_name
            if scheme in _SECURE:
                req.url = _secured(asked)
        req._ssl = services.current(route)
        for retired in services.take_closable():
            self._retire(retired)
        try:
            return await super().connect(req, traces, timeout)
        finally:
            req.url, req._ssl = asked, True  # a middleware may send it again

    async def close(self, *, abort_ssl: bool = False) -> None:
        """Close every connection."""
        await super().close(abort_ssl=abort_ssl)
        # One that is ending already, as a websocket's, is waited for by nobody, and the loop may end before it does.
        left = [pair for way in self._ways.values() for pair in way.made.items()]
        for _, transport in left:
            transport.abort()
        await asyncio.gather(*(it.closed for it, _ in left if it.closed is not None), return_exceptions=True)

    async def _create_connection(
        self,
        req: ClientRequest,
        traces: Any,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109
    ) -> ResponseHandler:
        way: _Way = self._ways[req.ssl]  # type: ignore[index]
        connection = await self._dial(way.route, req, traces, timeout)
        if connection.transport is not None:
            way.made[connection] = connection.transport
        if way.retired:
            connection.force_close()
        return connection

    async def _dial(
        self,
        route: Route,
        req: ClientRequest,
        traces: Any,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109
    ) -> ResponseHandler:
        """One endpoint after the other; the Host header, written before, and the server name stay the service's."""
        asked = req.url
        for endpoint in route.endpoints[:-1]:
            req.url = _readdressed(asked, endpoint)
            try:
                return await super()._create_connection(req, traces, timeout)
            except aiohttp.ClientConnectorError:
                continue
        req.url = _readdressed(asked, route.endpoints[-1])
        return await super()._create_connection(req, traces, timeout)

    def _make(self, context: MeshSSLContext, route: Route) -> MeshSSLContext:
        self._ways[context] = _Way(route)
        return context

    def _retire(self, context: MeshSSLContext) -> None:
        """Its connections end: those in use with their response, the others now."""
        way = self._ways[context]
        way.retired = True
        for connection in list(way.made):
            if connection in self._acquired:
                connection.force_close()
            else:
                connection.close()


@lru_cache(256)
def _secured(asked: URL) -> URL:
    """As yarl itself remembers what it has read, and with it what aiohttp asks of a URL."""
    return asked.with_scheme(_SECURE[asked.scheme])


def _readdressed(asked: URL, endpoint: tuple[str, int]) -> URL:
    host, port = endpoint
    return asked.with_host(host).with_port(port)
