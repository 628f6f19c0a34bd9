"""Requests that two programs could read differently, as each server hands them on; docs/reference/servers.md.

The middleware judges what the application will see; where a server hides that there was more, the table says so.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from live import FULL, SERVERS, TIMEOUT, Served, command, everything, free_port, mesh, serving

SMALL: Final = ("uvicorn httptools uvloop", "cheroot")
END: Final = "\r\nConnection: close\r\n\r\n"
REQUESTS: Final = {
    "two Hosts": "GET /a HTTP/1.1\r\nHost: x\r\nHost: y" + END,
    "no Host": "GET /a HTTP/1.1" + END,
    "two Authorizations": "GET /a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b" + END,
    "lower-case method": "get /a HTTP/1.1\r\nHost: x" + END,
    "absolute form, other host": "GET http://y/a HTTP/1.1\r\nHost: x" + END,
    "fragment": "GET /a#b HTTP/1.1\r\nHost: x" + END,
    "underscore twins": "GET /a HTTP/1.1\r\nHost: x\r\nX-Role: user\r\nX_Role: admin" + END,
    "TE with CL": "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5"
    + END
    + "0\r\n\r\n",
    "encoded slash": "GET /a%2Fb HTTP/1.1\r\nHost: x" + END,
}
# 400, or the number of header fields that the application saw besides Connection.
REFUSED: Final = "400"
USUAL: Final = {
    **dict.fromkeys(REQUESTS, REFUSED),
    "fragment": "1",
    "underscore twins": "3",
}
WSGI: Final = {"underscore twins": "2"}
OWN: Final[dict[str, dict[str, str]]] = {
    "uvicorn httptools uvloop": {"absolute form, other host": "1"},
    "gunicorn uvicorn": {"absolute form, other host": "1"},
    "hypercorn uvloop": {"lower-case method": "1"},
    "hypercorn asyncio": {"lower-case method": "1"},
    "gunicorn sync": WSGI,
    "gunicorn gthread": WSGI,
    "gunicorn gevent": WSGI,
    "gunicorn asgi": {"underscore twins": "2"},
    "gunicorn asgi asyncio": {"underscore twins": "2"},
    "werkzeug": {**WSGI, "absolute form, other host": "1"},
    "cheroot": {"underscore twins": "2", "fragment": REFUSED},
}


@pytest.mark.parametrize("name", SERVERS if FULL else SMALL)
def test_what_a_server_makes_of_ambiguous_requests(name: str, tmp_path: Path) -> None:
    """Each request on a connection of its own, behind the middleware."""
    port, authority = free_port(), mesh(tmp_path)
    found = {}
    with serving(tmp_path, command(name, tmp_path, port, "judged_"), port, authority) as server:
        caller = server.caller("web")
        for kind, request in REQUESTS.items():
            with caller.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)) as sock:
                sock.sendall(request.encode())
                answer = everything(sock)
            status = answer.split(b" ", 2)[1].decode()
            body = answer.rpartition(b"\r\n\r\n")[2]
            found[kind] = str(json.loads(body)["headers"] - 1) if status == "200" else status
    assert found == {**USUAL, **OWN.get(name, {})}


@pytest.fixture(
    params=["gunicorn gthread", "gunicorn sync", "gunicorn gevent"] if FULL else ["gunicorn gthread"], scope="module"
)
def gunicorn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One for all headers, its application behind the middleware."""
    folder, port = tmp_path_factory.mktemp("gunicorn"), free_port()
    authority = mesh(folder)
    with serving(folder, command(request.param, folder, port, "judged_"), port, authority) as server:
        yield server


@pytest.mark.parametrize(
    ("header", "answer"),
    [("X-Other: /a", "200"), ("SCRIPT_NAME: /a", "200"), ("PATH_INFO: /c", "200"), ("Script-Name: /a", "400")],
)
def test_a_client_of_gunicorn_cannot_choose_the_mount(gunicorn: Served, header: str, answer: str) -> None:
    """By default gunicorn would route another path than was asked for, for whoever connects from this machine."""
    with socket.create_connection(("127.0.0.1", gunicorn.port), timeout=TIMEOUT) as plain:
        sock = gunicorn.caller("web").wrap_socket(plain)
        sock.sendall(f"GET /a/b HTTP/1.1\r\nHost: x\r\n{header}{END}".encode())
        found = everything(sock)
        sock.close()
    assert found.split(b" ", 2)[1].decode() == answer
    if answer == "200":
        assert json.loads(found.rpartition(b"\r\n\r\n")[2])["routed"] == ["", "/a/b"]
