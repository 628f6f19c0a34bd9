"""Real servers, each a process of its own: who is connected, who is refused, what rotates."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from websockets.sync.client import connect

from meshsec.ca import CertificateAuthority, write_identity
from meshsec.spiffe import X509BundleSet, X509Svid
from meshsec.tls import StaticMaterial, authorize_id, client_context
from pki import TestCA
from wire import careless

HERE: Final = Path(__file__).parent
TIMEOUT: Final = 30.0
SERVER_ID: Final = "spiffe://td.example/ns/prod/sa/served"
MESH_YAML: Final = """
workloads:
  served: {namespace: prod, serviceAccount: served, identity: {files: identity}}
meshConfig: {trustDomain: td.example}
allowNoPolicy: true
"""

UVICORN: Final[dict[str, dict[str, Any]]] = {
    "uvicorn httptools uvloop": {"http": "httptools", "loop": "uvloop"},
    "uvicorn h11 asyncio": {"http": "h11", "loop": "asyncio"},
}
GUNICORN: Final[dict[str, str]] = {
    "gunicorn sync": "workers = 1",
    "gunicorn gthread": "workers = 1\nthreads = 8\nkeepalive = 30",
}


@dataclass
class Served:
    """A running server and the authority that its mesh trusts."""

    process: subprocess.Popen[str]
    port: int
    authority: CertificateAuthority
    identity: Path
    log: list[str] = field(default_factory=list)

    def caller(self, account: str) -> ssl.SSLContext:
        """A context for a workload of the mesh."""
        svid = self.authority.issue_x509_svid(f"spiffe://td.example/ns/prod/sa/{account}")
        source = StaticMaterial(svid, X509BundleSet([self.authority.bundle]))
        return client_context(source, authorize=authorize_id(SERVER_ID))

    def connect(self, context: ssl.SSLContext) -> http.client.HTTPSConnection:
        """A connection that may be kept alive."""
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=TIMEOUT)

    def publish(self, authority: CertificateAuthority) -> X509Svid:
        """Give the server a new identity from that authority, as a kubelet would."""
        self.authority = authority
        svid = authority.issue_x509_svid(SERVER_ID)
        write_identity(self.identity, svid, authority.bundle)
        return svid


def ask(connection: http.client.HTTPSConnection, body: bytes = b"") -> dict[str, Any]:
    """One request; who it says that we are."""
    connection.request("POST", "/", body=body)
    answer = json.loads(connection.getresponse().read())
    assert isinstance(answer, dict)
    return answer


def _command(name: str, folder: Path, port: int) -> list[str]:
    if name in UVICORN:
        return [sys.executable, str(HERE / "served.py"), str(port), json.dumps(UVICORN[name])]
    return [sys.executable, "-m", "gunicorn", "-c", str(_gunicorn_conf(folder, port, GUNICORN[name])), "served:wsgi"]


def _gunicorn_conf(folder: Path, port: int, more: str) -> Path:
    conf = folder / "gunicorn.conf.py"
    conf.write_text(f"from meshsec.servers.gunicorn import *\nbind = '127.0.0.1:{port}'\n{more}\n")
    return conf


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _environment(folder: Path) -> dict[str, str]:
    paths = [str(HERE), str(HERE.parents[1] / "src"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "MESHSEC_CONFIG": str(folder)}


def _start(command: list[str], folder: Path) -> subprocess.Popen[str]:
    environment = _environment(folder)
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)


@contextmanager
def serving(folder: Path, command: list[str], port: int, authority: CertificateAuthority) -> Iterator[Served]:
    """Start a server, wait until it says that it listens, and stop it with all its workers."""
    process = _start(command, folder)
    served = Served(process, port, authority, folder / "identity")
    listening = threading.Event()

    def read() -> None:
        for line in process.stderr or ():
            served.log.append(line)
            if re.search(r"Listening at|running on", line):
                listening.set()
        listening.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert listening.wait(TIMEOUT), served.log
        assert process.poll() is None, "".join(served.log)
        yield served
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(TIMEOUT)
        finally:
            # What a test has broken may not go by itself; the group is the server and its workers, nobody else.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            reader.join(TIMEOUT)
            if process.stderr:
                process.stderr.close()


def _mesh(folder: Path) -> CertificateAuthority:
    (folder / "mesh.yaml").write_text(MESH_YAML)
    authority = CertificateAuthority.create("td.example")
    write_identity(folder / "identity", authority.issue_x509_svid(SERVER_ID), authority.bundle)
    return authority


@pytest.fixture(params=[*UVICORN, *GUNICORN])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    """Each of the servers in turn."""
    port = _free_port()
    authority = _mesh(tmp_path)
    with serving(tmp_path, _command(request.param, tmp_path, port), port, authority) as served:
        yield served


@pytest.mark.parametrize("server", [*UVICORN, *GUNICORN], indirect=True)
def test_every_request_names_its_own_client(server: Served) -> None:
    """Twenty clients with twenty SVIDs at once, small and large bodies mixed; no answer names another."""
    together = threading.Barrier(20)

    def client(number: int) -> set[tuple[str, int]]:
        with closing(server.connect(server.caller(f"client-{number}"))) as connection:
            together.wait(TIMEOUT)
            sizes = [0, 100_000, 10, 30_000, 0]
            answers = [ask(connection, b"x" * size) for size in sizes]
            assert [answer["length"] for answer in answers] == sizes
            return {(answer["peer"], answer["port"]) for answer in answers}

    with ThreadPoolExecutor(20) as pool:
        named = list(pool.map(client, range(20)))
    assert named == [{(f"spiffe://td.example/ns/prod/sa/client-{number}", server.port)} for number in range(20)]


def test_who_is_not_of_the_mesh_is_refused(server: Served) -> None:
    """No certificate, a stranger's, plain HTTP, old TLS: the connection ends, and the application never runs."""
    old = careless("client", TestCA("td.example").leaf())
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    stranger = careless("client", TestCA("td.example").leaf("/ns/prod/sa/served"))
    for context in (careless("client"), stranger, old):
        with closing(server.connect(context)) as connection, pytest.raises((OSError, http.client.HTTPException)):
            ask(connection)
    with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT) as plain:
        plain.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
        assert b"HTTP" not in _everything(plain)
    with closing(server.connect(server.caller("welcome"))) as connection:
        assert ask(connection)["calls"] == 1
    refusals = [line for line in server.log if line.startswith("meshsec.tls refused a TLS client")]
    assert len(refusals) == 4, server.log


