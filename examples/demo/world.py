"""The demo's world: a run folder, an authority, identities, and the processes that live in it.

Everything is made anew for each run, on free ports, and ended with it.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from meshsec import SpiffeId
from meshsec.ca import AuthorityFolder, CertificateAuthority, FolderStore, Rotator, write_identity

from .issuer import SECRET

EXAMPLES: Final = Path(__file__).parents[1]
TRUST_DOMAIN: Final = "cluster.local"
NAMESPACE: Final = "prod"
SERVERS: Final = ("productpage", "reviews")
CALLERS: Final = ("ingress", "intruder")
WRITTEN: Final = {"8443": "productpage", "8444": "reviews", "9000": "issuer"}  # the port numbers in ../mesh
PATIENCE: Final = 30.0  # seconds that anything may take to become true


class DemoError(Exception):
    """The demo could not be carried out; the message says why."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the processes listen."""

    productpage: int
    reviews: int
    issuer: int

    @classmethod
    def free(cls) -> Ports:
        """Three free ports, below those that the system gives to outgoing connections."""
        found: list[int] = []
        while len(found) < 3:
            port = random.randrange(20000, 32000)
            with socket.socket() as probe, suppress(OSError):
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
                found.append(port)
        return cls(*found)


@dataclass(slots=True)
class Process:
    """A child with its log file."""

    name: str
    child: subprocess.Popen[bytes]
    log: Path

    def end(self) -> None:
        """Ask it and all its own children to stop; insist after five seconds."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self.child.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self.child.wait(5)
                return

    def lines(self) -> list[str]:
        """What it has logged so far."""
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()


@dataclass(slots=True)
class World:
    """What a call, a rotation or a person with curl needs to know."""

    folder: Path
    ports: Ports
    authority: AuthorityFolder
    processes: dict[str, Process] = field(default_factory=dict)

    @property
    def mesh(self) -> Path:
        """The central folder, with this run's ports."""
        return self.folder / "mesh"

    @property
    def issuer(self) -> str:
        """The issuer's URL, which is also the ``iss`` of its tokens."""
        return f"http://127.0.0.1:{self.ports.issuer}"

    @property
    def store(self) -> FolderStore:
        """Where the authority puts identities and services mount them."""
        return FolderStore(self.folder / "identities")

    def identity(self, name: str) -> Path:
        """The folder with a workload's certificate chain, key and trust roots."""
        return self.store.path(account(name)) if name in (*SERVERS, *CALLERS) else self.folder / name

    def port(self, service: str) -> int:
        """Where a process listens."""
        return int(getattr(self.ports, service))

    def log(self, service: str) -> list[str]:
        """What a process has logged so far."""
        return self.processes[service].lines()

    def context(self, caller: str | None) -> ssl.SSLContext:
        """A plain client context of the standard library: the mesh's roots, and the caller's certificate if any."""
        context = ssl.create_default_context(cafile=str(self.identity("ingress") / "root-cert.pem"))
        if caller is not None:
            folder = self.identity(caller)
            context.load_cert_chain(folder / "cert-chain.pem", folder / "key.pem")
        return context

    def sweep(self) -> None:
        """Give every workload what the authority wants it to have now, as ``meshsec ca run`` does all the time."""
        for names, dns_names in ((SERVERS, ["localhost"]), (CALLERS, [])):
            accounts = [account(name) for name in names]
            failed = Rotator(self.authority, self.store, accounts.copy, dns_names=dns_names).sweep().failed
            if failed:
                raise DemoError(f"identities could not be stored: {failed}")

    def start(self, name: str, argv: list[str], *, folder: Path, env: Mapping[str, str] | None = None) -> None:
        """Start a child in a process group of its own, its output going to a log file."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            child = subprocess.Popen(
                argv,
                cwd=folder,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes[name] = Process(name, child, log)

    def start_issuer(self) -> None:
        """The OpenID issuer."""
        argv = [sys.executable, "-m", "examples.demo.issuer", "--port", str(self.ports.issuer)]
        self.start("issuer", argv, folder=EXAMPLES.parent)

    def start_services(self) -> None:
        """productpage on uvicorn and reviews on gunicorn, as their READMEs say."""
        gunicorn = [sys.executable, "-m", "gunicorn", "app:app", "--bind", f"127.0.0.1:{self.ports.reviews}"]
        commands = {"productpage": [sys.executable, "app.py"], "reviews": gunicorn}
        folders = {"productpage": EXAMPLES / "fastapi_app", "reviews": EXAMPLES / "flask_app"}
        for name, argv in commands.items():
            env = {
                "MESHSEC_CONFIG": str(self.mesh),
                "MESHSEC_WORKLOAD": name,
                "MESHSEC_IDENTITY_FILES": str(self.identity(name)),
            }
            self.start(name, argv, folder=folders[name], env=env)

    def end(self) -> None:
        """End every process."""
        for process in self.processes.values():
            process.end()

    def wait_until_ready(self) -> None:
        """Until every process answers; a process that has ended is told about at once."""
        self._wait("issuer", lambda: _answers(f"{self.issuer}/jwks"))
        for name in SERVERS:
            self._wait(name, partial(self.healthy, name))

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        process = self.processes[name]

        def up() -> bool:
            if process.child.poll() is not None:
                raise DemoError(
                    f"{name} ended with status {process.child.returncode}:\n" + "\n".join(process.lines())
                )
            return ready()

        try:
            wait_for(up, f"{name} to answer")
        except TimeoutError as error:
            raise DemoError(f"{error}:\n" + "\n".join(process.lines()[-40:])) from error

    def ask(
        self, caller: str | None, service: str, path: str, *, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """One GET on a new connection; the path goes out exactly as it is written."""
        connection = http.client.HTTPSConnection(
            "localhost", self.port(service), context=self.context(caller), timeout=PATIENCE
        )
        try:
            return get(connection, path, headers or {})
        finally:
            connection.close()

    def healthy(self, service: str, caller: str = "ingress") -> bool:
        """Whether a service lets a caller's certificate in and answers."""
        return self.ask(caller, service, "/health")[0] == 200

    def token(self, client: str) -> str:
        """An access token from the issuer's token endpoint."""
        form = {"grant_type": "client_credentials", "client_id": client, "client_secret": SECRET}
        connection = http.client.HTTPConnection("127.0.0.1", self.ports.issuer, timeout=PATIENCE)
        try:
            connection.request("POST", "/token", urllib.parse.urlencode(form))
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return str(answer["access_token"])


