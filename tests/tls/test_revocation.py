"""CRLs: who is on a list is refused, in the handshake and on connections that are open already."""

from __future__ import annotations

from base64 import b64encode
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsec.errors import ConfigError, MeshsecError, SvidError
from meshsec.spiffe import X509Svid
from meshsec.tls import (
    PeerRefusedError,
    Revocations,
    StaticMaterial,
    VerifiedPeer,
    authorize_any,
    client_context,
    recheck,
    server_context,
    verified_peer,
    verify_presented,
)
from pki import NOW, TestCA
from wire import bundles, careless, material, shake_hands, svid, wired

CA: Final = TestCA("td.example")


# Whoever signed a list may be known when it is read, or first when a peer of that authority comes.
KNOWN: Final = pytest.mark.parametrize("known", [[CA.certificate], []], ids=["known", "later"])


def crl(ca: TestCA, *serials: int, key: Any = None, name: x509.Name | None = None) -> bytes:
    """A list of that authority, PEM; signed with another key or in another name, if one is given."""
    now = datetime.fromtimestamp(NOW, UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(name or ca.certificate.subject)
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


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("kind", "text", "same"),
    [
        (_ASN1Type.UTF8String, "The  root of TD", True),
        (_ASN1Type.PrintableString, "The root of TD", True),
        (_ASN1Type.BMPString, "the ROOT of td ", True),
        (_ASN1Type.UTF8String, "The rootof TD", False),
    ],
)
def test_a_name_is_the_same_in_any_encoding(kind: _ASN1Type, text: str, same: bool, known: bool) -> None:
    """An authority's list may be written by another program than its certificates (RFC 5280 section 7.1)."""
    ca = TestCA("td.example", name="The root of TD").intermediate(name="The root of TD")
    chain, _ = ca.leaf()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text, kind)])
    serial = x509.load_der_x509_certificate(chain[0]).serial_number
    revoked = Revocations.from_pem(crl(ca, serial, name=name), [ca.certificate] if known else [])
    if same:
        with pytest.raises(SvidError, match="revoked"):
            revoked.check(chain)
    else:
        revoked.check(chain)


def test_a_revoked_server_is_refused() -> None:
    """By clients, before a byte is sent."""
    ours, theirs = material(CA), svid(CA)
    ours.replace(revoked=Revocations.from_pem(crl(CA, theirs.serial), [CA.certificate]))
    server, caller = wired(
        careless("server", (theirs.chain, theirs.private_key)), client_context(ours, authorize=authorize_any())
    )
    with pytest.raises(PeerRefusedError, match="revoked"):
        shake_hands(server, caller)


@KNOWN
def test_a_revoked_client_is_refused_where_the_path_ends_abroad(known: list[x509.Certificate]) -> None:
    """OpenSSL's path leads to another trust domain's copy of its authority, so what it sent is looked up instead."""
    crossed = TestCA("partner.example", name=CA.name, key=CA.key, parent=TestCA("partner.example", name="P"))
    web, twin, ours = svid(CA), svid(CA), material(CA, trust=bundles(CA, crossed))
    ours.replace(revoked=Revocations.from_pem(crl(CA, web.serial), known))
    for client in (twin, web):
        server, caller = wired(server_context(ours), careless("client", (client.chain, client.private_key)))
        if client is web:
            with pytest.raises(PeerRefusedError, match="revoked"):
                shake_hands(server, caller)
        else:
            shake_hands(server, caller)
            peer = verified_peer(server)
            assert peer is not None
            assert peer.path == ()


def test_a_revoked_intermediate_is_refused_that_the_peer_did_not_send() -> None:
    """It stands in our own bundle, and is found in the path alone; its twin beside it goes on."""
    revoked, twin = CA.intermediate(), CA.intermediate()
    ours = material(CA, trust=bundles(CA, revoked, twin))
    ours.replace(revoked=Revocations.from_pem(crl(CA, revoked.certificate.serial_number), [CA.certificate]))
    for between in (twin, revoked):
        (leaf, *_), key = between.leaf()
        server, caller = wired(server_context(ours), careless("client", ([leaf], key)))
        if between is revoked:
            with pytest.raises(PeerRefusedError, match="revoked"):
                shake_hands(server, caller)
        else:
            shake_hands(server, caller)
            assert verified_peer(server) is not None


@KNOWN
def test_a_list_that_comes_later_ends_a_connection_whose_path_ended_abroad(known: list[x509.Certificate]) -> None:
    """Nothing but the chain that the peer sent tells whose it is; its twin's goes on."""
    crossed = TestCA("partner.example", name=CA.name, key=CA.key, parent=TestCA("partner.example", name="P"))
    web, twin, ours = svid(CA), svid(CA), material(CA, trust=bundles(CA, crossed))
    peers = [_admitted(ours, list(client.chain), client.private_key) for client in (twin, web)]
    assert [peer.path for peer in peers] == [(), ()]
    ours.replace(revoked=Revocations.from_pem(crl(CA, web.serial), known))
    assert recheck(peers[0], ours, now=NOW).id == peers[0].id
    with pytest.raises(SvidError, match="revoked"):
        recheck(peers[1], ours, now=NOW)