def _everything(sock: socket.socket) -> bytes:
    try:
        return b"".join(iter(lambda: sock.recv(4096), b""))
    except ConnectionError:
        return b""


def test_certificate_and_root_rotate_while_a_connection_is_open(server: Served) -> None:
    """New connections see the new certificate, the old root is refused, an open connection is not disturbed."""
    old = server.caller("old")
    with closing(server.connect(old)) as kept:
        ask(kept)
        sock = kept.sock
        new = server.publish(CertificateAuthority.create("td.example"))
        caller = server.caller("new")
        _until(lambda: _serial(server, caller) == new.serial)
        with closing(server.connect(old)) as late, pytest.raises((OSError, http.client.HTTPException)):
            ask(late)
        if sock is not None:
            assert ask(kept)["peer"].endswith("/old")
            assert kept.sock is sock


def _serial(server: Served, context: ssl.SSLContext) -> int | None:
    try:
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT) as raw,
            context.wrap_socket(raw) as sock,
        ):
            certificate = sock.getpeercert() or {}
            return int(str(certificate["serialNumber"]), 16)
    except OSError:
        return None


def _until(holds: Any) -> None:
    """Ask again and again until it holds; the server looks at its files once a second."""
    end = time.monotonic() + TIMEOUT
    while not holds():
        assert time.monotonic() < end


@pytest.mark.parametrize("server", [*UVICORN], indirect=True)
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


def test_uvicorn_workers_load_their_own_mesh(tmp_path: Path) -> None:
    """With workers the mesh comes from the environment, in each of them."""
    port, authority = _free_port(), _mesh(tmp_path)
    command = [sys.executable, str(HERE / "served.py"), str(port), json.dumps({"workers": 2})]
    with serving(tmp_path, command, port, authority) as server:
        caller = server.caller("early")
        _until(lambda: _serial(server, caller) is not None)  # the parent says that it runs before its workers do
        for number in range(4):
            with closing(server.connect(server.caller(f"c{number}"))) as connection:
                assert ask(connection)["peer"].endswith(f"/c{number}")


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("worker_class = 'asgi'", "is not supported yet"),
        ("bind = ['127.0.0.1:0']", "exactly one TCP port"),
        ("bind = 'unix:{folder}/x.sock'", "exactly one TCP port"),
        ("bind = ['127.0.0.1:1', '127.0.0.1:2']", "exactly one TCP port"),
    ],
)
def test_gunicorn_does_not_start_what_it_cannot_serve_safely(more: str, reason: str, tmp_path: Path) -> None:
    """It exits with the reason instead."""
    _mesh(tmp_path)
    conf = _gunicorn_conf(tmp_path, 1, more.format(folder=tmp_path))
    process = _start([sys.executable, "-m", "gunicorn", "-c", str(conf), "served:wsgi"], tmp_path)
    _, log = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert reason in log


@pytest.mark.parametrize(
    "more",
    [
        "on_starting = lambda server: None\nworker_class = 'asgi'",
        "on_starting = lambda server: None\nbind = ['127.0.0.1:{port}', 'unix:{folder}/x.sock']",
        "raw_env = ['MESHSEC_CONFIG=/nowhere']",
        "ssl_context = lambda conf, default: default()",
    ],
)
def test_gunicorn_never_falls_back_to_plaintext(more: str, tmp_path: Path) -> None:
    """Whatever a configuration breaks, no application answers on the port, over TLS or in plaintext."""
    port, authority = _free_port(), _mesh(tmp_path)
    conf = _gunicorn_conf(tmp_path, port, more.format(folder=tmp_path, port=port))
    app = "served:asgi" if "asgi" in more else "served:wsgi"
    with serving(tmp_path, [sys.executable, "-m", "gunicorn", "-c", str(conf), app], port, authority) as server:
        for context in (careless("client"), server.caller("welcome")):
            with closing(server.connect(context)) as connection, pytest.raises((OSError, http.client.HTTPException)):
                ask(connection)
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as plain:
            plain.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
            assert b"200" not in _everything(plain)
