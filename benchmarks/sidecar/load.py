"""The load generator, a process of its own: ``python -m benchmarks.sidecar.load MESH``; one JSON order a line.

One loop over epoll with sockets that do not block, the same for plaintext and for mutual TLS, because anything
richer would itself be what is measured. Over TLS it is a client of the mesh: it shows its certificate and checks who
answers.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from meshsec import Mesh

__all__ = ["main"]

_LENGTH: Final = b"content-length: "
_NUMBER: Final = b"{number}"  # in a request: each has its own
_WAIT: Final = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


@dataclass(slots=True)
class Line:
    """One connection."""

    socket: socket.socket
    began: float
    sent: bool = False
    data: bytes = b""


@dataclass
class Load:
    """What is asked, of whom, over how many connections at once.

    Attributes:
        context: for mutual TLS; None: plaintext.
        took: seconds of each request.
        wrong: answers that are not 200.
    """

    port: int
    request: bytes
    context: ssl.SSLContext | None
    lines: dict[int, Line] = field(default_factory=dict)
    took: array[float] = field(default_factory=lambda: array("d"))
    wrong: int = 0
    _poll: select.epoll = field(default_factory=select.epoll)
    _sources: Iterator[int] = field(default_factory=count)
    _numbers: Iterator[int] = field(default_factory=count)

    def open(self, connections: int) -> None:
        """Connect them all, handshakes included."""
        for _ in range(connections):
            line = self._connected()
            line.socket.settimeout(30)
            _shake_hands(line)
            line.socket.settimeout(0)
            self._poll.modify(line.socket.fileno(), select.EPOLLIN)

    def keep(self, seconds: float) -> float:
        """One request after the other on every connection; the seconds it took."""
        for line in self.lines.values():
            self._ask(line)
        return self._turn(seconds, self._ask)

    def renew(self, connections: int, seconds: float) -> float:
        """A new connection for every request; a request's time begins with it."""
        for _ in range(connections):
            self._connected()
        return self._turn(seconds, self._replace)

    def close(self) -> None:
        """Close whatever is open."""
        for line in list(self.lines.values()):
            self._drop(line)
        self._poll.close()

    def _turn(self, seconds: float, then: Callable[[Line], None]) -> float:
        start = now = time.perf_counter()
        while now < start + seconds:
            for handle, _ in self._poll.poll(1.0):
                line = self.lines[handle]
                try:
                    done = self._advance(line)
                except _WAIT:
                    continue
                if done:
                    self.took.append(time.perf_counter() - line.began)
                    then(line)
            now = time.perf_counter()
        return now - start

    def _advance(self, line: Line) -> bool:
        """Whether the answer is complete."""
        if not line.sent:
            _shake_hands(line)
            line.socket.send(self._next())
            line.sent = True
            self._poll.modify(line.socket.fileno(), select.EPOLLIN)
            return False
        data = line.socket.recv(65536)
        if not data:
            raise ConnectionError("the server hung up")
        if line.data:
            data = line.data + data
        end = data.find(b"\r\n\r\n")
        at = data.find(_LENGTH, 0, end) + len(_LENGTH)
        if end < 0 or len(data) < end + 4 + int(data[at : data.find(b"\r", at)]):
            line.data = data
            return False
        line.data = b""
        self.wrong += not data.startswith(b"HTTP/1.1 200")
        return True

    def _ask(self, line: Line) -> None:
        line.began = time.perf_counter()
        line.socket.send(self._next())
        line.sent = True

    def _next(self) -> bytes:
        numbered = _NUMBER in self.request
        return self.request.replace(_NUMBER, b"%08d" % next(self._numbers)) if numbered else self.request

    def _replace(self, line: Line) -> None:
        self._drop(line)
        self._connected()

    def _connected(self) -> Line:
        began = time.perf_counter()
        # Another of our own addresses each time: a closed connection's port is not free at once.
        source = (f"127.0.1.{next(self._sources) % 250 + 1}", 0)
        plain = socket.create_connection(("127.0.0.1", self.port), source_address=source)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.settimeout(0)
        found: socket.socket = plain
        if self.context:
            found = self.context.wrap_socket(plain, do_handshake_on_connect=False, server_hostname="reviews.prod")
        line = self.lines[found.fileno()] = Line(found, began)
        self._poll.register(found.fileno(), select.EPOLLIN if self.context else select.EPOLLOUT)
        with suppress(*_WAIT):
            _shake_hands(line)
        return line

    def _drop(self, line: Line) -> None:
        self._poll.unregister(line.socket.fileno())
        del self.lines[line.socket.fileno()]
        line.socket.close()


def _shake_hands(line: Line) -> None:
    if isinstance(line.socket, ssl.SSLSocket):
        line.socket.do_handshake()


class Orders:
    """Carries out one order after the other."""

    def __init__(self, folder: str) -> None:
        self._context = Mesh.load(folder, workload="productpage").client_context()
        self._load: Load | None = None

    def open(self, port: int, request: str, *, tls: bool, connections: int = 0) -> dict[str, Any]:
        """Connect."""
        self._load = Load(port, request.encode(), self._context if tls else None)
        self._load.open(connections)
        return {}

    def keep(self, seconds: float) -> dict[str, Any]:
        """Load on open connections."""
        return self._measured(lambda load: load.keep(seconds))

    def renew(self, connections: int, seconds: float) -> dict[str, Any]:
        """Load on connections that serve one request each."""
        return self._measured(lambda load: load.renew(connections, seconds))

    def close(self) -> dict[str, Any]:
        """Disconnect."""
        if self._load:
            self._load.close()
        return {}

    def _measured(self, run: Callable[[Load], float]) -> dict[str, Any]:
        load = self._load
        if load is None:
            raise RuntimeError("open comes first")
        load.took = array("d")
        cpu = time.process_time()
        seconds = run(load)
        cpu = time.process_time() - cpu
        took = sorted(load.took)
        quantiles = {name: took[int(len(took) * part)] for name, part in (("p50", 0.5), ("p99", 0.99))}
        return {"requests": len(took), "seconds": seconds, "cpu": cpu, "wrong": load.wrong, **quantiles}


def main(folder: str) -> None:
    """Read orders until there are no more."""
    orders = Orders(folder)
    for text in sys.stdin:
        order = json.loads(text)
        answer = getattr(orders, order.pop("do"))(**order)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
