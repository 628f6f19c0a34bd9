"""The rotator: what is missing, damaged, superseded or old is replaced; what fails is reported and tried again."""

from __future__ import annotations

import errno
import logging
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshsec.ca import AuthorityFolder, CertificateAuthority, FolderStore, MemoryStore, Rotator, Sweep
from meshsec.ca._revocation import read_crls
from meshsec.errors import ConfigError, IssuanceError
from meshsec.sources import FileIdentity
from meshsec.spiffe import SpiffeId, X509BundleSet, X509Svid, verify_x509_svid
from meshsec.tls import StaticMaterial, authorize_one_of, client_context, server_context
from pki import NOW, TestCA, key_pem, pem
from threadless import no_more_threads

DAY, HOUR = 86_400, 3600
TD = "td.example"
WEB, CART = (SpiffeId.for_service_account(TD, "prod", name) for name in ("web", "cart"))


class World:
    """An authority in a folder, a store, two accounts, and a clock that stands where it is put."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.now = NOW
        self.accounts = [WEB, CART]
        authority = CertificateAuthority.create(TD, clock=self.clock)
        self.authority = AuthorityFolder.create(folder / "ca", authority, clock=self.clock)
        self.store = FolderStore(folder / "store")
        self.options = options
        self.rotator = self.restarted()

    def clock(self) -> float:
        return self.now

    def restarted(self) -> Rotator:
        return Rotator(self.authority, self.store, lambda: self.accounts, clock=self.clock, **self.options)

    def sweep(self) -> Sweep:
        return self.rotator.sweep()

    def read(self, spiffe_id: SpiffeId) -> X509Svid:
        """What is stored; whole, verifiable and of the right account."""
        stored = self.store.read(spiffe_id)
        assert verify_x509_svid(stored.svid.chain, stored.bundle, now=self.now, role="server") == spiffe_id
        return stored.svid


@pytest.fixture
def world(tmp_path: Path) -> World:
    """One whose accounts have their identities."""
    made = World(tmp_path)
    assert made.sweep().issued == {str(WEB): "it is missing", str(CART): "it is missing"}
    return made


def test_every_account_gets_istios_three_files(world: World) -> None:
    """In NAMESPACE/istio.ACCOUNT, keys for their owner only, and in the record under the rotator's name."""
    folder = world.store.folder / "prod" / "istio.web"
    names = {path.name: path.stat().st_mode & 0o777 for path in folder.glob("*.pem")}
    assert names == {"cert-chain.pem": 0o644, "key.pem": 0o600, "root-cert.pem": 0o644}
    svid = world.read(WEB)
    assert f"{svid.serial:x}" in {item.serial for item in world.authority.issued() if item.requester == "rotator"}


def test_no_thread_to_be_had_is_a_failed_sweep(tmp_path: Path) -> None:
    """At a process's limit of threads the authority goes on; what was issued is stored by the next sweep."""

    world = World(tmp_path)
    with no_more_threads():
        assert world.sweep().failed == {"": "can't start new thread"}
    assert world.sweep().issued.keys() == {str(WEB), str(CART)}
    assert len(list(world.authority.issued())) == 2


def test_nothing_is_done_where_nothing_is_wrong(world: World) -> None:
    """Neither by the same process nor by one that starts anew."""
    for rotator in (world.rotator, world.restarted()):
        assert rotator.sweep() == Sweep(2, {}, (), {})
    assert len(list(world.authority.issued())) == 2


def test_renewal_is_at_half_its_life(world: World) -> None:
    """Give or take a hundredth, at a moment that the certificate itself decides."""
    world.now = NOW + 0.489 * DAY
    assert world.sweep().issued == {}
    world.now = NOW + 0.511 * DAY
    before = world.read(WEB)
    assert world.sweep().issued == {str(WEB): "it is due", str(CART): "it is due"}
    after = world.read(WEB)
    assert before.private_key.public_key() != after.private_key.public_key()


