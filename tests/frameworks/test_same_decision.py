"""Real servers and raw bytes: no spelling leaks, and WSGI decides as ASGI does, never laxer.

Each server is a process of its own, in plaintext. ``MESHSEC_FULL=1`` sends thousands, and asks more servers.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from frameworks.apps import SAID_OTHER, SAID_SECRET
from frameworks.guarded import JUDGES, KEYS
from frameworks.spellings import FIXED, HOST, OTHER, SECRET, spellings
from live import FULL, TIMEOUT, everything, free_port

TESTS: Final = Path(__file__).parents[1]
SERVERS: Final = {
    "uvicorn httptools": ["uvicorn", "--http", "httptools", "--log-level", "critical", "--lifespan", "off"],
    "uvicorn h11": ["uvicorn", "--http", "h11", "--log-level", "critical", "--lifespan", "off"],
    "gunicorn sync": ["gunicorn", "--log-level", "critical"],
    "gunicorn gthread": ["gunicorn", "--log-level", "critical", "--worker-class", "gthread", "--threads", "1"],
}
USUAL: Final = ("uvicorn httptools", "gunicorn sync")
SPELLINGS: Final = spellings(5, 2_500 if FULL else len(FIXED))
REQUESTS: Final = 3_000 if FULL else 300


@contextmanager
def served(name: str, app: str) -> Iterator[int]:
    """A server in a process of its own; its port."""
    port = free_port()
    kind, *options = SERVERS[name]
    flavour = "asgi" if kind == "uvicorn" else "wsgi"
    where = ["--port", str(port)] if kind == "uvicorn" else ["--bind", f"127.0.0.1:{port}"]
    command = [sys.executable, "-m", kind, *options, *where, f"frameworks.served_frameworks:{app}{flavour}"]
    paths = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths})
    try:
        end = time.monotonic() + TIMEOUT
        while not send(port, OTHER, (f"X-Mesh: {JUDGES[0]}",)):
            assert process.poll() is None
            assert time.monotonic() < end
        yield port
    finally:
        process.terminate()
        process.wait(TIMEOUT)


def send(port: int, target: str, lines: tuple[str, ...], method: str = "GET") -> bytes:
    """One request on a connection of its own; all that comes back, nothing where nobody listens."""
    head = "\r\n".join([f"{method} {target} HTTP/1.1", *lines, *host_of(lines), "Connection: close", "", ""])
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as sock:
            sock.sendall(head.encode("latin-1"))
            return everything(sock)
    except ConnectionError:
        return b""


def host_of(lines: tuple[str, ...]) -> tuple[str, ...]:
    """A Host line, where there is none."""
    return () if any(line.lower().startswith("host:") for line in lines) else (f"Host: {HOST}",)


@pytest.mark.parametrize("name", SERVERS if FULL else USUAL)
def test_no_spelling_reaches_the_secret(name: str) -> None:
    """Flask on gunicorn, FastAPI on uvicorn: behind the middleware never, without it often, and others are served."""
    rng = random.Random(name)
    with served(name, "") as port:
        for key in KEYS:
            assert SAID_OTHER.encode() in send(port, OTHER, (f"X-Mesh: {key}",))
        guarded = [(key, target) for target in SPELLINGS for key in rng.sample(KEYS, 4 if FULL else 1)]
        leaks = [pair for pair in guarded if SAID_SECRET.encode() in send(port, pair[1], (f"X-Mesh: {pair[0]}",))]
        assert leaks == []
        assert sum(SAID_SECRET.encode() in send(port, target, ()) for target in SPELLINGS[::3]) >= 5
        assert SAID_SECRET.encode() in send(port, SECRET, ())


@dataclass(frozen=True)
class Request:
    """What is sent to both servers, byte for byte."""

    method: str
    target: str
    lines: tuple[str, ...]

    @property
    def is_lossy(self) -> bool:
        """Whether WSGI cannot tell it from another request: lines of one name, and commas in a value.

        Or whether uvicorn cannot: with httptools it forgets the host of a target in absolute form.
        """
        names = [line.partition(":")[0].lower() for line in self.lines]
        return len(set(names)) < len(names) or any("," in line for line in self.lines) or "://" in self.target


TARGETS: Final = (
    "/", "/public", "/public/x", "/public/x/", "/public//x", "//public/x", "/public/../private/x", "/public/%2e%2e/x",
    "/public/a%2fb", "/a/b/c", "/a/%62/c", "/a//c", "/a/b/c?x=/private", "/private", "/private/", "/%70rivate/x", "*",
    "/public/x?q=1#f", "/public/x#f", "/public;p/x", "/public/x%0a", "/pub%00lic", "/public/%ff", "/public/\\x",
    "http://web.prod/public/x", "http://other/public/x", "http://web.prod", "/public/%c3%a9", "/public/%25%32%66",
    "/public/a%253Fb", "/public/a%3Fb", "/public/a%23b", "/public/+", "/public/%20x", "public/x", "",
)  # fmt: skip
LINES: Final = (
    "X-Role: admin", "X-Role: guest", "X-Role: admin,guest", "X-Role: guest, admin", "x-role:admin",
    "X-ROLE:  guest", "X-Role:", "X-Role: gue", "X-Role: user", "X_Role: guest", "X-Role: admin\t",
    "User-Agent: bot/1", "User-Agent: x", "User-Agent: x, bot/1", "Accept: text/html", "Accept: text/html, x/y",
    "Accept: x/y", "Cookie: a=b", "Cookie: c=d", "X-Trace: 1", "X-Trace: 1,2", "X-Trace: 2", "X-Trace: ,",
    "Content-Length: 0", "Content-Type: text/plain", "Authorization: Bearer x", "X-Forwarded-For: 10.0.0.1",
    "X-Forwarded-For: 10.0.0.1, 10.9.9.9", "X-Role: \xe9", "Transfer-Encoding: chunked\r\nContent-Length: 5",
    "X-Bad Name: x", "X-Long: " + "x" * 3000,
)  # fmt: skip
HOSTS: Final = (
    "Host: web.prod", "Host: WEB.prod", "Host: web.prod:8080", "Host: web.prod.", "Host: admin.prod", "Host:",
    "Host: admin.prod:80", "Host: admin.prod.", "Host: a,b", "Host: web.prod\r\nHost: admin.prod", "Host: x/y",
)  # fmt: skip


def requests(seed: int, count: int) -> list[Request]:
    """The same ones for the same seed."""
    rng = random.Random(seed)
    odd = spellings(seed, len(FIXED) + count)
    return [_request(rng, odd) for _ in range(count)]


def _request(rng: random.Random, odd: list[str]) -> Request:
    target = rng.choice(odd if rng.random() < 0.3 else TARGETS)
    if rng.random() < 0.5:
        target = rng.choice(("/public/x", "/a/b/c", "/private/x", "/"))
    method = rng.choice(("GET", "GET", "POST", "DELETE", "HEAD", "OPTIONS", "get", "BREW"))
    hosts = () if rng.random() < 0.6 else (rng.choice(HOSTS),)
    lines = rng.choices(LINES, k=rng.choice((0, 1, 1, 2, 2, 3)))
    # Of two Authorization lines WSGI has one value; where no rule reads it, it is judged as one: documented.
    tokens = [line for line in lines if line.startswith("Authorization")]
    return Request(method, target, tuple(line for line in lines if line not in tokens[:-1]) + hosts)


def told(port: int, key: str, request: Request) -> tuple[list[bool], str] | None:
    """What the mesh decided, and the path that reached the application; None: the server itself refused."""
    head, _, body = send(port, request.target, (f"X-Mesh: {key}", *request.lines), request.method).partition(
        b"\r\n\r\n"
    )
    found = next((line for line in head.split(b"\r\n") if line.lower().startswith(b"x-decided:")), None)
    if found is None:
        return None
    decided = json.loads(found.partition(b":")[2])
    # ASGI has text, where bytes that are no UTF-8 are lost.
    return decided, body.decode("utf-8", "replace") if decided[0] else ""


@pytest.mark.parametrize("uvicorn", ["uvicorn httptools", "uvicorn h11"] if FULL else ["uvicorn httptools"])
@pytest.mark.parametrize("gunicorn", ["gunicorn sync", "gunicorn gthread"] if FULL else ["gunicorn sync"])
def test_the_same_bytes_are_decided_alike(uvicorn: str, gunicorn: str) -> None:
    """Same verdict, reason, policy, rule and path; where WSGI lost which lines there were, it may refuse more."""
    counts: Counter[str] = Counter()
    differences = []
    rng = random.Random(uvicorn + gunicorn)
    with served(uvicorn, "told_") as asgi, served(gunicorn, "told_") as wsgi:
        for request in requests(11, REQUESTS):
            key = rng.choice(JUDGES)
            here, there = told(asgi, key, request), told(wsgi, key, request)
            if here is None or there is None:
                counts["refused by a server"] += 1
            elif here == there:
                counts["allowed" if here[0][0] else "refused"] += 1
            elif request.is_lossy and there[0][0] <= here[0][0]:
                counts["stricter on WSGI"] += 1
            else:
                differences.append((key, request, here, there))
    assert differences == []
    assert counts["allowed"] > REQUESTS // 10
    assert counts["refused"] > REQUESTS // 5
