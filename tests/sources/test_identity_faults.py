"""Every fault of certificates, keys and roots on disk, as a running mesh meets it.

The last good pair keeps serving, in real handshakes; the log says so, once, and so does ``mesh.status()``; what comes
after it and is good is taken. In both ways of mounting: swapped as a whole, and written in place.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from forking import in_child
from meshsec import Connection, Decision, HttpRequest, Mesh, Reason, SpiffeId
from meshsec.ca import CertificateAuthority, write_identity
from meshsec.middleware import Transport
from meshsec.sources import FileIdentity, Identity, IdentityKeeper
from meshsec.spiffe import X509Bundle, X509BundleSet, X509Svid
from meshsec.tls import MeshSSLContext, StaticMaterial, authorize_any, client_context, server_context
from pki import NOW, TestCA
from waiting import until
from wire import shake_hands, wired

TD: Final = "cluster.local"
ID: Final = SpiffeId.for_service_account(TD, "prod", "web")
MESH_YAML: Final = """
workloads: {web: {namespace: prod, serviceAccount: web, identity: {files: certs}}}
meshConfig: {trustDomain: cluster.local}
allowNoPolicy: true
"""
CHAIN, KEY, ROOTS = "cert-chain.pem", "key.pem", "root-cert.pem"


Spoil = Callable[["Place"], object]


class Place:
    """A mesh that looks at its folder a hundred times a second, and whoever fills that folder.

    Not while it is filled: what is found shall be the fault that is meant.
    """

    def __init__(self, folder: Path, *, swapped: bool) -> None:
        self.folder, self.swapped, self.alone = folder / "certs", swapped, threading.RLock()
        self.authority = CertificateAuthority.create(TD, now=time.time() - 86400)
        (folder / "mesh.yaml").write_text(MESH_YAML)
        self.first = self.publish()
        self.mesh = Mesh.load(folder)
        self.context = self.mesh.server_context()
        self.client = self.caller()

    def publish(self, svid: X509Svid | None = None, bundle: X509Bundle | None = None) -> X509Svid:
        """Mount another identity; by default a good one."""
        svid, bundle = svid or self.authority.issue_x509_svid(ID), bundle or self.authority.bundle
        with self.alone:
            if self.swapped:
                write_identity(self.folder, svid, bundle)
            else:
                self.folder.mkdir(exist_ok=True)
                texts = {KEY: svid.key_pem(), CHAIN: svid.chain_pem(), ROOTS: bundle.to_pem()}
                for name, text in texts.items():
                    _put(self.folder / name, text)
        return svid

    def suffer(self, spoil: Spoil) -> None:
        """A fault, and the mesh has noticed it."""
        with self.alone:
            spoil(self)
        until(lambda: self.status()["failure"])

    def file(self, name: str) -> Path:
        """Where it really is."""
        return (self.folder / name).resolve()

    def caller(self) -> MeshSSLContext:
        """A client with a fresh certificate of the present authority, which takes anybody."""
        svid = self.authority.issue_x509_svid(f"spiffe://{TD}/ns/prod/sa/caller")
        return client_context(StaticMaterial(svid, X509BundleSet([self.authority.bundle])), authorize=authorize_any())

    def served(self) -> int:
        """The serial number of what one client gets to see."""
        ends = wired(self.context, self.client)
        shake_hands(*ends)
        return int(ends[1].getpeercert()["serialNumber"], 16)

    def status(self) -> dict[str, Any]:
        """The part of the mesh's status that is about it."""
        found = self.mesh.status()["identity"]
        assert isinstance(found, dict)
        return found


def _put(path: Path, text: bytes) -> None:
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    path.write_bytes(text)


