"""Starting real servers, each a process of its own, and calling them."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from meshsec.ca import CertificateAuthority, write_identity
from meshsec.spiffe import X509BundleSet, X509Svid
from meshsec.tls import StaticMaterial, authorize_id, client_context

__all__ = [
    "ASGI",
    "FULL",
    "GUNICORN",
    "HERE",
    "MESH_YAML",
    "OURS",
    "SERVERS",
    "SERVER_ID",
    "TIMEOUT",
    "Served",
    "ask",
    "command",
    "everything",
    "free_port",
    "gunicorn_conf",
    "mesh",
    "serial",
    "serving",
    "start",
]

HERE: Final = Path(__file__).parent / "servers"
TIMEOUT: Final = 30.0
SERVER_ID: Final = "spiffe://td.example/ns/prod/sa/served"
MESH_YAML: Final = """
workloads:
  served: {namespace: prod, serviceAccount: served, identity: {files: identity}}
meshConfig: {trustDomain: td.example}
allowNoPolicy: true
"""

# Whether the long forms are wanted: every server, and the figures of a soak.
FULL: Final = bool(os.environ.get("MESHSEC_FULL"))

# Those that served.py starts: which server, and with what options.
OURS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "uvicorn httptools uvloop": ("uvicorn", {"http": "httptools", "loop": "uvloop"}),
    "uvicorn h11 asyncio": ("uvicorn", {"http": "h11", "loop": "asyncio"}),
    "hypercorn uvloop": ("hypercorn", {}),
    "hypercorn asyncio": ("hypercorn", {"worker_class": "asyncio"}),
    "werkzeug": ("werkzeug", {}),
    "cheroot": ("cheroot", {}),
}
# And gunicorn's workers: the lines of gunicorn.conf.py.
GUNICORN: Final[dict[str, str]] = {
    "gunicorn sync": "workers = 1",
    "gunicorn gthread": "workers = 1\nthreads = 8\nkeepalive = 30\nhttp_protocols = 'h2,h1'",
    "gunicorn gevent": "worker_class = 'gevent'\nhttp_protocols = 'h2,h1'",
    "gunicorn asgi": "worker_class = 'meshsec.servers.gunicorn_asgi.MeshWorker'\nhttp_protocols = 'h2,h1'",
    "gunicorn asgi asyncio": "worker_class = 'meshsec.servers.gunicorn_asgi.MeshWorker'\nasgi_loop = 'asyncio'",
    "gunicorn uvicorn": "worker_class = 'meshsec.servers.gunicorn_uvicorn.MeshWorker'",
}
GEVENT: Final = "import gevent.monkey\ngevent.monkey.patch_all()\n"
LONG: Final = ("hypercorn asyncio", "gunicorn asgi asyncio")
SERVERS: Final = tuple(name for name in (*OURS, *GUNICORN) if FULL or name not in LONG)
ASGI: Final = tuple(name for name in SERVERS if any(word in name for word in ("uvicorn", "hypercorn", "asgi")))


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


def command(name: str, folder: Path, port: int, app: str = "") -> list[str]:
    """How a server is started; ``app`` chooses among the applications of served.py by the start of its name."""
    if name in OURS:
        kind, options = OURS[name]
        return [sys.executable, str(HERE / "served.py"), kind, str(port), json.dumps(options), app]
    conf = gunicorn_conf(folder, port, GUNICORN[name], before=GEVENT if "gevent" in name else "")
    return [sys.executable, "-m", "gunicorn", "-c", str(conf), f"served:{app}{'asgi' if name in ASGI else 'wsgi'}"]


def gunicorn_conf(folder: Path, port: int, more: str, before: str = "") -> Path:
    """A configuration file with our lines in it."""
    conf = folder / "gunicorn.conf.py"
    conf.write_text(f"{before}from meshsec.servers.gunicorn import *\nbind = '127.0.0.1:{port}'\n{more}\n")
    return conf


def free_port() -> int:
    """One that nobody listens on, and that no outgoing connection is given before the server has started."""
    while True:
        port = random.randrange(20_000, 32_000)  # below Linux's ephemeral ports
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _environment(folder: Path) -> dict[str, str]:
    paths = [str(HERE), str(HERE.parents[1] / "src"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "MESHSEC_CONFIG": str(folder)}


def start(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    """A process whose mesh is in that folder."""
    environment = _environment(folder)
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)


@contextmanager
def serving(folder: Path, arguments: list[str], port: int, authority: CertificateAuthority) -> Iterator[Served]:
    """Start a server, wait until it says that it listens, and stop it with all its workers."""
    process = start(arguments, folder)
    served = Served(process, port, authority, folder / "identity")
    listening, ended = threading.Event(), threading.Event()

    def read() -> None:
        for line in process.stderr or ():
            served.log.append(line)
            if re.search(r"Listening at|served listening|[Rr]unning on", line):
                listening.set()
        if not listening.is_set():
            ended.set()
            listening.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert listening.wait(TIMEOUT), served.log
        assert not ended.is_set(), "".join(served.log)
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


def mesh(folder: Path) -> CertificateAuthority:
    """Write a central folder with one workload, and its identity; the authority that made it."""
    (folder / "mesh.yaml").write_text(MESH_YAML)
    authority = CertificateAuthority.create("td.example")
    write_identity(folder / "identity", authority.issue_x509_svid(SERVER_ID), authority.bundle)
    return authority


def everything(sock: socket.socket) -> bytes:
    """What comes until the other side ends it."""
    try:
        return b"".join(iter(lambda: sock.recv(4096), b""))
    except ConnectionError:
        return b""


def serial(server: Served, context: ssl.SSLContext) -> int | None:
    """Of the certificate that it presents; None if it did not come so far."""
    try:
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT) as raw,
            context.wrap_socket(raw) as sock,
        ):
            certificate = sock.getpeercert() or {}
            return int(str(certificate["serialNumber"]), 16)
    except OSError:
        return None
