"""uvicorn's h11 protocol with our transport in its state."""

from __future__ import annotations

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ._internals import check_scopes
from .uvicorn import TransportInState

__all__ = ["MeshProtocol"]

check_scopes(H11Protocol, "app_state", f"uvicorn {uvicorn.__version__}")


class MeshProtocol(TransportInState, H11Protocol):
    """HTTP/1.1 in pure Python."""
