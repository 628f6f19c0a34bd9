"""What the transports for httpx and httpx2 have in common: all but the classes that each library wants of its own.

Must not know: which of the two it serves.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from ..mesh import Mesh
from ..tls import MeshSSLContext
from ._services import Lease, Route, ServicePools, Tokens

__all__ = ["AsyncBody", "AsyncTransport", "Body", "Library", "Transport"]

_SCHEMES: Final = ("http", "https")


@dataclass(frozen=True, slots=True)
class Library:
    """Classes of one library.

    Attributes:
        headers: of a request.
        unsupported: raised for a URL of another scheme.
        unreached: what a transport raises where nobody answers at an address.
        body: a :class:`Body` or an :class:`AsyncBody`.
    """

    headers: Callable[[list[tuple[bytes, bytes]]], Any]
    unsupported: Callable[..., Exception]
    unreached: type[Exception]
    body: Callable[..., Any]


class _Calls:
    """Which pool a request belongs to, and what is sent to which address."""

    def __init__(
        self,
        mesh: Mesh,
        library: Library,
        make: Callable[[MeshSSLContext], Any],
        *,
        max_age: float,
        tokens: Tokens | None,
    ) -> None:
        self._library = library
        self._pools: ServicePools[Any] = ServicePools(
            mesh, lambda context, _: make(context), max_age=max_age, tokens=tokens
        )

    def _route(self, request: Any) -> Route:
        url = request.url
        if url.scheme not in _SCHEMES:
            raise self._library.unsupported("a mesh service is called over https", request=request)
        return self._pools.route(url.scheme, url.host, url.port)

    def _attempts(self, request: Any, route: Route, token: str | None) -> list[_Attempt]:
        """The same request to each endpoint; the Host header and the TLS server name stay the service's.

        The request itself stays as it is, so that no redirect that is made of it carries the token; what it says in
        Authorization comes first.
        """
        headers = request.headers
        if token is not None and "authorization" not in headers:
            headers = self._library.headers([*headers.raw, (b"authorization", f"Bearer {token}".encode())])
        return [_Attempt(request, headers, route, endpoint) for endpoint in route.endpoints]


class Transport(_Calls):
    """Comes before the library's own base class."""

    def handle_request(self, request: Any) -> Any:
        route = self._route(request)
        attempts = self._attempts(request, route, self._pools.token(route))
        lease = self._pools.lease(route)
        try:
            response = self._send(lease.pool, attempts)
        except BaseException:
            self._end(lease)
            raise
        response.stream = self._library.body(response.stream, self, lease)
        return response

    def _send(self, pool: Any, attempts: list[_Attempt]) -> Any:
        for attempt in attempts[:-1]:
            try:
                return pool.handle_request(attempt)
            except self._library.unreached:
                continue
        return pool.handle_request(attempts[-1])

    def close(self) -> None:
        for pool in self._pools.take_all():
            pool.close()

    def _end(self, lease: Lease[Any]) -> None:
        """A response's body has ended."""
        self._pools.release(lease)
        for pool in self._pools.take_closable():
            pool.close()


class AsyncTransport(_Calls):
    """The same for asyncio."""

    async def handle_async_request(self, request: Any) -> Any:
        route = self._route(request)
        attempts = self._attempts(request, route, await self._pools.token_async(route))
        lease = self._pools.lease(route)
        try:
            response = await self._send(lease.pool, attempts)
        except BaseException:
            await self._end(lease)
            raise
        response.stream = self._library.body(response.stream, self, lease)
        return response

    async def _send(self, pool: Any, attempts: list[_Attempt]) -> Any:
        for attempt in attempts[:-1]:
            try:
                return await pool.handle_async_request(attempt)
            except self._library.unreached:
                continue
        return await pool.handle_async_request(attempts[-1])

    async def aclose(self) -> None:
        for pool in self._pools.take_all():
            await pool.aclose()

    async def _end(self, lease: Lease[Any]) -> None:
        """A response's body has ended."""
        self._pools.release(lease)
        for pool in self._pools.take_closable():
            await pool.aclose()


class Body:
    """A response's body, whose end releases the pool it came from. Comes before the library's own base class."""

    def __init__(self, stream: Any, transport: Transport, lease: Lease[Any]) -> None:
        self._stream = stream
        self._transport = transport
        self._lease: Lease[Any] | None = lease

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        lease, self._lease = self._lease, None
        try:
            self._stream.close()
        finally:
            if lease is not None:
                self._transport._end(lease)


class AsyncBody:
    """The same for asyncio."""

    def __init__(self, stream: Any, transport: AsyncTransport, lease: Lease[Any]) -> None:
        self._stream = stream
        self._transport = transport
        self._lease: Lease[Any] | None = lease

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


class _Attempt:
    """A request to one endpoint. Made for each request, so without the URL being written and read again."""

    def __init__(self, request: Any, headers: Any, route: Route, endpoint: tuple[str, int]) -> None:
        self.method = request.method
        self.url = _Address(request.url, route.scheme, *endpoint)
        self.headers = headers
        self.stream = request.stream
        self.extensions = {**request.extensions, "sni_hostname": route.server_name}


class _Address:
    """A URL at another address: what transports read of it is here, everything else is the asked one's."""

    __slots__ = ("_asked", "port", "raw_host", "raw_scheme")

    def __init__(self, asked: Any, scheme: str, host: str, port: int) -> None:
        self._asked = asked
        self.raw_scheme = scheme.encode("ascii")
        self.raw_host = host.encode("ascii")
        self.port = port

    def __getattr__(self, name: str) -> Any:
        return getattr(self._asked, name)
