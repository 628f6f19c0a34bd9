"""Revocation and the lists that tell of it; OpenSSL is the judge."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from meshsec.ca import AuthorityFolder, CertificateAuthority, KeyType
from meshsec.ca._revocation import read_crls
from meshsec.errors import ConfigError
from meshsec.spiffe import X509Svid
from pki import NOW, TestCA, key_pem, pem

ID = "spiffe://td.example/ns/prod/sa/web"
HOUR = 3600


class Clock:
    """A clock that stands where it is put."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def make(path: Path, clock: Clock, key_type: KeyType = "ec-p256") -> AuthorityFolder:
    """A new authority in a folder."""
    return AuthorityFolder.create(
        path, CertificateAuthority.create("td.example", clock=clock, key_type=key_type), clock=clock
    )


def crl(folder: AuthorityFolder) -> x509.CertificateRevocationList:
    """The one list."""
    [found] = read_crls(folder.folder / "ca-crl.pem")
    return found


def accepted(svid: X509Svid, folder: AuthorityFolder, tmp_path: Path) -> bool:
    """Whether a real TLS server that demands a list of every CA takes the client; it lives in the present."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in (server, client):
        pair = tmp_path / "pair.pem"
        pair.write_bytes(key_pem(svid.private_key) + pem(svid.chain))
        context.load_cert_chain(pair)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    server.verify_mode = ssl.CERT_REQUIRED
    server.verify_flags = ssl.VerifyFlags.VERIFY_CRL_CHECK_CHAIN | ssl.VerifyFlags.VERIFY_X509_STRICT
    server.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    server.load_verify_locations(folder.folder / "root-cert.pem")
    server.load_verify_locations(folder.folder / "ca-crl.pem")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server)
    for _ in range(3):
        for side in (theirs, ours):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message != "certificate revoked"
    return True


@pytest.mark.parametrize("key_type", ["ec-p256", "ec-p384", "rsa-2048"])
def test_openssl_refuses_what_was_revoked(tmp_path: Path, key_type: KeyType) -> None:
    """One of two twins is revoked: with the list, a handshake tells them apart."""
    import time

    folder = make(tmp_path / "ca", Clock(time.time()), key_type)
    good, bad = (folder.authority.issue_x509_svid(ID) for _ in range(2))
    assert accepted(good, folder, tmp_path)
    assert accepted(bad, folder, tmp_path)
    folder.revoke(f"{bad.serial:x}", reason="key lost")
    assert accepted(good, folder, tmp_path)
    assert not accepted(bad, folder, tmp_path)
    assert folder.revoked_serials() == {f"{bad.serial:x}"}


def test_a_list_is_there_from_the_start_and_is_signed(tmp_path: Path) -> None:
    """Envoy refuses everybody where one CA of the chain has no list."""
    folder = make(tmp_path / "ca", Clock())
    found = crl(folder)
    authority = folder.authority.certificate
    assert found.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    assert found.issuer == authority.subject
    assert (folder.folder / "ca-crl.pem").stat().st_mode & 0o777 == 0o644


def test_a_list_is_renewed_at_half_its_life(tmp_path: Path) -> None:
    """Its number rises each time; a clock that was turned back makes a new one, too."""
    clock = Clock()
    folder = make(tmp_path / "ca", clock)

    def number() -> int:
        folder.maintain()
        return crl(folder).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number

    numbers = []
    for hours in (0, 11.9, 12.1, 24, 30, -40 * 24, 0):
        clock.now = NOW + hours * HOUR
        numbers.append(number())
    assert [number - numbers[0] for number in numbers] == [0, 0, 1, 1, 2, 3, 4]


def test_an_expired_certificate_leaves_the_list(tmp_path: Path) -> None:
    """Lists stay short."""
    clock = Clock()
    folder = make(tmp_path / "ca", clock)
    svid = folder.authority.issue_x509_svid(ID, ttl=HOUR)
    folder.revoke(f"{svid.serial:x}")
    assert [entry.serial_number for entry in crl(folder)] == [svid.serial]
    clock.now += 20 * HOUR
    folder.maintain()
    assert list(crl(folder)) == []
    assert folder.revoked_serials() == {f"{svid.serial:x}"}


def test_each_root_of_a_rotation_has_its_list(tmp_path: Path) -> None:
    """Each names what its own key signed; a retired root's list goes with it."""
    folder = make(tmp_path / "ca", Clock())
    old = folder.authority.issue_x509_svid(ID)
    folder.publish_root()
    folder.activate_root(settle=0)
    new = folder.authority.issue_x509_svid(ID)
    for svid in (old, new):
        folder.revoke(f"{svid.serial:x}")
    lists = {item.issuer: [entry.serial_number for entry in item] for item in read_crls(folder.folder / "ca-crl.pem")}
    signers = folder.authority.state.signers
    assert lists == {
        signers[0].certificate.subject: [new.serial],
        signers[1].certificate.subject: [old.serial],
    }
    folder.retire_old_roots(force=True)
    assert [entry.serial_number for entry in crl(folder)] == [new.serial]


