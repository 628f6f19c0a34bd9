"""Real servers: what starts, what does not, and what is never served in plaintext."""

from __future__ import annotations

import http.client
import json
import socket
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import pytest

from live import HERE, TIMEOUT, ask, everything, free_port, gunicorn_conf, mesh, serial, serving, start
from meshsec.ca import CertificateAuthority
from pki import TestCA
from waiting import until
from wire import careless


@pytest.mark.parametrize("kind", ["uvicorn", "hypercorn"])
def test_workers_load_their_own_mesh(kind: str, tmp_path: Path) -> None:
    """The mesh comes from the environment, in each of them; both serve, and each names its clients."""
    port, authority = free_port(), mesh(tmp_path)
    arguments = [sys.executable, str(HERE / "served.py"), kind, str(port), json.dumps({"workers": 2}), "judged_"]
    with serving(tmp_path, arguments, port, authority) as server:
        caller = server.caller("early")
        until(lambda: serial(server, caller) is not None)  # the parent says that it runs before its workers do
        processes = set()

        def both_have_answered() -> bool:
            name = f"c{len(processes)}"
            with closing(server.connect(server.caller(name))) as connection:
                answer = ask(connection)
            assert answer["peer"].endswith(f"/{name}")
            processes.add(answer["process"])
            return len(processes) == 2

        until(both_have_answered)  # the kernel chooses who accepts


def test_flask_run_serves_with_our_context(tmp_path: Path) -> None:
    """As a process of its own, from the command line alone; who is not of the mesh does not come through."""
    port, authority = free_port(), mesh(tmp_path)
    cert = ["--cert", "meshsec.servers.werkzeug.context"]
    arguments = [sys.executable, "-m", "flask", "--app", "served:flask_app", "run", "--port", str(port), *cert]
    with serving(tmp_path, arguments, port, authority) as server:
        for number in range(2):
            with closing(server.connect(server.caller(f"c{number}"))) as connection:
                answer = ask(connection, b"x" * 1000)
            assert (answer["peer"], answer["length"]) == (f"spiffe://td.example/ns/prod/sa/c{number}", 1000)
        for context in (careless("client"), careless("client", TestCA("td.example").leaf("/ns/prod/sa/c0"))):
            with closing(server.connect(context)) as connection, pytest.raises((OSError, http.client.HTTPException)):
                ask(connection)
        new = server.publish(CertificateAuthority.create("td.example"))
        caller = server.caller("new")
        until(lambda: serial(server, caller) == new.serial)


def test_a_mesh_that_was_loaded_before_the_fork_rotates_in_every_worker(tmp_path: Path) -> None:
    """gunicorn's preload_app: threads do not survive a fork, and both workers follow the files all the same."""
    port, authority = free_port(), mesh(tmp_path)
    early = "from meshsec.servers import current_mesh\ncurrent_mesh().start()\n"
    conf = gunicorn_conf(tmp_path, port, early + "workers = 2\npreload_app = True")
    arguments = [sys.executable, "-m", "gunicorn", "-c", str(conf), "served:judged_wsgi"]
    with serving(tmp_path, arguments, port, authority) as server:
        with closing(server.connect(server.caller("early"))) as connection:
            until(lambda: ask(connection)["peer"].endswith("/early"))
        server.publish(CertificateAuthority.create("td.example"))
        caller, processes = server.caller("new"), set()

        def both_take_the_new_authority() -> bool:
            with closing(server.connect(caller)) as connection, suppress(OSError, http.client.HTTPException):
                processes.add(ask(connection)["process"])
            return len(processes) == 2

        until(both_take_the_new_authority)


PROBED: Final = {
    "gunicorn": "def when_ready(_):\n    listen(current_mesh(), port={probes}, host='127.0.0.1')\n",
    "uvicorn": "listen(current_mesh(), port={probes}, host='127.0.0.1')\n"
    "run(served.judged_asgi, mesh=current_mesh(), port={port})\n",
}
IMPORTS: Final = "from meshsec.servers import current_mesh\nfrom meshsec.servers.probes import listen\n"


@pytest.mark.parametrize("kind", PROBED)
def test_probes_are_answered_beside_the_server(kind: str, tmp_path: Path) -> None:
    """In plaintext, on a port of their own, and nothing of the application is to be had there."""
    port, probes, authority = free_port(), free_port(), mesh(tmp_path)
    lines = IMPORTS + PROBED[kind].format(port=port, probes=probes)
    if kind == "gunicorn":
        arguments = ["-m", "gunicorn", "-c", str(gunicorn_conf(tmp_path, port, lines)), "served:judged_wsgi"]
    else:
        arguments = ["-c", f"import served\nfrom meshsec.servers.uvicorn import run\n{lines}"]
    with serving(tmp_path, [sys.executable, *arguments], port, authority) as server:
        with closing(server.connect(server.caller("web"))) as connection:
            assert ask(connection)["peer"].endswith("/web")
        answers = {}
        for path in ("/livez", "/readyz", "/"):
            with closing(http.client.HTTPConnection("127.0.0.1", probes, timeout=TIMEOUT)) as plain:
                plain.request("GET", path)
                response = plain.getresponse()
                answers[path] = (response.status, response.read())
    assert answers == {"/livez": (200, b""), "/readyz": (200, b""), "/": (404, b"")}


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("worker_class = 'asgi'", "is not supported: use one of"),
        ("worker_class = 'gevent'", "gevent.monkey.patch_all() must come first"),
        ("import gevent.monkey\ngevent.monkey.patch_all()\nworker_class = 'gevent'", "must come first"),
        ("bind = ['127.0.0.1:0']", "exactly one TCP port"),
        ("bind = 'unix:{folder}/x.sock'", "exactly one TCP port"),
        ("bind = ['127.0.0.1:1', '127.0.0.1:2']", "exactly one TCP port"),
    ],
)
def test_gunicorn_does_not_start_what_it_cannot_serve_safely(more: str, reason: str, tmp_path: Path) -> None:
    """It exits with the reason instead."""
    mesh(tmp_path)
    conf = gunicorn_conf(tmp_path, 1, more.format(folder=tmp_path))
    process = start([sys.executable, "-m", "gunicorn", "-c", str(conf), "served:wsgi"], tmp_path)
    _, log = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert reason in log


@pytest.mark.parametrize(
    "more",
    [
        "on_starting = lambda server: None\nworker_class = 'asgi'",
        "on_starting = lambda server: None\nworker_class = 'gevent'",
        "on_starting = lambda server: None\nbind = ['127.0.0.1:{port}', 'unix:{folder}/x.sock']",
        "raw_env = ['MESHSEC_CONFIG=/nowhere']",
        "ssl_context = lambda conf, default: default()",
    ],
)
def test_gunicorn_never_falls_back_to_plaintext(more: str, tmp_path: Path) -> None:
    """Whatever a configuration breaks, no application answers on the port, over TLS or in plaintext."""
    port, authority = free_port(), mesh(tmp_path)
    conf = gunicorn_conf(tmp_path, port, more.format(folder=tmp_path, port=port))
    app = "served:asgi" if "asgi" in more else "served:wsgi"
    with serving(tmp_path, [sys.executable, "-m", "gunicorn", "-c", str(conf), app], port, authority) as server:
        for context in (careless("client"), server.caller("welcome")):
            with closing(server.connect(context)) as connection, pytest.raises((OSError, http.client.HTTPException)):
                ask(connection)
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as plain:
            plain.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
            assert b"200" not in everything(plain)
