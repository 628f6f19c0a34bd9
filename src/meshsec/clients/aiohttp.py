"""A connector for aiohttp: ``aiohttp.ClientSession(connector=MeshConnector(mesh))``.

``http://`` URLs are upgraded to mutual TLS, as a sidecar does; they stay plaintext only where the configuration says
so. Only services that the mesh names are reached. ``ssl=`` and proxies of the environment have no say.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection

from ..mesh import Mesh
from ..tls import MeshSSLContext
from ._services import MAX_AGE, ServicePools

__all__ = ["MeshConnector"]


class MeshConnector(aiohttp.TCPConnector):
    """Dials the endpoints of the mesh's services over mutual TLS and checks who answers.

    Made inside a running event loop, as every connector is.

    Args:
        mesh: whose identity is presented, and whose secure naming is checked.
        max_age: for how many seconds a connection is given new requests; also ends when our certificate changes.
        options: passed on to ``aiohttp.TCPConnector`` (``limit``, ``keepalive_timeout``).
    """

    def __init__(self, mesh: Mesh, *, max_age: float = MAX_AGE, **options: Any) -> None:
        super().__init__(resolver=_Endpoints(mesh), use_dns_cache=False, **options)
        # aiohttp keeps connections apart by their context, so that a new context never meets an old connection; it
        # closes those that nobody asks for itself.
        self._services: ServicePools[MeshSSLContext] = ServicePools(
            mesh, lambda _: mesh.client_context(), max_age=max_age
        )

    async def connect(self, req: ClientRequest, traces: Any, timeout: aiohttp.ClientTimeout) -> Connection:  # noqa: ASYNC109 - the signature is aiohttp's
        """A connection to a service, pooled or new."""
        url = req.url
        if url.scheme not in ("http", "https", "ws", "wss"):
            raise aiohttp.NonHttpUrlClientError(url)
        plain, secure = ("ws", "wss") if url.scheme.startswith("ws") else ("http", "https")
        route = self._services.route("http" if url.scheme == plain else "https", url.host or "", url.port)
        lease = self._services.lease(route)
        self._services.release(lease)
        self._services.take_closable()  # a context needs no closing
        # Whatever the caller said: ssl=False cannot turn the check off, and the mesh is dialled directly.
        req.proxy = None
        req._ssl = lease.pool
        if route.ids is not None:
            req.url = url.with_scheme(secure).with_port(url.port)
        return await super().connect(req, traces, timeout)


class _Endpoints(AbstractResolver):
    """The mesh's endpoints in the place of DNS."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found: list[ResolveResult] = []
        for address, at in self._mesh.naming.endpoints(host, port):
            for kind, _, proto, _, where in await loop.getaddrinfo(
                address, at, family=family, type=socket.SOCK_STREAM
            ):
                found.append(
                    ResolveResult(
                        hostname=host,
                        host=str(where[0]),
                        port=at,
                        family=kind,
                        proto=proto,
                        flags=socket.AI_NUMERICHOST,
                    )
                )
        return found

    async def close(self) -> None:
        """Nothing is held."""