def test_a_list_that_comes_later_ends_a_connection_over_an_intermediate_that_was_not_sent() -> None:
    """It stands in the path that was verified, and in no chain."""
    revoked, twin = CA.intermediate(), CA.intermediate()
    ours = material(CA, trust=bundles(CA, revoked, twin))
    leaves = [between.leaf() for between in (twin, revoked)]
    peers = [_admitted(ours, [leaf], key) for (leaf, *_), key in leaves]
    ours.replace(revoked=Revocations.from_pem(crl(CA, revoked.certificate.serial_number), [CA.certificate]))
    assert recheck(peers[0], ours, now=NOW).id == peers[0].id
    with pytest.raises(SvidError, match="revoked"):
        recheck(peers[1], ours, now=NOW)


def _admitted(ours: StaticMaterial, chain: list[bytes], key: Any) -> VerifiedPeer:
    """A client that our server has let in."""
    server, caller = wired(server_context(ours), careless("client", (chain, key)))
    shake_hands(server, caller)
    peer = verified_peer(server)
    assert peer is not None
    return peer


@KNOWN
def test_a_revoked_client_is_refused_where_another_ends_its_tls(known: list[x509.Certificate]) -> None:
    """A server or a proxy that hands its chain on asks no list; nor does a chain that held before vouch for it."""
    web, twin, ours = svid(CA), svid(CA), material(CA)
    for chain in (web.chain, twin.chain):
        assert verify_presented(chain, ours, now=NOW).chain == chain
    ours.replace(revoked=Revocations.from_pem(crl(CA, web.serial), known))
    for _ in range(2):
        assert verify_presented(twin.chain, ours, now=NOW).chain == twin.chain
        with pytest.raises(SvidError, match="revoked") as caught:
            verify_presented(web.chain, ours, now=NOW)
        assert caught.value.code == "certificate_revoked"


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
    both = Revocations.from_pem(crl(CA, 1) + crl(other, 2, 3), [CA.certificate, other.certificate])
    assert {serial for _, serial in both.entries} == {1, 2, 3}
    assert both.next_update == NOW + 3600


@pytest.mark.parametrize("genuine", [True, False])
def test_a_strangers_list_counts_only_under_the_issuers_own_signature(genuine: bool) -> None:
    """Of an intermediate that only the peer's chain brings along; the forged twin's key is somebody else's."""
    between = CA.intermediate()
    chain, key = between.leaf()
    web = X509Svid(chain, key)
    lists = crl(between, web.serial, key=None if genuine else TestCA("td.example").key)
    revoked = Revocations.from_pem(lists, [CA.certificate])
    assert revoked.entries == frozenset()
    if not genuine:
        assert verified_peer(meet(revoked, web)) is not None
        return
    with pytest.raises(PeerRefusedError, match="revoked"):
        meet(revoked, web)
    assert verified_peer(meet(revoked, svid(CA))) is not None


def test_a_list_of_another_trust_domains_root_counts_for_its_peers() -> None:
    """Also where the chain was sent without its root."""
    other = TestCA("other.example")
    theirs = svid(other)
    revoked = Revocations.from_pem(crl(other, theirs.serial), [CA.certificate])
    revoked.check(theirs.chain)
    with pytest.raises(SvidError, match="revoked"):
        revoked.check(theirs.chain, [other.certificate])


def test_a_list_that_never_ends_is_refused() -> None:
    """RFC 5280 wants nextUpdate; without it nobody would ever notice that newer lists do not come."""
    now = datetime.fromtimestamp(NOW, UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(CA.certificate.subject).last_update(now)
    der = builder.next_update(now + timedelta(hours=1)).sign(CA.key, hashes.SHA256())
    assert Revocations.from_pem(der.public_bytes(Encoding.PEM), [CA.certificate]).next_update == NOW + 3600
    with pytest.raises(ConfigError, match="until when"):
        Revocations.from_pem(without_next_update(der), [CA.certificate])


def without_next_update(crl: x509.CertificateRevocationList) -> bytes:
    """The same list, PEM, its second date cut out; the signature is looked at later."""
    whole, signed = crl.public_bytes(Encoding.DER), crl.tbs_certlist_bytes
    assert crl.next_update_utc is not None
    date = b"\x17\x0d" + crl.next_update_utc.strftime("%y%m%d%H%M%SZ").encode()
    assert (signed[1], signed.count(date)) == (len(signed) - 2, 1)
    signature = whole[whole.index(signed) + len(signed) :]
    der = sequence(sequence(signed[2:].replace(date, b"")) + signature)
    return b"-----BEGIN X509 CRL-----\n" + b64encode(der) + b"\n-----END X509 CRL-----\n"


def sequence(content: bytes) -> bytes:
    """DER, for up to 255 bytes."""
    length = bytes([len(content)]) if len(content) < 128 else bytes([0x81, len(content)])
    return b"\x30" + length + content


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
