"""uvicorn's h11 protocol with our transport in its state."""

from __future__ import annotations

from uvicorn.protocols.http.h11_impl import H11Protocol

from .uvicorn import TransportInState

__all__ = ["MeshProtocol"]


class MeshProtocol(TransportInState, H11Protocol):
    """HTTP/1.1 in pure Python."""
