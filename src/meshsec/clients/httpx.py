"""Transports for httpx: ``https://reviews.prod/`` is dialled, authenticated and checked by the mesh.

Only services that the mesh names are reached; everything else is refused, plain HTTP included.
"""

from __future__ import annotations

from typing import Any, Final

import httpx

from ..mesh import Mesh
from ._services import ServicePools

__all__ = ["AsyncMeshTransport", "MeshTransport"]

_HTTPS: Final = 443


class MeshTransport(httpx.BaseTransport):
    """For ``httpx.Client(transport=MeshTransport(mesh))``.

    Args:
        mesh: whose identity is presented, and whose secure naming is checked.
        options: passed on to ``httpx.HTTPTransport`` (``http2``, ``limits``, ``retries``).
    """

    def __init__(self, mesh: Mesh, **options: Any) -> None:
        self._pools = ServicePools(mesh, lambda context: httpx.HTTPTransport(verify=context, **options))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        host, endpoints = _dialled(self._pools, request)
        for endpoint in endpoints[:-1]:
            try:
                return self._pools.pool(host).handle_request(_readdressed(request, endpoint))
            except httpx.ConnectError:
                continue
        return self._pools.pool(host).handle_request(_readdressed(request, endpoints[-1]))

    def close(self) -> None:
        for pool in self._pools.take_all():
            pool.close()


class AsyncMeshTransport(httpx.AsyncBaseTransport):
    """For ``httpx.AsyncClient(transport=AsyncMeshTransport(mesh))``. See :class:`MeshTransport`."""

    def __init__(self, mesh: Mesh, **options: Any) -> None:
        self._pools = ServicePools(mesh, lambda context: httpx.AsyncHTTPTransport(verify=context, **options))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host, endpoints = _dialled(self._pools, request)
        for endpoint in endpoints[:-1]:
            try:
                return await self._pools.pool(host).handle_async_request(_readdressed(request, endpoint))
            except httpx.ConnectError:
                continue
        return await self._pools.pool(host).handle_async_request(_readdressed(request, endpoints[-1]))

    async def aclose(self) -> None:
        for pool in self._pools.take_all():
            await pool.aclose()


def _dialled(pools: ServicePools[Any], request: httpx.Request) -> tuple[str, tuple[tuple[str, int], ...]]:
    if request.url.scheme != "https":
        raise httpx.UnsupportedProtocol("a mesh service is called over https", request=request)
    host = request.url.host
    return host, pools.endpoints(host, request.url.port or _HTTPS)


def _readdressed(request: httpx.Request, endpoint: tuple[str, int]) -> httpx.Request:
    """The same request to another address; the Host header and the TLS server name stay the service's."""
    host, port = endpoint
    return httpx.Request(
        request.method,
        request.url.copy_with(host=host, port=port),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": request.url.host},
    )