def test_renewals_are_spread(tmp_path: Path) -> None:
    """A thousand identities issued at one moment are not due at one moment, and none is late."""
    store, now = MemoryStore(), [NOW]
    accounts = [SpiffeId.for_service_account(TD, "prod", f"a{number}") for number in range(300)]
    rotator = Rotator(CertificateAuthority.create(TD, now=NOW), store, lambda: accounts, clock=lambda: now[0])
    rotator.sweep()
    counts = []
    for minute in range(-20, 21, 4):
        now[0] = NOW + DAY / 2 + minute * 60
        counts.append(len(rotator.sweep().issued))
    assert sum(counts) == 300
    assert max(counts) < 150
    assert counts[0] == counts[-1] == 0


def _delete(world: World) -> None:
    shutil.rmtree(world.store.path(WEB))


def _delete_one(world: World) -> None:
    (world.store.path(WEB) / "key.pem").unlink()


def _truncate(world: World) -> None:
    path = world.store.path(WEB) / "cert-chain.pem"
    path.write_bytes(path.read_bytes()[:200])


def _empty_roots(world: World) -> None:
    (world.store.path(WEB) / "root-cert.pem").write_bytes(b"")


def _another_key(world: World) -> None:
    (world.store.path(WEB) / "key.pem").write_bytes(world.read(CART).key_pem())


def _another_account(world: World) -> None:
    shutil.rmtree(world.store.path(WEB))
    shutil.copytree(world.store.path(CART), world.store.path(WEB), symlinks=True)


def _an_impostor(world: World) -> None:
    ca = TestCA(TD)
    chain, key = ca.leaf()
    for name, content in {"cert-chain": pem(chain), "key": key_pem(key), "root-cert": ca.pem}.items():
        (world.store.path(WEB) / f"{name}.pem").write_bytes(content)


def _a_link_to_nowhere(world: World) -> None:
    link = world.store.path(WEB) / "..data"
    link.unlink()
    link.symlink_to("..gone")


def _revoke(world: World) -> None:
    world.authority.revoke(f"{world.read(WEB).serial:x}")


@pytest.mark.parametrize(
    "harm",
    [
        _delete,
        _delete_one,
        _truncate,
        _empty_roots,
        _another_key,
        _another_account,
        _an_impostor,
        _a_link_to_nowhere,
        _revoke,
    ],
)
@pytest.mark.parametrize("restart", [False, True])
def test_what_was_harmed_is_made_whole(world: World, harm: Callable[[World], None], restart: bool) -> None:
    """By the running process and by one that starts anew; the other account is left alone."""
    before = world.read(WEB).serial
    harm(world)
    sweep = (world.restarted() if restart else world.rotator).sweep()
    assert list(sweep.issued) == [str(WEB)]
    assert sweep.failed == {}
    assert world.read(WEB).serial != before
    assert world.restarted().sweep().issued == {}


def test_a_rotation_reaches_every_store(world: World) -> None:
    """Publishing brings the new root beside the old certificate; activating, new certificates; retiring, one root."""
    old = world.read(WEB)
    world.authority.publish_root()
    assert world.sweep() == Sweep(2, {}, (str(WEB), str(CART)), {})
    assert world.read(WEB) == old
    world.authority.activate_root(settle=0)
    assert set(world.sweep().issued.values()) == {"it is of a superseded authority"}
    svid = world.read(WEB)
    assert svid != old
    world.authority.retire_old_roots(force=True)
    assert world.sweep().published == (str(WEB), str(CART))
    assert world.read(WEB) == svid


def test_a_rotation_taken_back_reaches_every_store(world: World) -> None:
    """What the withdrawn signer issued is replaced before its root goes."""
    world.authority.publish_root()
    world.authority.activate_root(settle=0)
    world.sweep()
    world.authority.roll_back()
    assert len(world.sweep().issued) == 2
    world.authority.roll_back(force=True)
    world.sweep()
    assert world.read(WEB)


def test_a_revocation_reaches_every_store(world: World) -> None:
    """The revoked account gets a new identity, all get the list; when nothing valid is revoked, the list goes."""
    serial = world.read(WEB).serial
    world.authority.revoke(f"{serial:x}")
    sweep = world.sweep()
    assert sweep.issued == {str(WEB): "it was revoked"}
    assert sweep.published == (str(CART),)
    for spiffe_id in (WEB, CART):
        folder = world.store.path(spiffe_id)
        identity = FileIdentity(folder, TD).read(world.now)
        assert {number for _, number in identity.revoked.entries} == {serial}
    world.now = NOW + DAY
    world.sweep()
    assert not (world.store.path(CART) / "ca-crl.pem").exists()
    assert not (world.store.path(CART) / "ca-crl.pem").is_symlink()


