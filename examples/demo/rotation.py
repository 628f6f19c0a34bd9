"""New certificates and a new trust root while requests go on: not one may fail.

The order is the one that every rotation needs. First everybody trusts the old root and the new one; only then is
anybody given a certificate from the new one.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from meshsec.ca import CertificateAuthority, write_identity
from meshsec.spiffe import X509Svid

from .world import PATIENCE, SERVERS, World, get, wait_for

__all__ = ["Load", "Rotation", "rotate_under_load"]

CALLS: Final = 300
THREADS: Final = 6
PACE: Final = 0.06  # seconds between two calls of one thread, so that the calls span the whole rotation


@dataclass(frozen=True, slots=True)
class Rotation:
    """What changed, and what it cost.

    Attributes:
        before: the serial number that each server showed, in hexadecimal.
        after: the same, afterwards.
        fresh: calls over a connection of their own.
        kept: calls over a connection that was kept alive.
        failed: what went wrong, one line each.
    """

    before: dict[str, str]
    after: dict[str, str]
    fresh: int
    kept: int
    failed: list[str]

    @property
    def ok(self) -> bool:
        """Every call answered, every certificate new."""
        changed = all(self.before[name] != self.after[name] for name in SERVERS)
        return changed and not self.failed and self.fresh + self.kept >= CALLS


@dataclass(slots=True)
class Load:
    """Callers in threads: half of them keep their connection, half make one for each call."""

    world: World
    token: str
    fresh: int = 0
    kept: int = 0
    failed: list[str] = field(default_factory=list)
    _context: ssl.SSLContext = field(init=False)
    _enough: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Take the caller's certificate and roots from their files again, for connections yet to be made."""
        self._context = self.world.context("ingress")

    @property
    def done(self) -> int:
        """How many calls were made so far."""
        return self.fresh + self.kept

    @contextmanager
    def running(self) -> Iterator[None]:
        """Call until the block is left, and at least 300 times."""
        threads = [threading.Thread(target=self._call, args=(number % 2 == 0,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        try:
            yield
            wait_for(lambda: self.done + len(self.failed) >= CALLS, f"{CALLS} calls")
        finally:
            self._enough.set()
            for thread in threads:
                thread.join()

    def _call(self, keep: bool) -> None:  # noqa: FBT001
        connection = self._connect()
        headers = {"authorization": f"Bearer {self.token}"}
        while not self._enough.wait(PACE):
            try:
                status, body = get(connection, "/reviews/1", headers)
                problem = "" if status == 200 else f"status {status}: {body!r}"
            except (OSError, http.client.HTTPException) as error:
                problem = repr(error)
            self._count(keep, problem)
            if problem or not keep:
                connection.close()
                connection = self._connect()
        connection.close()

    def _connect(self) -> http.client.HTTPSConnection:
        port = self.world.port("productpage")
        return http.client.HTTPSConnection("localhost", port, context=self._context, timeout=PATIENCE)

    def _count(self, keep: bool, problem: str) -> None:  # noqa: FBT001
        with self._lock:
            if problem:
                self.failed.append(problem)
            elif keep:
                self.kept += 1
            else:
                self.fresh += 1


def rotate_under_load(world: World, load: Load) -> Rotation:
    """Replace the root and both servers' certificates while ``load`` runs."""
    before = {name: _serial(world, name) for name in SERVERS}
    with load.running():
        _wait_for_calls(load, 50)
        authority = world.authority.rotate_root()
        _publish_roots(world, authority)
        load.renew()
        _wait_for_calls(load, 50)
        for name in (*SERVERS, "ingress"):
            world.give_identity(name, authority)
        load.renew()
        for name in SERVERS:
            wait_for(partial(_is_new, world, name, before[name]), f"{name}'s new certificate")
        _wait_for_calls(load, 50)
    world.authority = authority
    after = {name: _serial(world, name) for name in SERVERS}
    return Rotation(before, after, load.fresh, load.kept, load.failed)


def _wait_for_calls(load: Load, count: int) -> None:
    enough = load.done + len(load.failed) + count
    wait_for(lambda: load.done + len(load.failed) >= enough, f"{count} more calls")


def _publish_roots(world: World, authority: CertificateAuthority) -> None:
    """Everybody keeps the old certificate and trusts both roots; ends when both servers do."""
    for name in (*SERVERS, "ingress", "intruder"):
        folder = world.identity(name)
        svid = X509Svid.from_pem((folder / "cert-chain.pem").read_bytes(), (folder / "key.pem").read_bytes())
        write_identity(folder, svid, authority.bundle)
    world.give_identity("probe", authority, service_account="ingress")
    for name in SERVERS:
        # A caller with a certificate from the new root is let in as soon as the server trusts that root.
        wait_for(partial(world.healthy, name, "probe"), f"{name} to trust both roots")


def _is_new(world: World, service: str, old: str) -> bool:
    return _serial(world, service) != old


def _serial(world: World, service: str) -> str:
    """The serial number of the certificate that a server shows now."""
    with (
        socket.create_connection(("127.0.0.1", world.port(service)), timeout=PATIENCE) as plain,
        world.context("ingress").wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        certificate = connection.getpeercert() or {}
    return str(certificate["serialNumber"]).lower()
