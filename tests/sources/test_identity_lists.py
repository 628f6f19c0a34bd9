"""Revocation lists beside an identity, and what its keeper says aloud."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from meshsec.ca import write_identity
from meshsec.errors import ConfigError, SvidError
from meshsec.sources import FileIdentity, Identity, IdentityKeeper, StaticIdentity
from meshsec.spiffe import SpiffeId, X509Bundle, X509Svid
from pki import NOW, TestCA

WEB = SpiffeId.parse("spiffe://td.example/ns/prod/sa/web")


def identity(ca: TestCA, **options: float) -> Identity:
    """An SVID and its bundle."""
    chain, key = ca.leaf("/ns/prod/sa/web", **options)
    return Identity(X509Svid(chain, key), X509Bundle("td.example", [ca.certificate]))


def revoke(ca: TestCA, serial: int, moment: float = NOW) -> bytes:
    """A list with one entry, PEM, that holds for an hour."""
    now = datetime.fromtimestamp(moment, UTC)
    entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.certificate.subject).last_update(now)
    builder = builder.next_update(now + timedelta(hours=1)).add_revoked_certificate(entry)
    return builder.sign(ca.key, hashes.SHA256()).public_bytes(Encoding.PEM)


class Swapping:
    """A folder whose generations lie ready beside each other, and are swapped while somebody reads."""

    def __init__(self, folder: Path, swaps: int, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.swaps, self.serials, ca = folder, swaps, list[int](), TestCA("td.example")
        for number in range(swaps + 1):
            ours = identity(ca)
            write_identity(folder / f"..{number}", ours.svid, ours.bundle, crl=revoke(ca, 7))
            self.serials.append(ours.svid.serial)
        self.now = -1
        self.swap()
        exists = Path.exists
        patch.setattr(Path, "exists", lambda path: (path.name == "ca-crl.pem" and self.swap()) or exists(path))

    def swap(self) -> None:
        """The list of what is revoked is the first file of the old generation to go."""
        if self.now >= 0 and self.swaps:
            (self.folder / f"..{self.now}" / "ca-crl.pem").unlink()
            self.swaps -= 1
        elif self.now >= 0:
            return
        self.now += 1
        (self.folder / "next").symlink_to(f"..{self.now}")
        (self.folder / "next").replace(self.folder / "..data")


def test_a_folder_that_is_swapped_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found of the old generation may not be all of it: its list of what is revoked was gone."""
    swapping = Swapping(tmp_path, 4, monkeypatch)
    found = FileIdentity(tmp_path, "td.example").read(NOW)
    assert found.svid.serial == swapping.serials[4]
    assert [serial for _, serial in found.revoked.entries] == [7]


def test_a_folder_that_never_settles_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five times is enough."""
    Swapping(tmp_path, 5, monkeypatch)
    source = FileIdentity(tmp_path, "td.example")
    with pytest.raises(SvidError, match="faster than it can be read") as caught:
        source.read(NOW)
    assert caught.value.code == "unsettled"


def test_a_list_beside_the_identity_is_published(tmp_path: Path) -> None:
    """As a new generation; a broken one changes nothing, and none at all is none."""
    ca = TestCA("td.example")
    ours = identity(ca)
    write_identity(tmp_path, ours.svid, ours.bundle)
    keeper = IdentityKeeper(FileIdentity(tmp_path, "td.example"), expected=WEB)
    keeper.load(NOW)
    before = keeper.material.current()
    assert before.revoked.entries == frozenset()
    data = (tmp_path / "..data").resolve()
    (data / "ca-crl.pem").write_bytes(revoke(ca, 7))
    keeper.load(NOW)
    after = keeper.material.current()
    assert [serial for _, serial in after.revoked.entries] == [7]
    assert after.generation == before.generation + 1
    (data / "ca-crl.pem").write_bytes(b"half a li")
    with pytest.raises(ConfigError, match=r"ca-crl\.pem"):
        keeper.load(NOW)
    keeper.refresh(NOW)
    assert keeper.material.current() is after
    assert "ca-crl.pem" in keeper.status()["failure"]


def revoked_now(keeper: IdentityKeeper) -> list[int]:
    """The serial numbers."""
    return [serial for _, serial in keeper.material.current().revoked.entries]


def test_an_expired_list_never_replaces_one_that_holds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever plays back an old list revokes nothing anew; said in the log, once, and in the status."""
    ca = TestCA("td.example")
    ours = identity(ca, not_after=NOW + 86400)
    keeper = IdentityKeeper(FileIdentity(tmp_path, "td.example"), expected=WEB)
    write_identity(tmp_path, ours.svid, ours.bundle, crl=revoke(ca, 7))
    keeper.load(NOW)
    renewed = identity(ca, not_after=NOW + 86400)
    write_identity(tmp_path, renewed.svid, renewed.bundle, crl=revoke(ca, 6, NOW - 7200))
    for _ in range(2):
        keeper.refresh(NOW)
    assert keeper.material.current().svid == renewed.svid  # a renewed certificate is not held up by it
    assert (revoked_now(keeper), caplog.text.count("a CRL has expired")) == ([7], 1)
    assert keeper.status()["crl_next_update"] == NOW + 3600
    write_identity(tmp_path, ours.svid, ours.bundle, crl=revoke(ca, 8))
    keeper.refresh(NOW)
    assert revoked_now(keeper) == [8]


