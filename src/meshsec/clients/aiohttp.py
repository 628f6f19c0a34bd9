"""A connector for aiohttp: ``aiohttp.ClientSession(connector=MeshConnector(mesh))``.

``http://`` URLs are upgraded to mutual TLS, as a sidecar does; they stay plaintext only where the configuration says
so. Only services that the mesh names are reached. Proxies of the environment have no say.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any, Final

import aiohttp
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from yarl import URL

from ..mesh import Mesh
from ..tls import MeshSSLContext
from ._services import MAX_AGE, Route, ServicePools, Tokens

__all__ = ["MeshConnector"]

_SCHEMES: Final = {"http": "http", "ws": "http", "https": "https", "wss": "https"}
_SECURE: Final = {"http": "https", "ws": "wss"}


class MeshConnector(aiohttp.BaseConnector):
    """Dials the endpoints of the mesh's services over mutual TLS and checks who answers.

    Made inside a running event loop, as every connector is.

    Args:
        mesh: whose identity is presented, and whose secure naming is checked.
        max_age: for how many seconds a connection is given new requests; also ends when our certificate changes.
        tokens: which token travels along to which service.
        options: passed on to the ``aiohttp.TCPConnector`` of each service (``limit``, ``keepalive_timeout``).
    """

    def __init__(self, mesh: Mesh, *, max_age: float = MAX_AGE, tokens: Tokens | None = None, **options: Any) -> None:
        super().__init__()
        self._options = options
        self._services = ServicePools(mesh, self._make, max_age=max_age, tokens=tokens)

    async def connect(self, req: ClientRequest, traces: Any, timeout: aiohttp.ClientTimeout) -> Connection:  # noqa: ASYNC109 - the signature is aiohttp's
        """A connection to a service, pooled or new."""
        if self.closed:
            raise aiohttp.ClientConnectionError("Connector is closed")
        if req.ssl is not True:
            raise ValueError("ssl= cannot be used in a mesh: who answers is always checked, by the mesh")
        services, url = self._services, req.url
        if url.scheme not in _SCHEMES:
            raise aiohttp.NonHttpUrlClientError(url)
        route = services.route(_SCHEMES[url.scheme], url.host or "", url.port)
        if services.carries_token(route):
            token = await services.token_async(route)
            if token is not None:
                req.headers.setdefault("Authorization", f"Bearer {token}")
        lease = services.lease(route)
        try:
            connection = await _dial(lease.pool, req, route, traces, timeout)
        except BaseException:
            services.release(lease)
            raise
        connection.add_callback(partial(services.release, lease))
        for pool in services.take_closable():
            await pool.close()
        return connection

    async def close(self, *, abort_ssl: bool = False) -> None:
        """Close every connection."""
        await super().close(abort_ssl=abort_ssl)
        for pool in self._services.take_all():
            await pool.close(abort_ssl=abort_ssl)

    def _make(self, context: MeshSSLContext, _route: Route) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(ssl=context, **self._options)


async def _dial(
    pool: aiohttp.TCPConnector,
    req: ClientRequest,
    route: Route,
    traces: Any,
    timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109
) -> Connection:
    """One endpoint after the other; the Host header, written before, and the TLS server name stay the service's."""
    req.proxy = None
    asked = req.url
    scheme = asked.scheme
    if route.ids is not None:
        scheme = _SECURE.get(scheme, scheme)
        req.server_hostname = route.server_name
    for endpoint in route.endpoints[:-1]:
        req.url = _readdressed(asked, scheme, endpoint)
        try:
            return await pool.connect(req, traces, timeout)
        except aiohttp.ClientConnectorError:
            continue
    req.url = _readdressed(asked, scheme, route.endpoints[-1])
    return await pool.connect(req, traces, timeout)


@lru_cache(256)
def _readdressed(asked: URL, scheme: str, endpoint: tuple[str, int]) -> URL:
    """As yarl itself remembers what it has read, and with it what aiohttp asks of a URL."""
    host, port = endpoint
    return asked.with_scheme(scheme).with_host(host).with_port(port)
