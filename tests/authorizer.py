"""An external authorizer for tests: a real HTTP server on a free port, what it was asked, and what it answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from answering import TlsServer, answering
from meshsec.resources import ExtAuthzHttp

__all__ = ["Authorizer", "running"]


@dataclass
class Authorizer:
    """A server on a free port, what it was asked, and what it answers.

    Attributes:
        callers: address and port of whoever asked, for each request.
        hang_up: whether each answer is a connection's last, without a word about it.
    """

    port: int = 0
    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    asked: list[tuple[str, str, list[tuple[str, str]]]] = field(default_factory=list)
    callers: list[tuple[str, int]] = field(default_factory=list)
    hold: threading.Event | None = None
    hang_up: bool = False

    def settings(self, **more: Any) -> ExtAuthzHttp:
        """How to ask it."""
        return ExtAuthzHttp(**{"service": "127.0.0.1", "port": self.port, "timeout": 20.0, **more})


@contextmanager
def running(context: Any = None) -> Iterator[Authorizer]:
    """An authorizer that runs."""
    authorizer = Authorizer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            authorizer.asked.append((self.command, self.path, [(k.lower(), v) for k, v in self.headers.items()]))
            authorizer.callers.append(self.client_address)
            self.close_connection = self.close_connection or authorizer.hang_up
            if authorizer.hold is not None:
                authorizer.hold.wait(20)
            self.send_response(authorizer.status)
            for name, value in authorizer.headers:
                self.send_header(name, value)
            self.send_header("content-length", str(len(authorizer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(authorizer.body)

        do_GET = do_POST = do_HEAD = do_PUT = do_OPTIONS = do_PROPFIND = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = TlsServer(("127.0.0.1", 0), Handler)
    server.context, authorizer.port = context, server.server_port
    with answering(server):
        try:
            yield authorizer
        finally:
            if authorizer.hold:
                authorizer.hold.set()
