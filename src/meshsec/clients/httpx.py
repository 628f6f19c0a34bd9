"""Transports for httpx: ``https://reviews.prod/`` is dialled, authenticated and checked by the mesh.

``http://reviews.prod/`` is upgraded to the same mutual TLS, as a sidecar does; it stays plaintext only where the
configuration says so. Only services that the mesh names are reached; everything else is refused.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx

from ..mesh import Mesh
from ._services import MAX_AGE, Lease, Route, ServicePools, Tokens

__all__ = ["AsyncMeshTransport", "MeshTransport"]


class MeshTransport(httpx.BaseTransport):
    """For ``httpx.Client(transport=MeshTransport(mesh))``.

    Args:
        mesh: whose identity is presented, and whose secure naming is checked.
        max_age: for how many seconds a connection is given new requests; also ends when our certificate changes.
        tokens: which token travels along to which service.
        options: passed on to ``httpx.HTTPTransport`` (``http2``, ``limits``, ``retries``).
    """

    def __init__(self, mesh: Mesh, *, max_age: float = MAX_AGE, tokens: Tokens | None = None, **options: Any) -> None:
        self._pools = ServicePools(
            mesh,
            lambda context, _: httpx.HTTPTransport(verify=context, **options),
            max_age=max_age,
            tokens=tokens,
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        route = _route(self._pools, request)
        attempts = _attempts(request, route, self._pools.token(route))
        lease = self._pools.lease(route)
        try:
            response = _send(lease.pool, attempts)
        except BaseException:
            self._end(lease)
            raise
        response.stream = _Stream(response.stream, self, lease)
        return response

    def close(self) -> None:
        for pool in self._pools.take_all():
            pool.close()

    def _end(self, lease: Lease[httpx.HTTPTransport]) -> None:
        self._pools.release(lease)
        for pool in self._pools.take_closable():
            pool.close()


class AsyncMeshTransport(httpx.AsyncBaseTransport):
    """For ``httpx.AsyncClient(transport=AsyncMeshTransport(mesh))``. See :class:`MeshTransport`."""

    def __init__(self, mesh: Mesh, *, max_age: float = MAX_AGE, tokens: Tokens | None = None, **options: Any) -> None:
        self._pools = ServicePools(
            mesh,
            lambda context, _: httpx.AsyncHTTPTransport(verify=context, **options),
            max_age=max_age,
            tokens=tokens,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        route = _route(self._pools, request)
        attempts = _attempts(request, route, await self._pools.token_async(route))
        lease = self._pools.lease(route)
        try:
            response = await _send_async(lease.pool, attempts)
        except BaseException:
            await self._end(lease)
            raise
        response.stream = _AsyncStream(response.stream, self, lease)
        return response

    async def aclose(self) -> None:
        for pool in self._pools.take_all():
            await pool.aclose()

    async def _end(self, lease: Lease[httpx.AsyncHTTPTransport]) -> None:
        self._pools.release(lease)
        for pool in self._pools.take_closable():
            await pool.aclose()


class _Stream(httpx.SyncByteStream):
    """A response's body, whose end releases the pool it came from."""

    def __init__(self, stream: Any, transport: MeshTransport, lease: Lease[httpx.HTTPTransport]) -> None:
        self._stream = stream
        self._transport = transport
        self._lease: Lease[httpx.HTTPTransport] | None = lease

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        lease, self._lease = self._lease, None
        try:
            self._stream.close()
        finally:
            if lease is not None:
                self._transport._end(lease)


class _AsyncStream(httpx.AsyncByteStream):
    """The same for asyncio."""

    def __init__(self, stream: Any, transport: AsyncMeshTransport, lease: Lease[httpx.AsyncHTTPTransport]) -> None:
        self._stream = stream
        self._transport = transport
        self._lease: Lease[httpx.AsyncHTTPTransport] | None = lease

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        lease, self._lease = self._lease, None
        try:
            await self._stream.aclose()
        finally:
            if lease is not None:
                await self._transport._end(lease)


def _route(pools: ServicePools[Any], request: httpx.Request) -> Route:
    url = request.url
    if url.scheme not in ("http", "https"):
        raise httpx.UnsupportedProtocol("a mesh service is called over https", request=request)
    return pools.route(url.scheme, url.host, url.port)


def _attempts(request: httpx.Request, route: Route, token: str | None) -> list[httpx.Request]:
    """The same request to each endpoint; the Host header and the TLS server name stay the service's.

    The request itself stays as it is, so that no redirect that is made of it carries the token; what it says in
    Authorization comes first.
    """
    headers = request.headers
    if token is not None and "authorization" not in headers:
        headers = httpx.Headers([*headers.raw, (b"authorization", f"Bearer {token}".encode())])
    return [_Attempt(request, headers, route, endpoint) for endpoint in route.endpoints]


class _Attempt(httpx.Request):
    """A request to one endpoint. Made for each request, so without the URL being written and read again."""

    def __init__(
        self, request: httpx.Request, headers: httpx.Headers, route: Route, endpoint: tuple[str, int]
    ) -> None:
        self.method = request.method
        self.url: Any = _Address(request.url, route.scheme, *endpoint)
        self.headers = headers
        self.stream = request.stream
        self.extensions = {**request.extensions, "sni_hostname": route.server_name}


class _Address:
    """A URL at another address: what transports read of it is here, everything else is the asked one's."""

    __slots__ = ("_asked", "port", "raw_host", "raw_scheme")

    def __init__(self, asked: httpx.URL, scheme: str, host: str, port: int) -> None:
        self._asked = asked
        self.raw_scheme = scheme.encode("ascii")
        self.raw_host = host.encode("ascii")
        self.port = port

    def __getattr__(self, name: str) -> Any:
        return getattr(self._asked, name)


def _send(pool: httpx.HTTPTransport, attempts: list[httpx.Request]) -> httpx.Response:
    for attempt in attempts[:-1]:
        try:
            return pool.handle_request(attempt)
        except httpx.ConnectError:
            continue
    return pool.handle_request(attempts[-1])


async def _send_async(pool: httpx.AsyncHTTPTransport, attempts: list[httpx.Request]) -> httpx.Response:
    for attempt in attempts[:-1]:
        try:
            return await pool.handle_async_request(attempt)
        except httpx.ConnectError:
            continue
    return await pool.handle_async_request(attempts[-1])
