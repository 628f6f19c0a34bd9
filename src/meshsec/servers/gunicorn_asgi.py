"""gunicorn's own ASGI worker, with our transport in its scopes: HTTP/1.1, HTTP/2, WebSocket; asyncio and uvloop.

Beside ``from meshsec.servers.gunicorn import *``: ``worker_class = "meshsec.servers.gunicorn_asgi.MeshWorker"``.
"""

from __future__ import annotations

from typing import Any, Final

import gunicorn  # type: ignore[import-untyped]
from gunicorn.asgi.protocol import ASGIProtocol  # type: ignore[import-untyped]
from gunicorn.workers import gasgi  # type: ignore[import-untyped]

from ..middleware import TRANSPORT_KEY
from ._internals import check_looked_up, check_replaceable, check_scopes
from ._transport import transport_of
from ._worker import CarriesPeers

__all__ = ["MeshWorker"]

_SCOPES: Final = ("_build_http_scope", "_build_websocket_scope", "_build_http2_scope")


class _TransportInState(ASGIProtocol):  # type: ignore[misc]
    """One connection; its scopes are built here."""

    def connection_made(self, transport: Any) -> None:
        self._meshsec = transport_of(transport)
        super().connection_made(transport)

    def _build_http_scope(self, *arguments: Any) -> dict[str, Any]:
        scope = super()._build_http_scope(*arguments)  # pyright: ignore[reportAttributeAccessIssue]
        return self._carrying(scope)

    def _build_websocket_scope(self, *arguments: Any) -> dict[str, Any]:
        scope = super()._build_websocket_scope(*arguments)  # pyright: ignore[reportAttributeAccessIssue]
        return self._carrying(scope)

    def _build_http2_scope(self, *arguments: Any) -> dict[str, Any]:
        scope = super()._build_http2_scope(*arguments)  # pyright: ignore[reportAttributeAccessIssue]
        return self._carrying(scope)

    def _carrying(self, scope: dict[str, Any]) -> dict[str, Any]:
        scope["state"] = {**scope.get("state", {}), TRANSPORT_KEY: self._meshsec}
        return scope


class MeshWorker(CarriesPeers, gasgi.ASGIWorker):  # type: ignore[misc]
    """Serves ASGI applications behind our context."""

    @classmethod
    def check_server(cls) -> None:
        server = f"gunicorn {gunicorn.__version__}"
        check_replaceable("ASGIProtocol", gasgi.ASGIWorker, server)
        check_looked_up(_SCOPES, ASGIProtocol, server)
        check_scopes(ASGIProtocol, "state", server, builders=_SCOPES)

    def init_process(self) -> None:
        """In the worker's own process: gunicorn offers no place for a protocol class."""
        gasgi.ASGIProtocol = _TransportInState  # pyright: ignore[reportAttributeAccessIssue]
        super().init_process()
