"""Transports for httpx2: ``https://reviews.prod/`` is dialled, authenticated and checked by the mesh.

``http://reviews.prod/`` is upgraded to the same mutual TLS, as a sidecar does; it stays plaintext only where the
configuration says so. Only services that the mesh names are reached; everything else is refused.
"""

from __future__ import annotations

from typing import Any, Final

import httpx2

from ..mesh import Mesh
from ._httpx import AsyncBody, AsyncTransport, Body, Library, Transport
from ._services import MAX_AGE, Tokens

__all__ = ["AsyncMeshTransport", "MeshTransport"]


class _Body(Body, httpx2.SyncByteStream):
    """What a client takes for one."""


class _AsyncBody(AsyncBody, httpx2.AsyncByteStream):
    """What a client of asyncio takes for one."""


_LIBRARY: Final = Library(httpx2.Headers, httpx2.UnsupportedProtocol, httpx2.ConnectError, _Body)
_ASYNC_LIBRARY: Final = Library(httpx2.Headers, httpx2.UnsupportedProtocol, httpx2.ConnectError, _AsyncBody)


class MeshTransport(Transport, httpx2.BaseTransport):
    """For ``httpx2.Client(transport=MeshTransport(mesh))``.

    Args:
        mesh: whose identity is presented, and whose secure naming is checked.
        max_age: for how many seconds a connection is given new requests; also ends when our certificate changes.
        tokens: which token travels along to which service.
        options: passed on to ``httpx2.HTTPTransport`` (``http2``, ``limits``, ``retries``).
    """

    def __init__(self, mesh: Mesh, *, max_age: float = MAX_AGE, tokens: Tokens | None = None, **options: Any) -> None:
        super().__init__(
            mesh,
            _LIBRARY,
            lambda context: httpx2.HTTPTransport(verify=context, **options),
            max_age=max_age,
            tokens=tokens,
        )


class AsyncMeshTransport(AsyncTransport, httpx2.AsyncBaseTransport):
    """For ``httpx2.AsyncClient(transport=AsyncMeshTransport(mesh))``. See :class:`MeshTransport`."""

    def __init__(self, mesh: Mesh, *, max_age: float = MAX_AGE, tokens: Tokens | None = None, **options: Any) -> None:
        super().__init__(
            mesh,
            _ASYNC_LIBRARY,
            lambda context: httpx2.AsyncHTTPTransport(verify=context, **options),
            max_age=max_age,
            tokens=tokens,
        )