@pytest.fixture(params=["swapped", "in place"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """With a good identity in it."""
    monkeypatch.setattr("meshsec.mesh._mesh._POLL_SECONDS", 0.01)
    place, refresh = Place(tmp_path, swapped=request.param == "swapped"), IdentityKeeper.refresh

    def alone(keeper: IdentityKeeper, now: float) -> None:
        with place.alone:
            refresh(keeper, now)

    monkeypatch.setattr(IdentityKeeper, "refresh", alone)
    with place.mesh:
        yield place


def _cut(name: str, share: float = 0.5) -> Spoil:
    def spoil(place: Place) -> None:
        whole = place.file(name).read_bytes()
        place.file(name).write_bytes(whole[: int(len(whole) * share)])

    return spoil


def _becomes(name: str, make: Callable[[Place], bytes]) -> Spoil:
    return lambda place: place.file(name).write_bytes(make(place))


def _gone(name: str) -> Spoil:
    return lambda place: place.file(name).unlink()


def _link(name: str, target: str) -> Spoil:
    def spoil(place: Place) -> None:
        path = place.file(name)
        path.unlink()
        path.symlink_to(target)

    return spoil


def _everything_gone(place: Place) -> None:
    place.folder.rename(place.folder.with_name("elsewhere"))


def _a_folder(place: Place) -> None:
    path = place.file(KEY)
    path.unlink()
    path.mkdir()


def _issued(spiffe_id: SpiffeId = ID, *, later: float = 0.0) -> Spoil:
    return lambda place: place.publish(place.authority.issue_x509_svid(spiffe_id, ttl=600, now=time.time() + later))


def _under_an_expired_root(place: Place) -> None:
    root = TestCA(TD, not_after=NOW - 60)
    chain, key = root.leaf("/ns/prod/sa/web")
    place.publish(X509Svid(chain, key), X509Bundle(TD, [root.certificate]))


def _locked(place: Place) -> bytes:
    key = place.authority.issue_x509_svid(ID).private_key
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


FAULTS: Final[dict[str, tuple[Spoil, str]]] = {
    "another key": (_becomes(KEY, lambda place: place.authority.issue_x509_svid(ID).key_pem()), "key"),
    "another certificate": (_becomes(CHAIN, lambda place: place.authority.issue_x509_svid(ID).chain_pem()), "key"),
    "half a certificate": (_cut(CHAIN), "certificate"),
    "half a key": (_cut(KEY), "key"),
    "no certificate": (_becomes(CHAIN, lambda _: b""), "certificate"),
    "no key": (_becomes(KEY, lambda _: b""), "key"),
    "a locked key": (_becomes(KEY, _locked), "key"),
    "the certificate is gone": (_gone(CHAIN), CHAIN),
    "the key is gone": (_gone(KEY), KEY),
    "the roots are gone": (_gone(ROOTS), ROOTS),
    "everything is gone": (_everything_gone, CHAIN),
    "expired": (_issued(later=-3600), "has expired"),
    "not yet valid": (_issued(later=3600), "not yet valid"),
    "of another account": (_issued(SpiffeId.for_service_account(TD, "prod", "other")), "prod/sa/other"),
    "no roots": (_becomes(ROOTS, lambda _: b""), ROOTS),
    "half a root": (_cut(ROOTS), ROOTS),
    "half a second root": (
        _becomes(ROOTS, lambda place: place.authority.bundle.to_pem() + place.authority.bundle.to_pem()[:200]),
        ROOTS,
    ),
    "another's root": (_becomes(ROOTS, lambda _: CertificateAuthority.create(TD).bundle.to_pem()), "no trusted path"),
    "a leaf for a root": (_becomes(ROOTS, lambda place: place.first.chain_pem()), ROOTS),
    "under an expired root": (_under_an_expired_root, "no trusted path"),
    "a loop of links": (_link(KEY, KEY), KEY),
    "a folder for a key": (_a_folder, KEY),
    "a disk that cannot be read": (_link(KEY, "/proc/self/mem"), "Input/output error"),
}


@pytest.mark.parametrize(("spoil", "word"), FAULTS.values(), ids=FAULTS.keys())
def test_the_last_good_pair_keeps_serving(
    place: Place, caplog: pytest.LogCaptureFixture, spoil: Spoil, word: str
) -> None:
    """Whatever became of the files: it is said in the log and in the status, and repairing them is enough."""
    caplog.set_level(logging.WARNING, "meshsec")
    place.suffer(spoil)
    status = place.status()
    assert [place.served() for _ in range(3)] == [place.first.serial] * 3
    assert (status["serial"], status["ready"]) == (f"{place.first.serial:x}", True)
    assert str(place.folder) in status["failure"]
    assert word in status["failure"]
    [line] = [record.getMessage() for record in caplog.records if record.name == "meshsec.identity"]
    assert line == f"{status['failure']} (the last good identity keeps serving)"
    assert "BEGIN" not in caplog.text
    fresh = place.publish()
    until(lambda: place.served() == fresh.serial)
    until(lambda: place.status()["failure"] is None)


def test_a_hundred_handshakes_go_on_beside_a_key_that_does_not_fit(place: Place) -> None:
    """While the mesh looks at the pair again and again."""
    place.suffer(FAULTS["another key"][0])
    assert {place.served() for _ in range(100)} == {place.first.serial}


def test_a_key_that_is_written_before_its_certificate_fails_nobody(tmp_path: Path) -> None:
    """In place, with as long a pause between as may be; the pair is taken once it is one, and all that it is."""
    place = Place(tmp_path, swapped=False)
    new, look = place.authority.issue_x509_svid(ID), place.mesh._identity
    assert look is not None
    seen = []
    for name, text in ((KEY, new.key_pem()), (CHAIN, new.chain_pem())):
        (place.folder / name).write_bytes(text)
        for _ in range(3):
            look.refresh(time.time())
            seen.append(place.served())
    assert seen == [place.first.serial] * 4 + [new.serial] * 2


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_folder_that_may_not_be_read_any_more_changes_nothing(tmp_path: Path) -> None:
    """As another user, for root may read everything."""
    authority = CertificateAuthority.create(TD)
    svid = authority.issue_x509_svid(ID)
    write_identity(tmp_path, svid, authority.bundle)
    keeper = IdentityKeeper(FileIdentity(tmp_path, TD), expected=ID)
    keeper.load(time.time())
    caller = StaticMaterial(authority.issue_x509_svid(ID), X509BundleSet([authority.bundle]))

    def holds() -> bool:
        tmp_path.chmod(0)
        if os.geteuid() == 0:
            os.seteuid(65534)
        keeper.refresh(time.time())
        shake_hands(*wired(server_context(keeper.material), client_context(caller, authorize=authorize_any())))
        return "Permission denied" in keeper.status()["failure"]

    try:
        assert in_child(holds)
    finally:
        tmp_path.chmod(0o700)


# ---------------------------------------------------------------- roots that change


def test_old_and_new_overlap(place: Place) -> None:
    """Each certificate is taken as long as its root is there; a root that goes ends its open connections, too."""
    old, new = place.authority, CertificateAuthority.create(TD)
    both = X509Bundle(TD, [*old.bundle.x509_authorities, *new.bundle.x509_authorities])
    callers = {name: _trusting(authority, both) for name, authority in (("old", old), ("new", new))}
    ends = wired(place.context, callers["old"])
    shake_hands(*ends)
    kept = Transport(tls=ends[0])
    steps = [
        (old, old.bundle, {"old": True, "new": False}, Reason.NO_ALLOW_POLICY),
        (old, both, {"old": True, "new": True}, Reason.NO_ALLOW_POLICY),
        (new, both, {"old": True, "new": True}, Reason.NO_ALLOW_POLICY),
        (new, new.bundle, {"old": False, "new": True}, Reason.PEER_DISTRUSTED),
    ]
    for issuer, bundle, expected, reason in steps:
        svid = place.publish(issuer.issue_x509_svid(ID), bundle)
        until(lambda svid=svid: place.status()["serial"] == f"{svid.serial:x}")
        assert {name: _shakes(place.context, caller) for name, caller in callers.items()} == expected
        assert _asked(place.mesh, kept).reason is reason


def test_an_open_connection_ends_with_its_clients_certificate(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it was idle: its next request is refused."""
    ends = wired(place.context, place.client)
    shake_hands(*ends)
    kept, now = Transport(tls=ends[0]), time.time()
    assert _asked(place.mesh, kept).allowed
    monkeypatch.setattr(time, "time", lambda: now + 40 * 86400)
    assert _asked(place.mesh, kept).reason is Reason.PEER_EXPIRED


def _trusting(authority: CertificateAuthority, bundle: X509Bundle) -> MeshSSLContext:
    source = StaticMaterial(authority.issue_x509_svid(ID), X509BundleSet([bundle]))
    return client_context(source, authorize=authorize_any())


def _shakes(server: ssl.SSLContext, caller: ssl.SSLContext) -> bool:
    try:
        shake_hands(*wired(server, caller))
    except ssl.SSLError:
        return False
    return True


def _asked(mesh: Mesh, kept: Transport) -> Decision:
    return mesh.decide(mesh.connection(kept) or Connection(), HttpRequest("GET", "/", "web.prod", [], "https"))


# ---------------------------------------------------------------- our own end


def _keeper(*, leaf: float, issuer: float) -> IdentityKeeper:
    """One whose identity ends so many seconds from now, and its issuer so many."""
    ca = TestCA(TD, not_after=NOW + issuer)
    chain, key = ca.leaf("/ns/prod/sa/web", not_after=NOW + leaf, not_before=NOW)
    source = _Source(Identity(X509Svid(chain, key), X509Bundle(TD, [ca.certificate])))
    keeper = IdentityKeeper(source, expected=ID)
    keeper.load(NOW)
    return keeper


class _Source:
    """One that can be broken."""

    origin = "somewhere"

    def __init__(self, identity: Identity) -> None:
        self.identity, self.error = identity, ""

    def read(self, now: float) -> Identity:
        if self.error:
            raise OSError(self.error)
        return self.identity


@pytest.mark.parametrize(("leaf", "issuer"), [(300, 900), (900, 300)], ids=["leaf", "issuer"])
def test_our_own_end_is_told(
    leaf: float, issuer: float, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the first of our certificates that ends, although reading the files succeeds; once in the log."""
    keeper = _keeper(leaf=leaf, issuer=issuer)
    for moment, well in ((299, True), (301, False), (302, False)):
        monkeypatch.setattr(time, "time", lambda moment=moment: NOW + moment)
        keeper.refresh(NOW + moment)
        status = keeper.status()
        assert (status["failure"] is None, status["ready"]) == (well, well)
        assert ("every handshake fails" in caplog.text) is not well
    assert caplog.text.count("every handshake fails") == 1


def test_who_fails_to_renew_is_not_ready_in_the_last_third(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is time to send its callers to others; who just was not renewed yet is ready to the end."""
    keeper = _keeper(leaf=900, issuer=9000)
    source = keeper._source
    assert isinstance(source, _Source)
    found = []
    for error in ("the disk is broken", ""):
        source.error = error
        for moment in (500, 599, 601, 899):
            monkeypatch.setattr(time, "time", lambda moment=moment: NOW + moment)
            keeper.refresh(NOW + moment)
            found.append(keeper.status()["ready"])
    assert found == [True, True, False, False, True, True, True, True]
