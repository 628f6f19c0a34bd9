"""New certificates and a new trust root while requests go on: not one may fail.

The order is the one that every rotation needs. First everybody trusts the old root and the new one; only then is
anybody given a certificate from the new one; and when everybody has one, the old root is trusted no more.
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

from meshsec.ca import write_identity

from .world import PATIENCE, SERVERS, World, account, get, wait_for

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
    _held: dict[int, ssl.SSLContext] = field(default_factory=dict)
    _enough: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Take the caller's certificate and roots from their files again, for connections yet to be made."""
        self._context = self.world.context("ingress")

    @property
    def settled(self) -> bool:
        """Whether no caller holds a connection that it made with an older certificate."""
        return all(context is self._context for context in self._held.values())

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
            if problem or not keep or self._held[threading.get_ident()] is not self._context:
                connection.close()
                connection = self._connect()
        connection.close()

    def _connect(self) -> http.client.HTTPSConnection:
        context = self._held[threading.get_ident()] = self._context
        port = self.world.port("productpage")
        return http.client.HTTPSConnection("localhost", port, context=context, timeout=PATIENCE)

    def _count(self, keep: bool, problem: str) -> None:  # noqa: FBT001
        with self._lock:
            if problem:
                self.failed.append(problem)
            elif keep:
                self.kept += 1
            else:
                self.fresh += 1


def rotate_under_load(world: World, load: Load) -> Rotation:
    """Replace the root and all certificates while ``load`` runs, in the authority's three steps."""
    before = {name: _serial(world, name) for name in SERVERS}
    steps = (_publish, _activate, _retire)
    with load.running():
        for step in steps:
            _wait_for_calls(load, 50)
            step(world, load)
        _wait_for_calls(load, 50)
    after = {name: _serial(world, name) for name in SERVERS}
    return Rotation(before, after, load.fresh, load.kept, load.failed)


def _publish(world: World, load: Load) -> None:
    """Everybody keeps the old certificate and trusts both roots; ends when all do."""
    state = world.authority.publish_root().state
    world.sweep()
    load.renew()
    new = world.authority.authority.with_state(state.activate_root(state.since)).issue_x509_svid(account("ingress"))
    write_identity(world.identity("new"), new, state.bundle)
    for name in SERVERS:
        # A caller with a certificate from the new root is let in as soon as the server trusts that root.
        wait_for(partial(world.healthy, name, "new"), f"{name} to trust both roots")


def _activate(world: World, load: Load) -> None:
    """Everybody gets a certificate from the new root; ends when all show theirs."""
    old = world.store.read(account("ingress"))
    write_identity(world.identity("old"), old.svid, old.bundle)
    before = {name: _serial(world, name) for name in SERVERS}
    world.authority.activate_root(settle=0)
    world.sweep()
    load.renew()
    for name in SERVERS:
        wait_for(partial(_is_new, world, name, before[name]), f"{name}'s new certificate")
    wait_for(lambda: load.settled, "the callers' new certificate")


def _retire(world: World, load: Load) -> None:
    """Nobody trusts the old root any more; ends when a certificate from it opens no door."""
    world.authority.retire_old_roots(force=True)
    world.sweep()
    load.renew()
    for name in SERVERS:
        wait_for(partial(_refuses, world, name), f"{name} to distrust the old root")


def _refuses(world: World, service: str) -> bool:
    """Whether a certificate from the old root is refused, and one from the new root is not."""
    try:
        world.healthy(service, "old")
    except OSError:
        return world.healthy(service)
    return False


def _wait_for_calls(load: Load, count: int) -> None:
    enough = load.done + len(load.failed) + count
    wait_for(lambda: load.done + len(load.failed) >= enough, f"{count} more calls")


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
