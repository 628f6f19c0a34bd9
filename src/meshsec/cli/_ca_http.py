"""A small HTTPS server for the authority's endpoint: one request for each connection, bounded in time, size, number.

This file must not know what is asked, nor how a requester is authenticated.
"""

from __future__ import annotations

import logging
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from ..attributes import HttpRequest
from ..sources import CsrAnswer

__all__ = ["Answerer", "serving"]

PATIENCE: Final = 15.0  # seconds for a whole connection, the handshake included
MOST_CONNECTIONS: Final = 64
MAX_BODY: Final = 64 * 1024

_log: Final = logging.getLogger("meshsec.ca")

Answerer = Callable[[HttpRequest, bytes, ssl.SSLSocket], CsrAnswer]
"""Answers a request with its body; the socket says who the peer is."""

_BAD_LENGTH: Final = CsrAnswer(
    400, b'{"code": "bad_request", "message": "one body of at most 64 KiB, with its length"}'
)


@contextmanager
def serving(host: str, port: int, context: Callable[[], ssl.SSLContext], answer: Answerer) -> Iterator[int]:
    """Serve in threads of its own until the block is left; gives the port, which is a free one where it was 0.

    Args:
        context: asked at each connection.

    Raises:
        OSError: it cannot listen there.
    """
    with _Server(host, port, context, answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.1,), name="meshsec-ca", daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, host: str, port: int, context: Callable[[], ssl.SSLContext], answer: Answerer) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.answer = answer
        self._context = context
        self._places = threading.Semaphore(MOST_CONNECTIONS)
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Without looking up our own name, which may take long and is not needed."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Whoever comes while every place is taken is sent away at once."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread was to be had, so none will give the place back
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands here, in the connection's own thread, and cut off whoever takes too long."""
        with closing(request.dup()) as line:
            cut_off = threading.Timer(PATIENCE, _shut_down, (line,))
            cut_off.daemon = True
            cut_off.start()
            try:
                request.settimeout(PATIENCE)
                with self._context().wrap_socket(request, server_side=True) as secured:
                    super().finish_request(secured, client_address)
            finally:
                cut_off.cancel()
                cut_off.join()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Handshakes that our contexts refused are in their log; whoever else hangs up is no news."""
        error = sys.exception()
        level = logging.DEBUG if isinstance(error, OSError) else logging.ERROR
        _log.log(level, "a connection from %s failed", client_address[0], exc_info=error)


class _Handler(BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride] - it is made by no other
    connection: ssl.SSLSocket
    server_version = "meshsec"
    sys_version = ""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        body = self._body()
        if body is None:
            self._send(_BAD_LENGTH)
            return
        lines = [(name, str(value)) for name, value in self.headers.items()]
        request = HttpRequest(self.command, self.path, self.headers.get("host"), lines, scheme="https")
        self._send(self.server.answer(request, body, self.connection))

    def _body(self) -> bytes | None:
        lengths = self.headers.get_all("content-length", ["0"])
        if len(lengths) != 1 or "transfer-encoding" in self.headers:
            return None
        text = lengths[0].strip()
        if not (text.isascii() and text.isdecimal()) or len(text) > 6 or int(text) > MAX_BODY:
            return None
        body = self.rfile.read(int(text))
        return body if len(body) == int(text) else None

    def _send(self, answer: CsrAnswer) -> None:
        self.send_response(answer.status)
        for name, value in (
            ("content-type", "application/json"),
            ("content-length", str(len(answer.body))),
            ("cache-control", "no-store"),
            ("connection", "close"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing: the endpoint itself logs what it refuses, the record has what it issued."""


def _shut_down(line: socket.socket) -> None:
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
