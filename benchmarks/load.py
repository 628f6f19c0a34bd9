"""A load generator: keep-alive connections, one request in flight on each, the next one when the answer is in.

``python -m benchmarks.load PORT CONNECTIONS SECONDS PATIENCE < request`` prints the answers of one second. Where the
request holds ``{number}``, each has a number of its own. Every answer must be the one that the applications of the
benchmarks give.

It runs in a process of its own, so that on a machine with two processors the server is what is measured. There it has
no patience and never sleeps: a server pays for waking it at an answer (some 10 µs on a virtual machine), but only a
server that is slow enough to let it fall asleep.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from typing import Final

_BODY: Final = b"\r\n\r\nhello"
_GOOD: Final = b"HTTP/1.1 200"
_READ: Final = 65536


def load(port: int, connections: int, seconds: float, request: bytes, *, patience: float) -> float:
    """Answers in one second. Raises SystemExit where an answer is another one."""
    head, number_here, rest = request.partition(b"{number}")
    numbered = head + b"%08d" + rest
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    poll = select.epoll()
    begun: dict[int, bytes] = {}
    for each in sockets:
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(each.fileno(), select.EPOLLIN)
        each.sendall(numbered % 0 if number_here else request)
    answers, start = 0, time.perf_counter()
    until = start + seconds
    while time.perf_counter() < until:
        for number, _ in poll.poll(patience):
            data = os.read(number, _READ)
            if not data.endswith(_BODY):
                data = begun.pop(number, b"") + data
                if not data.endswith(_BODY):
                    begun[number] = _unless_wrong(data)
                    continue
            if not data.startswith(_GOOD):
                raise SystemExit(f"not the answer: {data!r}")
            answers += 1
            os.write(number, numbered % answers if number_here else request)
    rate = answers / (time.perf_counter() - start)
    for each in sockets:
        each.close()
    return rate


def _unless_wrong(data: bytes) -> bytes:
    """The beginning of an answer, which may come in pieces."""
    if not data or (len(data) >= len(_GOOD) and not data.startswith(_GOOD)):
        raise SystemExit(f"not the answer: {data!r}")
    return data


if __name__ == "__main__":
    port, connections, seconds, patience = sys.argv[1:]
    request = sys.stdin.buffer.read()
    print(load(int(port), int(connections), float(seconds), request, patience=float(patience)))