def test_a_list_that_is_gone_revokes_nothing_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While its file is replaced there may be none; said once. A newer one counts at once, none after its end."""
    ca = TestCA("td.example", not_after=NOW + 86400)
    ours = identity(ca, not_after=NOW + 86400)
    write_identity(tmp_path, ours.svid, ours.bundle, crl=revoke(ca, 7))
    keeper = IdentityKeeper(FileIdentity(tmp_path, "td.example"), expected=WEB)
    keeper.load(NOW)
    file = (tmp_path / "..data").resolve() / "ca-crl.pem"
    file.unlink()
    for _ in range(3):
        keeper.refresh(NOW)
    assert (revoked_now(keeper), caplog.text.count("a CRL is gone")) == ([7], 1)
    file.write_bytes(revoke(ca, 8))
    keeper.refresh(NOW)
    assert revoked_now(keeper) == [8]
    file.unlink()
    keeper.refresh(NOW + 3601)
    assert revoked_now(keeper) == []


def test_a_list_that_expires_goes_on_and_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What it names stays revoked; an older one that was never replaced is better than none, at the start too."""
    ca = TestCA("td.example", not_after=NOW + 86400)
    ours = identity(ca, not_after=NOW + 86400)
    write_identity(tmp_path, ours.svid, ours.bundle, crl=revoke(ca, 7))
    keeper = IdentityKeeper(FileIdentity(tmp_path, "td.example"), expected=WEB)
    for moment in (0, 3600, 3601, 3602, 7200):
        keeper.refresh(NOW + moment)
        assert ("a CRL has expired" in caplog.text) == (moment > 3600)
        assert revoked_now(keeper) == [7]
    assert caplog.text.count("a CRL has expired") == 1
    late = IdentityKeeper(FileIdentity(tmp_path, "td.example"), expected=WEB)
    late.refresh(NOW + 7200)
    assert revoked_now(late) == [7]
    assert caplog.text.count("a CRL has expired") == 2


def test_our_own_end_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Loudly, and not each second."""
    keeper = IdentityKeeper(StaticIdentity(identity(TestCA("td.example"), not_after=NOW + 100)), expected=WEB)
    keeper.load(NOW)
    for moment in (50, 101, 102, 103):
        keeper.refresh(NOW + moment)
        assert ("has expired" in caplog.text) == (moment > 100)
    assert caplog.text.count("has expired") == 1


def test_our_own_revocation_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody who has the list believes us any longer: not while it is replaced, either."""
    ca = TestCA("td.example", not_after=NOW + 86400)
    ours = identity(ca, not_after=NOW + 86400)
    write_identity(tmp_path, ours.svid, ours.bundle, crl=revoke(ca, 7))
    keeper = IdentityKeeper(FileIdentity(tmp_path, "td.example"), expected=WEB)
    found = []
    for crl in (revoke(ca, 7), revoke(ca, ours.svid.serial), b"", revoke(ca, 8)):
        write_identity(tmp_path, ours.svid, ours.bundle, crl=crl)
        keeper.refresh(NOW)
        status = keeper.status()
        found.append((status["ready"], "is revoked" in (status["failure"] or "")))
    assert found == [(True, False), (False, True), (False, True), (True, False)]
    assert "is revoked: every handshake fails" in caplog.text


def test_a_list_of_our_own_intermediate_is_checked_when_it_is_read(tmp_path: Path) -> None:
    """A forged one is refused then, with its file; not first when a chain shows who should have signed it."""
    root = TestCA("td.example")
    between = root.intermediate()
    chain, key = between.leaf("/ns/prod/sa/web")
    source = FileIdentity(tmp_path, "td.example")
    ours = X509Svid(chain, key), X509Bundle("td.example", [root.certificate])
    write_identity(tmp_path, *ours, crl=revoke(between, 7))
    assert [serial for _, serial in source.read(NOW).revoked.entries] == [7]
    forger = TestCA("td.example", name=between.name)
    write_identity(tmp_path, *ours, crl=revoke(forger, 7))
    with pytest.raises(ConfigError, match=r"ca-crl\.pem.*signature"):
        source.read(NOW)


@pytest.mark.parametrize(("ski", "warned"), [(False, True), (True, False)])
def test_authorities_that_cannot_be_told_apart_are_named(
    ski: bool, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The same name in two bundles, and no key identifier: OpenSSL would try only one of them."""
    ca, other = (TestCA(domain, name="SPIFFE", ski=ski) for domain in ("td.example", "other.example"))
    foreign = X509Bundle("other.example", [other.certificate])
    IdentityKeeper(
        StaticIdentity(identity(ca)), expected=WEB, foreign=SimpleNamespace(look=lambda _: (foreign,))
    ).load(NOW)
    assert ("CN=SPIFFE" in caplog.text) == warned
