"""A whole rotation while real services call each other: not one call fails."""

from __future__ import annotations

import http.client
import random
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest

from meshsec import Mesh, MeshConfig, SpiffeId, Workload
from meshsec.ca import AuthorityFolder, CertificateAuthority, FolderStore, Rotator
from meshsec.sources import FileIdentity
from meshsec.spiffe import X509BundleSet
from meshsec.tls import StaticMaterial, authorize_id, client_context, server_context
from world import serve

TD = "cluster.local"
IDS = {name: SpiffeId.for_service_account(TD, "prod", name) for name in ("web", "reviews")}


class Callers:
    """Threads that call without a pause; half of them keep their connection."""

    def __init__(self, web: Mesh, port: int) -> None:
        self.context = web.client_context(authorize=IDS["reviews"])
        self.port = port
        self.calls = 0
        self.failed: list[str] = []
        self._enough = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._call, args=(number % 2 == 0,)) for number in range(4)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, more: int) -> None:
        """Until so many more calls were made."""
        goal, end = self.calls + more, time.monotonic() + 30
        while self.calls < goal and not self.failed and time.monotonic() < end:
            self._enough.wait(0.005)

    def _call(self, keep: bool) -> None:
        connection = self._connect()
        while not self._enough.is_set():
            try:
                connection.request("GET", "/")
                connection.getresponse().read()
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
            with self._lock:
                self.calls += 1
            if not keep:
                connection.close()
                connection = self._connect()
        connection.close()

    def _connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=self.context, timeout=10)


def mesh(name: str, store: FolderStore) -> Mesh:
    """A service whose certificates are the files of the store."""
    return Mesh(
        workload=Workload(name=name, namespace="prod", service_account=name),
        config=MeshConfig(trust_domain=TD, allow_no_policy=True),
        identity=FileIdentity(store.path(IDS[name]), TD),
    )


def test_a_root_is_replaced_while_services_call_each_other(tmp_path: Path) -> None:
    """Three steps, a renewed root and a revocation, each brought to both services at different moments."""
    authority = AuthorityFolder.create(tmp_path / "ca", CertificateAuthority.create(TD))
    store = FolderStore(tmp_path / "store")
    rotator = Rotator(authority, store, IDS.values)
    rotator.sweep()
    first = store.read(IDS["web"])
    with mesh("web", store) as web, mesh("reviews", store) as reviews:
        steps: list[Callable[[], object]] = [
            authority.renew_root,
            authority.publish_root,
            lambda: authority.activate_root(settle=0),
            lambda: authority.revoke(f"{first.svid.serial:x}", reason="superseded"),
            lambda: authority.retire_old_roots(force=True),
        ]
        with serve(reviews.server_context()) as server, Callers(web, server.server_address[1]) as callers:
            for step in steps:
                step()
                assert rotator.sweep().failed == {}
                for service in (reviews, web):  # each sees its files at a moment of its own, as in production
                    _look(service)
                    callers.wait_for(20)
        assert callers.failed == []
        assert callers.calls >= 200
    last = store.read(IDS["web"])
    assert first.bundle.der.isdisjoint(last.bundle.der)
    assert first.svid != last.svid


def test_a_root_replaced_all_at_once_fails_calls(tmp_path: Path) -> None:
    """The twin: without the step in which all trust both roots, whoever is first is refused by whoever is not."""
    authority = AuthorityFolder.create(tmp_path / "ca", CertificateAuthority.create(TD))
    store = FolderStore(tmp_path / "store")
    rotator = Rotator(authority, store, IDS.values)
    rotator.sweep()
    with mesh("web", store) as web, mesh("reviews", store) as reviews:
        with serve(reviews.server_context()) as server, Callers(web, server.server_address[1]) as callers:
            callers.wait_for(20)
            assert callers.failed == []
            authority.publish_root()
            authority.activate_root(settle=0)
            authority.retire_old_roots(force=True)
            assert rotator.sweep().failed == {}
            _look(reviews)
            callers.wait_for(50)
        assert callers.failed


def test_mounted_files_are_good_at_any_moment(tmp_path: Path, many: int) -> None:
    """Accounts (in full a thousand) go through all three steps, while threads connect with what is mounted then."""
    ids = [SpiffeId.for_service_account(TD, "prod", f"a{number}") for number in range(many)]
    authority = AuthorityFolder.create(tmp_path / "ca", CertificateAuthority.create(TD))
    store = FolderStore(tmp_path / "store")
    rotator = Rotator(authority, store, lambda: ids)
    rotator.sweep()
    over, failed, connected = threading.Event(), list[str](), [0]

    def connect(seed: int) -> None:
        randomness = random.Random(seed)
        while not over.is_set():
            server, client = randomness.sample(ids, 2)
            try:
                _connect(store, server, client)
                connected[0] += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
                failed.append(f"{client} to {server}: {error!r}")

    threads = [threading.Thread(target=connect, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    try:
        for step in (
            authority.publish_root,
            lambda: authority.activate_root(settle=0),
            lambda: authority.retire_old_roots(force=True),
        ):
            step()
            assert rotator.sweep().failed == {}
            goal, end = connected[0] + 20, time.monotonic() + 30
            while connected[0] < goal and time.monotonic() < end:
                over.wait(0.005)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failed == []
    assert connected[0] >= 60


def test_what_is_swapped_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above all the list of what is revoked: where it is gone with its generation, there is not none."""
    authority = AuthorityFolder.create(tmp_path / "ca", CertificateAuthority.create(TD))
    store, web = FolderStore(tmp_path / "store"), IDS["web"]
    rotator = Rotator(authority, store, lambda: [web])
    rotator.sweep()
    authority.revoke(f"{authority.authority.issue_x509_svid(IDS['reviews']).serial:x}")
    rotator.sweep()
    real, swaps = Path.exists, iter([authority.publish_root])

    def exists(path: Path) -> bool:
        if path.name == "ca-crl.pem" and path.is_relative_to(store.folder):  # other tests' threads read, too
            for swap in swaps:  # at the worst moment, once
                swap()
                assert rotator.sweep().published == (str(web),)
        return real(path)

    monkeypatch.setattr(Path, "exists", exists)
    found = FileIdentity(store.path(web), TD).read(time.time())
    assert found.revoked.entries
    assert len(found.bundle.x509_authorities) == 2


def _connect(store: FolderStore, server: SpiffeId, client: SpiffeId) -> None:
    """A handshake between two accounts with the files that they find at this moment."""
    read = [FileIdentity(store.path(item), TD).read(time.time()) for item in (server, client)]
    ours, theirs = (StaticMaterial(item.svid, X509BundleSet([item.bundle])) for item in read)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (
        client_context(theirs, authorize=authorize_id(server)).wrap_bio(to_client, to_server, server_hostname="x"),
        server_context(ours).wrap_bio(to_server, to_client, server_side=True),
    )
    done = set[int]()
    for _ in range(6):
        for number, side in enumerate(sides):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
                done.add(number)
    assert done == {0, 1}


def _look(service: Mesh) -> None:
    """What the background thread does every second, now."""
    keeper = service._identity
    assert keeper
    keeper.load(time.time())
