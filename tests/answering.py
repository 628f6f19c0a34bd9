"""HTTP servers in a thread of the test's own process. Must not know what is answered."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer, ThreadingHTTPServer
from typing import Any, TypeVar

__all__ = ["TlsServer", "answering"]

_Server = TypeVar("_Server", bound=HTTPServer)


class TlsServer(ThreadingHTTPServer):
    """Handshakes in each connection's own thread; a refused peer disturbs nobody. Plaintext without a context."""

    daemon_threads = True
    context: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.context is None:
            super().finish_request(request, client_address)
            return
        with self.context.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever is refused, or goes away, is what tests are about."""


@contextmanager
def answering(server: _Server) -> Iterator[_Server]:
    """Has a server serve until the block is left."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