def test_an_account_that_is_gone_is_not_renewed(world: World) -> None:
    """Passive revocation: what it has stays until it ends, and nothing new comes."""
    old = world.read(CART)
    world.accounts = [WEB]
    world.now = NOW + 0.6 * DAY
    assert list(world.sweep().issued) == [str(WEB)]
    assert world.read(CART) == old
    status = world.rotator.status()
    assert (status["accounts"], status["good"], status["failed"]) == (1, 1, {})
    assert status["firstExpiry"] == world.now + DAY
    assert world.now < status["nextRenewal"] < status["firstExpiry"]


def test_a_list_of_accounts_that_cannot_be_read_takes_nothing_away(world: World) -> None:
    """The accounts known so far are renewed, and the fault is reported."""

    def unreadable() -> list[SpiffeId]:
        raise ConfigError("the list is damaged")

    world.rotator._ask_accounts = unreadable
    world.now = NOW + 0.6 * DAY
    sweep = world.sweep()
    assert len(sweep.issued) == 2
    assert "damaged" in sweep.failed["accounts"]


JUMPS = [HOUR, -HOUR, 40 * DAY, -40 * DAY]


@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("age", [0, 50 * DAY])
def test_a_clock_that_jumps(tmp_path: Path, jump: float, age: float) -> None:
    """There and back: what is stored holds at the clock's own time, or the authority itself is not yet valid."""
    world = World(tmp_path)
    world.now = NOW + age
    world.sweep()
    for moment in (world.now + jump, world.now):
        world.now = moment
        sweep = world.sweep()
        if moment < NOW - 120:
            assert "authority_not_yet_valid" in str(sweep.failed)
        else:
            assert sweep.failed == {}
            assert world.read(WEB)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO, errno.EROFS])
