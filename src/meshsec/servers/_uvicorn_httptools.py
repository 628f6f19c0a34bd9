"""uvicorn's httptools protocol with our transport in its state."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .uvicorn import TransportInState

__all__ = ["MeshProtocol"]


class MeshProtocol(TransportInState, HttpToolsProtocol):
    """HTTP/1.1 in C."""