def account(name: str) -> SpiffeId:
    """The identity of a workload."""
    return SpiffeId.for_service_account(TRUST_DOMAIN, NAMESPACE, name)


def get(connection: http.client.HTTPConnection, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """One GET on a connection that may be kept alive; status and body."""
    connection.putrequest("GET", path, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read()


def wait_for(true: Callable[[], bool], what: str, *, patience: float = PATIENCE) -> None:
    """Ask again and again until something is true; a refused connection means not yet."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        with suppress(OSError, http.client.HTTPException):
            if true():
                return
        time.sleep(0.05)
    raise TimeoutError(f"waited {patience:.0f} s for {what}")


def _answers(url: str) -> bool:
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE)
    try:
        return get(connection, parts.path, {})[0] == 200
    finally:
        connection.close()


def copy_mesh(target: Path, ports: Mapping[str, int]) -> None:
    """The central folder of ../mesh, with other port numbers."""
    target.mkdir(parents=True)
    for source in sorted((EXAMPLES / "mesh").glob("*.yaml")):
        text = source.read_text(encoding="utf-8")
        for written, service in WRITTEN.items():
            text = text.replace(written, str(ports[service]))
        (target / source.name).write_text(text, encoding="utf-8")


@contextmanager
def world() -> Iterator[World]:
    """Identities and files on the way in; every child ended and the folder removed on the way out."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshsec-demo-")))
        authority = AuthorityFolder.create(folder / "ca", CertificateAuthority.create(TRUST_DOMAIN))
        made = World(folder, Ports.free(), authority)
        copy_mesh(made.mesh, {name: made.port(name) for name in WRITTEN.values()})
        made.sweep()
        # Another authority that calls itself by our trust domain's name: only its key is not ours.
        foreign = CertificateAuthority.create(TRUST_DOMAIN)
        write_identity(made.identity("foreign"), foreign.issue_x509_svid(account("ingress")), foreign.bundle)
        stack.callback(made.end)
        yield made
