"""CRLs: who is on a list is refused, in the handshake and on connections that are open already."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsec.errors import ConfigError, MeshsecError, SvidError
from meshsec.spiffe import X509Svid
from meshsec.tls import (
    PeerRefusedError,
    Revocations,
    authorize_any,
    client_context,
    recheck,
    server_context,
    verified_peer,
)
from pki import NOW, TestCA
from wire import bundles, careless, material, shake_hands, svid, wired

CA: Final = TestCA("td.example")


def crl(ca: TestCA, *serials: int, key: Any = None) -> bytes:
    """A list of that authority, PEM; signed with another key, if one is given."""
    now = datetime.fromtimestamp(NOW, UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.certificate.subject)
    builder = builder.last_update(now).next_update(now + timedelta(hours=1))
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(key or ca.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def meet(revoked: Revocations, chain: X509Svid) -> Any:
    """A server with those revocations meets a client with that SVID; the server's TLS object."""
    ours = material(CA)
    ours.replace(revoked=revoked)
    theirs = material(CA)
    theirs.replace(svid=chain)
    server, caller = wired(server_context(ours), client_context(theirs, authorize=authorize_any()))
    shake_hands(server, caller)
    return server


def test_a_revoked_client_is_refused_and_its_twin_is_not() -> None:
    """The serial number decides, and the issuer in whose name the list speaks."""
    web = svid(CA)
    assert verified_peer(meet(Revocations.from_pem(crl(CA, web.serial + 1), [CA.certificate]), web)) is not None
    other = TestCA("td.example", name="another root")
    assert verified_peer(meet(Revocations.from_pem(crl(other, web.serial), [CA.certificate]), web)) is not None
    with pytest.raises(PeerRefusedError, match="revoked") as caught:
        meet(Revocations.from_pem(crl(CA, web.serial), [CA.certificate]), web)
    assert caught.value.code == "certificate_revoked"


def test_a_revoked_server_is_refused() -> None:
    """By clients, before a byte is sent."""
    ours, theirs = material(CA), svid(CA)
    ours.replace(revoked=Revocations.from_pem(crl(CA, theirs.serial), [CA.certificate]))
    server, caller = wired(
        careless("server", (theirs.chain, theirs.private_key)), client_context(ours, authorize=authorize_any())
    )
    with pytest.raises(PeerRefusedError, match="revoked"):
        shake_hands(server, caller)


def test_an_open_connection_ends_at_its_next_request() -> None:
    """A new list is a new generation."""
    web, ours = svid(CA), material(CA)
    server, caller = wired(server_context(ours), careless("client", (web.chain, web.private_key)))
    shake_hands(server, caller)
    peer = verified_peer(server)
    assert peer is not None
    assert recheck(peer, ours, now=NOW) is peer
    ours.replace(revoked=Revocations.from_pem(crl(CA, web.serial), [CA.certificate]))
    with pytest.raises(SvidError, match="revoked") as caught:
        recheck(peer, ours, now=NOW)
    assert caught.value.code == "peer_distrusted"


def test_several_lists_in_one_file_all_count() -> None:
    """As a CA with intermediates writes them."""
    other = TestCA("td.example", name="another root")
    both = Revocations.from_pem(crl(CA, 1) + crl(other, 2, 3), [CA.certificate])
    assert {serial for _, serial in both.entries} == {1, 2, 3}


@pytest.mark.parametrize(
    "data",
    [b"", b"no list", crl(CA)[:-60], crl(CA, key=TestCA("td.example").key), crl(CA) + b"-----BEGIN X509 CRL-----\nx"],
)
def test_a_broken_or_forged_file_is_refused_whole(data: bytes) -> None:
    """Nothing of it counts, and the last good one goes on."""
    with pytest.raises(ConfigError) as caught:
        Revocations.from_pem(data, [CA.certificate], source="ca-crl.pem")
    assert caught.value.code == "crl_invalid"
    assert "ca-crl.pem" in str(caught.value)


@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """Never anything else."""
    with suppress(MeshsecError):
        Revocations.from_pem(crl(CA)[:40] + data, [CA.certificate])


def test_nothing_revoked_is_the_default() -> None:
    """And costs nothing: no certificate is parsed."""
    Revocations().check((b"not a certificate",))
    assert bundles(CA) == material(CA).current().bundles
    assert material(CA).current().revoked == Revocations()
