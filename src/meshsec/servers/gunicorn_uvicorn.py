"""uvicorn as a worker of gunicorn's (the package uvicorn-worker), with our context, which its own class ignores.

Beside ``from meshsec.servers.gunicorn import *``: ``worker_class = "meshsec.servers.gunicorn_uvicorn.MeshWorker"``.
"""

from __future__ import annotations

import ssl
from typing import Any, Final

import uvicorn
from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped]

from ._internals import check_looked_up
from ._worker import CarriesPeers
from .gunicorn import ssl_context
from .uvicorn import protocol_class

__all__ = ["MeshWorker"]

_OURS: Final = ("ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "ssl_keyfile_password")


class MeshWorker(CarriesPeers, UvicornWorker):  # type: ignore[misc]
    """Serves ASGI applications behind our context."""

    CONFIG_KWARGS = {  # noqa: RUF012 - as the base class has it
        "loop": "auto",
        "http": protocol_class("auto"),
        "proxy_headers": False,
        "server_header": False,
        **dict.fromkeys(_OURS),
    }

    @classmethod
    def check_server(cls) -> None:
        check_looked_up(("ssl_context_factory",), uvicorn.Config.load, f"uvicorn {uvicorn.__version__}")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.config.ssl_context_factory = self._context

    def _context(self, *_: object) -> ssl.SSLContext:
        context: ssl.SSLContext = ssl_context(self.cfg, lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        return context
