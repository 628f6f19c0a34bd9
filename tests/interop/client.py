"""Bytes to a socket and an answer back: no HTTP library that would tidy up what is sent."""

from __future__ import annotations

import socket
import ssl
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from interop.sidecar import Site, svid

__all__ = ["Answer", "Client", "Route"]

TIMEOUT: Final = 20.0
_KEPT: Final = 64


@dataclass(frozen=True)
class Route:
    """How a request travels.

    Attributes:
        site: where to.
        source_ip: the address it comes from.
        peer: the SPIFFE ID of the certificate it is sent with; None: plaintext.
        sni: the TLS server name; None: none is sent.
    """

    site: Site
    source_ip: str
    peer: str | None = None
    sni: str | None = None


@dataclass(frozen=True)
class Answer:
    """Status, headers (lower case; of several lines the last) and body."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """Keeps connections open for the next request on the same route."""

    def __init__(self) -> None:
        self._open: OrderedDict[Route, socket.socket] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        while self._open:
            self._open.popitem()[1].close()

    def ask(self, route: Route, request: bytes) -> Answer:
        """Send a request; on a connection that was closed meanwhile, once more on a new one."""
        kept = self._open.pop(route, None)
        if kept is not None:
            try:
                return self._exchange(route, kept, request)
            except (OSError, EOFError):
                kept.close()
        return self._exchange(route, _connect(route), request)

    def _exchange(self, route: Route, sock: socket.socket, request: bytes) -> Answer:
        sock.sendall(request)
        answer = _read(sock, head=request.startswith(b"HEAD "))
        if answer.headers.get("connection") == "close" or answer.status == 400:
            sock.close()
            return answer
        self._open[route] = sock
        if len(self._open) > _KEPT:
            self._open.popitem(last=False)[1].close()
        return answer


def _read(sock: socket.socket, *, head: bool) -> Answer:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(sock)
    top, _, body = data.partition(b"\r\n\r\n")
    line, *rest = top.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip(" ") for name, _, value in (item.partition(":") for item in rest)}
    length = 0 if head else int(headers.get("content-length", "0"))
    while len(body) < length:
        body += _some(sock)
    return Answer(int(line.split(" ")[1]), headers, body)


def _some(sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    if not data:
        raise EOFError("the connection ended before the answer did")
    return data


def _connect(route: Route) -> socket.socket:
    port = route.site.plain_port if route.peer is None else route.site.tls_port
    sock = socket.create_connection((route.site.ip, port), timeout=TIMEOUT, source_address=(route.source_ip, 0))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if route.peer is None:
        return sock
    return _context(route.peer).wrap_socket(sock, server_hostname=route.sni)


@cache
def _context(peer: str) -> ssl.SSLContext:
    """With this certificate; whom it talks to is not what is tested."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    own = svid(peer)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pair.pem")
        file.write_bytes(own.key_pem() + own.chain_pem())
        context.load_cert_chain(file)
    return context
