"""uvicorn's httptools protocol with our transport in its state."""

from __future__ import annotations

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ._internals import check_scopes
from .uvicorn import TransportInState

__all__ = ["MeshProtocol"]

check_scopes(HttpToolsProtocol, "app_state", f"uvicorn {uvicorn.__version__}")


class MeshProtocol(TransportInState, HttpToolsProtocol):
    """HTTP/1.1 in C."""
