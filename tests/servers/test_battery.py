"""Every server and worker class, each a process of its own: who is connected, who is refused, what rotates.

``MESHSEC_FULL=1`` runs every test on every server; without it some look at a few of them.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import pytest
from websockets.sync.client import connect

from live import (
    ASGI,
    FULL,
    SERVERS,
    TIMEOUT,
    Served,
    ask,
    command,
    everything,
    free_port,
    mesh,
    serial,
    serving,
)
from meshsec.ca import CertificateAuthority
from pki import TestCA
from waiting import until
from wire import careless

CROWD: Final = ("uvicorn httptools uvloop", "gunicorn gthread")
ROTATING: Final = ("uvicorn h11 asyncio", "gunicorn sync", "gunicorn gthread", "hypercorn uvloop")
CHATTY: Final = ("uvicorn httptools uvloop", "hypercorn uvloop", "gunicorn asgi")


@contextmanager
def running(name: str, folder: Path) -> Iterator[Served]:
    """One of the servers."""
    port, authority = free_port(), mesh(folder)
    with serving(folder, command(name, folder, port), port, authority) as served:
        yield served


@pytest.fixture(params=SERVERS, scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Each of the servers in turn, for all the tests that change nothing about it."""
    with running(request.param, tmp_path_factory.mktemp("served")) as served:
        yield served


@pytest.mark.parametrize("server", SERVERS if FULL else CROWD, indirect=True)
def test_every_request_names_its_own_client(server: Served) -> None:
    """Twenty clients with twenty SVIDs at once, small and large bodies mixed; no answer names another."""
    together = threading.Barrier(20)

    def client(number: int) -> set[tuple[str, int]]:
        with closing(server.connect(server.caller(f"client-{number}"))) as connection:
            together.wait(TIMEOUT)
            sizes = [0, 100_000, 10, 30_000, 0] * (60 if FULL else 1)
            answers = [ask(connection, b"x" * size) for size in sizes]
            assert [answer["length"] for answer in answers] == sizes
            return {(answer["peer"], answer["port"]) for answer in answers}

    with ThreadPoolExecutor(20) as pool:
        named = list(pool.map(client, range(20)))
    assert named == [{(f"spiffe://td.example/ns/prod/sa/client-{number}", server.port)} for number in range(20)]


def refused(server: Served) -> int:
    """How many clients it says that it has sent away."""
    return sum(line.startswith("meshsec.tls refused a TLS client") for line in server.log)


def test_who_is_not_of_the_mesh_is_refused(server: Served) -> None:
    """No certificate, a stranger's, plain HTTP, old TLS: the connection ends, and the application never runs."""
    with closing(server.connect(server.caller("earlier"))) as connection:
        calls = ask(connection)["calls"]
    before = refused(server)
    old = careless("client", TestCA("td.example").leaf())
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    stranger = careless("client", TestCA("td.example").leaf("/ns/prod/sa/served"))
    for context in (careless("client"), stranger, old):
        with closing(server.connect(context)) as connection, pytest.raises((OSError, http.client.HTTPException)):
            ask(connection)
    with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT) as plain:
        plain.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
        assert b"HTTP" not in everything(plain)
    with closing(server.connect(server.caller("welcome"))) as connection:
        answer = ask(connection, b"x" * 100_000)
        assert (answer["calls"], answer["length"], answer["port"]) == (calls + 1, 100_000, server.port)
        assert (answer["peer"], answer["source"]) == ("spiffe://td.example/ns/prod/sa/welcome", "127.0.0.1")
    until(lambda: refused(server) == before + 4)


@pytest.mark.parametrize("name", SERVERS if FULL else ROTATING)
def test_certificate_and_root_rotate_while_a_connection_is_open(name: str, tmp_path: Path) -> None:
    """New connections see the new certificate, the old root is refused, an open connection is not disturbed."""
    with running(name, tmp_path) as server, closing(server.connect(old := server.caller("old"))) as kept:
        ask(kept)
        sock = kept.sock
        new = server.publish(CertificateAuthority.create("td.example"))
        caller = server.caller("new")
        until(lambda: serial(server, caller) == new.serial)
        with closing(server.connect(old)) as late, pytest.raises((OSError, http.client.HTTPException)):
            ask(late)
        if sock is not None:
            assert ask(kept)["peer"].endswith("/old")
            assert kept.sock is sock


@pytest.mark.parametrize("server", ASGI if FULL else CHATTY, indirect=True)
def test_a_websocket_names_its_client_too(server: Served) -> None:
    """Two at once; each message is answered with its own client's name."""
    uri = f"wss://127.0.0.1:{server.port}/"
    with (
        connect(uri, ssl=server.caller("a"), proxy=None) as first,
        connect(uri, ssl=server.caller("b"), proxy=None) as second,
    ):
        for _ in range(3):
            for client, account in ((first, "a"), (second, "b")):
                client.send("hello")
                assert json.loads(client.recv(TIMEOUT))["peer"] == f"spiffe://td.example/ns/prod/sa/{account}"