def test_a_store_that_fails_is_reported_and_recovers(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    """What was stored keeps serving; one line in the log, no new certificate for each attempt."""
    caplog.set_level(logging.INFO, "meshsec.ca")
    old = world.read(WEB)
    world.now = NOW + 0.6 * DAY

    def fail(*_arguments: object) -> None:
        raise OSError(code, "the disk says no")

    with monkeypatch.context() as patch:
        patch.setattr("meshsec.ca._store._write_generation", fail)
        for _ in range(3):
            sweep = world.sweep()
            assert sweep.issued == {}
            assert set(sweep.failed) == {str(WEB), str(CART)}
            assert world.read(WEB) == old
        assert world.rotator.status()["failed"] == sweep.failed
    assert len(list(world.authority.issued())) == 4
    assert len(world.sweep().issued) == 2
    assert world.rotator.status()["failed"] == {}
    assert len(list(world.authority.issued())) == 4
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2 + ["INFO"] * 2


def test_a_record_that_fails_is_reported_and_recovers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is stored that is not in the record."""
    world.now = NOW + 0.6 * DAY
    old = world.read(WEB)

    def full(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("meshsec.ca._record.os.pwrite", full)
        sweep = world.sweep()
    assert "No space" in sweep.failed[""]
    assert world.read(WEB) == old
    assert len(world.sweep().issued) == 2


def test_a_damaged_record_of_revocations_does_not_stop_renewal(world: World) -> None:
    """The last good lists stay published, and the fault is reported until it is mended."""
    world.authority.revoke(f"{world.read(WEB).serial:x}")
    world.sweep()
    (world.authority.folder / "revoked.jsonl").write_bytes(b"-----BEGIN X509 CRL-----\n\n")
    world.now = NOW + 0.6 * DAY
    sweep = world.sweep()
    assert "revocations" in sweep.failed
    assert sweep.failed.keys() <= {"revocations", "authority"}
    assert len(sweep.issued) == 2
    assert (world.store.path(CART) / "ca-crl.pem").exists()


def test_damaged_lists_are_made_anew_and_published(world: World) -> None:
    """By the next sweep; what was revoked stays so."""
    serial = f"{world.read(WEB).serial:x}"
    world.authority.revoke(serial)
    (world.authority.folder / "ca-crl.pem").write_bytes(b"-----BEGIN X509 CRL-----\n\n")
    assert world.sweep().failed == {}
    [found] = read_crls(world.store.path(CART) / "ca-crl.pem")
    assert [f"{entry.serial_number:x}" for entry in found] == [serial]


def test_one_account_that_fails_does_not_stop_the_others(world: World) -> None:
    """An ID that is no service account's has no place in the store."""
    world.accounts = [SpiffeId.parse(f"spiffe://{TD}/odd"), WEB, CART]
    shutil.rmtree(world.store.folder)
    sweep = world.sweep()
    assert set(sweep.issued) == {str(WEB), str(CART)}
    assert list(sweep.failed) == [f"spiffe://{TD}/odd"]


def test_an_expired_authority_is_reported() -> None:
    """Nothing useless is issued."""
    authority = CertificateAuthority.create(TD, now=NOW, lifetime=DAY)
    rotator = Rotator(authority, MemoryStore(), lambda: [WEB], clock=lambda: NOW + 2 * DAY)
    assert "authority_expired" in rotator.sweep().failed[str(WEB)]


def test_a_sweep_looks_after_the_authority_too(world: World) -> None:
    """A self-signed root is renewed in its last fifth, with its key, and everybody gets it."""
    world.now = NOW + 3000 * DAY
    root = world.authority.authority.certificate
    world.sweep()
    renewed = world.authority.authority.certificate
    assert (renewed != root, renewed.public_key() == root.public_key()) == (True, True)
    assert world.store.read(WEB).bundle.x509_authorities == (renewed,)


def test_a_store_knows_service_accounts_only(tmp_path: Path) -> None:
    """No path of the store can be left."""
    store = FolderStore(tmp_path)
    for path in ("/x", "/ns/a/sa/b/c", "/sa/b/ns/a"):
        with pytest.raises(IssuanceError):
            store.path(SpiffeId.parse(f"spiffe://{TD}{path}"))
    assert store.path(WEB) == tmp_path / "prod" / "istio.web"


def test_a_memory_store_forgets_what_is_deleted() -> None:
    """And the next sweep fills it again; an authority in memory will do."""
    store = MemoryStore()
    rotator = Rotator(CertificateAuthority.create(TD), store, lambda: [WEB])
    assert rotator.sweep().issued == {str(WEB): "it is missing"}
    store.delete(WEB)
    assert rotator.sweep().issued == {str(WEB): "it is missing"}
    assert rotator.status()["good"] == 1


def test_accounts_rotate_while_clients_connect(many: int) -> None:
    """Every account in turn is client and server while all are renewed and the root is replaced: no failure."""
    ids = [SpiffeId.for_service_account(TD, "prod", f"a{number}") for number in range(many)]
    store = MemoryStore()
    authority = CertificateAuthority.create(TD)
    ours, theirs = StaticMaterial(), StaticMaterial()
    server, client = server_context(ours), client_context(theirs, authorize=authorize_one_of(ids))
    later = authority.rotate_root()
    published = authority.with_state(authority.state.publish_root(later.state.signer, 0))
    retired = later.retire_old_roots()
    Rotator(authority, store, lambda: ids).sweep()
    for step in (published, published.with_state(published.state.activate_root(0)), retired):
        rotator = Rotator(step, store, lambda: ids[: many // 2])
        for half in (ids[: many // 2], ids):  # between the two, neighbours differ by one step
            rotator._ask_accounts = lambda half=half: half  # type: ignore[misc]
            rotator.sweep()
            for number in range(0, many, max(many // 50, 1)):
                for material, spiffe_id in ((ours, ids[number]), (theirs, ids[-1 - number])):
                    stored = store.read(spiffe_id)
                    material.replace(svid=stored.svid, bundles=X509BundleSet([stored.bundle]))
                _handshake(server, client)


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (client.wrap_bio(to_client, to_server, server_hostname="x"), server.wrap_bio(to_server, to_client, True))
    done: set[int] = set()
    for _ in range(6):
        for number, side in enumerate(sides):
            try:
                side.do_handshake()
                done.add(number)
            except ssl.SSLWantReadError:
                continue
    assert done == {0, 1}