def test_lists_of_the_cas_above_are_kept(tmp_path: Path) -> None:
    """An intermediate publishes its own list beside that of the root, which it cannot sign."""
    root = TestCA("td.example")
    _, folder = _intermediate(tmp_path, root, Clock())
    svid = folder.authority.issue_x509_svid(ID)
    folder.revoke(f"{svid.serial:x}")
    issuers = {item.issuer: len(list(item)) for item in read_crls(folder.folder / "ca-crl.pem")}
    assert issuers == {folder.authority.certificate.subject: 1, root.certificate.subject: 0}


def _intermediate(path: Path, root: TestCA, clock: Clock) -> tuple[AuthorityFolder, AuthorityFolder]:
    """The root's folder, and that of an authority below it, which publishes the root's list beside its own."""
    above = AuthorityFolder.create(path / "root", _plugged_in(path / "above", root, root), clock=clock)
    below = _plugged_in(path / "plugged", root.intermediate(), root)
    lists = (above.folder / "ca-crl.pem").read_bytes()
    return above, AuthorityFolder.create(path / "ca", below, crls=lists, clock=clock)


def _plugged_in(path: Path, ca: TestCA, root: TestCA) -> CertificateAuthority:
    path.mkdir()
    for name, content in {"ca-cert": ca.pem, "ca-key": key_pem(ca.key), "root-cert": root.pem}.items():
        (path / f"{name}.pem").write_bytes(content)
    return CertificateAuthority.load(path, trust_domain="td.example")


def _flipped(pem: bytes) -> bytes:
    der = bytearray(x509.load_pem_x509_crl(pem).public_bytes(Encoding.DER))
    der[-1] ^= 1
    return x509.load_der_x509_crl(bytes(der)).public_bytes(Encoding.PEM)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda pem: pem[:200],
    "emptied": lambda pem: b"",
    "another text": lambda pem: b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
    "with a bit of the signature flipped": _flipped,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_list_heals(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """What is revoked stands in a record of its own; the number still rises."""
    clock = Clock()
    folder = make(tmp_path / "ca", clock)
    svid = folder.authority.issue_x509_svid(ID)
    folder.revoke(f"{svid.serial:x}")
    path, before = folder.folder / "ca-crl.pem", _number(crl(folder))
    path.write_bytes(damage(path.read_bytes()))
    clock.now += 60
    folder.maintain()
    assert [entry.serial_number for entry in crl(folder)] == [svid.serial]
    assert crl(folder).is_signature_valid(folder.authority.certificate.public_key())  # type: ignore[arg-type]
    assert _number(crl(folder)) > before
    assert not folder.refresh_crl()


def _number(found: x509.CertificateRevocationList) -> int:
    return found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def test_a_list_from_above_that_expired_is_reported(tmp_path: Path) -> None:
    """It still counts, and everything else goes on; its next one is appended by hand."""
    clock = Clock()
    above, folder = _intermediate(tmp_path, TestCA("td.example"), clock)
    clock.now += 2 * 24 * HOUR
    with pytest.raises(ConfigError) as caught:
        folder.maintain()
    assert caught.value.code == "crl_expired"
    assert len(read_crls(folder.folder / "ca-crl.pem")) == 2
    above.maintain()
    with (folder.folder / "ca-crl.pem").open("ab") as file:
        file.write((above.folder / "ca-crl.pem").read_bytes())
    folder.maintain()
