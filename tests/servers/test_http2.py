"""HTTP/2, where a server speaks it: a stream is its own connection's client's, and policy holds as over HTTP/1.1."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset

from live import FULL, TIMEOUT, Served, command, free_port, mesh, serving

ALL: Final = ("hypercorn uvloop", "gunicorn asgi", "gunicorn gthread", "gunicorn gevent")
SPEAKERS: Final = ALL if FULL else ALL[:2]
CLIENTS: Final = 20 if FULL else 6
STREAMS: Final = 15
POLICY: Final = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: friends, namespace: prod}
spec:
  action: ALLOW
  rules:
  - from: [{source: {principals: [td.example/ns/prod/sa/friend]}}]
    to: [{operation: {methods: [POST], paths: [/open]}}]
"""

Fields = Sequence[tuple[str, str]]


def fields(path: str = "/open", **others: str) -> list[tuple[str, str]]:
    """A request's header fields; keywords add more, with dashes for underscores."""
    usual = [(":method", "POST"), (":scheme", "https"), (":authority", "x"), (":path", path)]
    return [*usual, *((name.replace("_", "-"), value) for name, value in others.items())]


class Line:
    """One HTTP/2 connection that says whatever it is told to, also what no client may say."""

    def __init__(self, server: Served, account: str) -> None:
        context = server.caller(account)
        context.set_alpn_protocols(["h2"])
        raw = socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT)
        self.sock = context.wrap_socket(raw)
        assert self.sock.selected_alpn_protocol() == "h2"
        careless = {"validate_outbound_headers": False, "normalize_outbound_headers": False}
        self.h2 = H2Connection(H2Configuration(header_encoding="utf-8", validate_inbound_headers=False, **careless))
        self.h2.initiate_connection()

    def ask(self, requests: Sequence[Fields], body: bytes = b"") -> list[tuple[str, bytes]]:
        """All at once, each on a stream of its own: the statuses and bodies; "ended" for a stream that was ended."""
        streams = []
        for request in requests:
            streams.append(self.h2.get_next_available_stream_id())
            self.h2.send_headers(streams[-1], request, end_stream=not body)
        for stream in streams if body else ():
            self.h2.send_data(stream, body, end_stream=True)
        self.sock.sendall(self.h2.data_to_send())
        status, data, open_streams = dict.fromkeys(streams, "ended"), dict.fromkeys(streams, b""), set(streams)
        while open_streams and (received := self._receive()):
            for event in self.h2.receive_data(received):
                if isinstance(event, ResponseReceived):
                    status[event.stream_id] = dict(event.headers)[":status"]
                elif isinstance(event, DataReceived):
                    data[event.stream_id] += event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, StreamEnded | StreamReset):
                    open_streams.discard(event.stream_id)
            self.sock.sendall(self.h2.data_to_send())
        return [(status[stream], data[stream]) for stream in streams]

    def _receive(self) -> bytes:
        try:
            return self.sock.recv(65536)
        except (ConnectionError, ssl.SSLError):
            return b""


@contextmanager
def line(server: Served, account: str) -> Iterator[Line]:
    """A connection, and its end."""
    made = Line(server, account)
    with made.sock:
        yield made


@pytest.fixture(params=SPEAKERS)
def name(request: pytest.FixtureRequest) -> Any:
    """Each server that speaks it."""
    return request.param


def test_every_stream_names_its_own_client(name: str, tmp_path: Path) -> None:
    """Many clients at once, each with many streams at once on one connection; no answer names another."""
    port, authority = free_port(), mesh(tmp_path)
    together = threading.Barrier(CLIENTS)

    def client(number: int) -> set[tuple[str, Any, Any]]:
        together.wait(TIMEOUT)
        with line(server, f"client-{number}") as connection:
            answers = connection.ask([fields(content_length="500")] * STREAMS, b"x" * 500)
        return {(status, json.loads(body)["peer"], json.loads(body)["length"]) for status, body in answers}

    with (
        serving(tmp_path, command(name, tmp_path, port), port, authority) as server,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        named = list(pool.map(client, range(CLIENTS)))
    assert named == [{("200", f"spiffe://td.example/ns/prod/sa/client-{n}", 500)} for n in range(CLIENTS)]


# Each with one change to a request that is allowed, which is the first.
REQUESTS: Final[dict[str, Fields]] = {
    "allowed": fields(),
    "same host twice": fields(host="x"),
    "another path": fields("/secret"),
    "another method": [(":method", "GET"), *fields()[1:]],
    "another host beside the authority": fields(host="y"),
    "two authorizations": [*fields(authorization="Bearer a"), ("authorization", "Bearer b")],
    "no path": [field for field in fields() if field[0] != ":path"],
    "absolute form": fields("https://x/open"),
    "absolute form, another host": fields("https://y/open"),
    "absolute form, another path": fields("https://x/secret"),
    "fragment": fields("/open#secret"),
    "dot segments": fields("/secret/%2e%2e%2fopen"),
    "transfer-encoding": fields(transfer_encoding="chunked"),
    "connection": fields(connection="close"),
    "a name in upper case": [*fields(), ("X-Role", "admin")],
    "a line feed in a value": fields(x_role="a\nb: c"),
    "a pseudo-header after the others": [*fields(x_role="a"), (":path", "/secret")],
}


# "ended": the stream or the connection is, without an answer.
ANSWERS: Final = {
    **dict.fromkeys(REQUESTS, "ended"),
    **dict.fromkeys(("allowed", "same host twice", "absolute form", "fragment"), "200"),
    **dict.fromkeys(("another path", "another method", "absolute form, another path"), "403"),
    **dict.fromkeys(("two authorizations", "absolute form, another host", "dot segments"), "400"),
}
# Cut, and another host is not seen by anybody.
OWN: Final = {"gunicorn asgi": {"absolute form, another host": "200"}}


def test_policy_and_hygiene_hold(name: str, tmp_path: Path) -> None:
    """As over HTTP/1.1; what no HTTP/2 client may say never reaches the middleware."""
    port, authority = free_port(), mesh(tmp_path)
    (tmp_path / "policy.yaml").write_text(POLICY)
    found = {}
    with serving(tmp_path, command(name, tmp_path, port, "judged_"), port, authority) as server:
        for kind, request in REQUESTS.items():
            with line(server, "friend") as connection:
                [(found[kind], _)] = connection.ask([request])
        with line(server, "intruder") as connection:
            statuses = [status for status, _ in connection.ask([fields(), fields("/secret")])]
    assert found == {**ANSWERS, **OWN.get(name, {})}
    assert statuses == ["403", "403"]
