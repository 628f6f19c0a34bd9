"""Who is admitted: SPIFFE's rules on top of what OpenSSL lets through, in both roles, with real handshakes."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from typing import Any, Final

import pytest

from chains import PROFILE, WEB
from meshsec.errors import SvidError
from meshsec.spiffe import SpiffeId
from meshsec.tls import (
    MeshSSLContext,
    PeerRefusedError,
    VerifiedPeer,
    authorize_any,
    authorize_id,
    authorize_member_of,
    authorize_one_of,
    client_context,
    server_context,
    verified_peer,
)
from pki import LIFETIME, NOW, Key, TestCA
from wire import Outcome, bundles, careless, material, meet

ROLES: Final = ("client", "server")
CA: Final = TestCA("td.example")
PARTNER: Final = TestCA("partner.example")
STRANGER: Final = TestCA("td.example")
TRUST: Final = bundles(CA, PARTNER)
OURS: Final = material(CA, "/ns/prod/sa/ours", TRUST)

Pair = tuple[list[bytes], Key]


def judge(
    peer: ssl.SSLContext, role: str, context: MeshSSLContext | None = None, *, name: str | None = None
) -> Outcome:
    """What our side makes of a peer in that role: a VerifiedPeer, or the error."""
    ours = context or (server_context(OURS) if role == "client" else client_context(OURS, authorize=authorize_any()))

    def act(raw: socket.socket) -> VerifiedPeer | None:
        options: dict[str, Any] = {"server_side": True} if role == "client" else {"server_hostname": name}
        with ours.wrap_socket(raw, **options) as sock:
            sock.recv(1)
            return verified_peer(sock)

    def other(raw: socket.socket) -> None:
        options: dict[str, Any] = {"server_side": True} if role == "server" else {"server_hostname": name}
        with peer.wrap_socket(raw, **options) as sock:
            sock.sendall(b"x")
            sock.recv(1)

    served, called = meet(*((act, other) if role == "client" else (other, act)))
    return served if role == "client" else called


def _chained(ca: TestCA, length: int) -> Pair:
    for _ in range(length):
        ca = ca.intermediate()
    return ca.leaf()


GOOD: Final[dict[str, Callable[[], Pair]]] = {
    "plain": CA.leaf,
    "DNS name beside the ID": lambda: CA.leaf(dns=["localhost"]),
    "with a subject": lambda: CA.leaf(subject="web"),
    "no extended key usage": lambda: CA.leaf(eku=None),
    "no authority key identifier": lambda: CA.leaf(aki=False),
    "RSA": lambda: CA.leaf(key="rsa"),
    "Ed25519": lambda: CA.leaf(key="ed25519"),
    "P-384": lambda: CA.leaf(key="p384"),
    "under an intermediate with an enormous key": lambda: CA.intermediate(key="rsa8676").leaf(),
    "under an intermediate": lambda: CA.intermediate().leaf(),
    "under eight intermediates": lambda: _chained(CA, 8),
    "root sent along": lambda: (lambda pair: ([*pair[0], CA.der], pair[1]))(CA.leaf()),
    "of another trust domain that we know": PARTNER.leaf,
}

BAD: Final[dict[str, tuple[Callable[[], Pair], str]]] = {
    "another trust domain's authority": (lambda: PARTNER.leaf(uris=[WEB]), "untrusted_chain"),
    "our authority for another trust domain": (
        lambda: CA.leaf(uris=["spiffe://partner.example/ns/prod/sa/web"]),
        "untrusted_chain",
    ),
    **{name: (partial(CA.leaf, **options), code) for name, (options, code) in PROFILE.items()},
    "nine intermediates": (lambda: _chained(CA, 9), "chain_too_long"),
    "forty intermediates": (lambda: _chained(CA, 40), "chain_too_long"),
    "a hundred strangers beside": (
        lambda: (lambda pair: ([*pair[0], *(TestCA().der for _ in range(100))], pair[1]))(CA.leaf()),
        "chain_too_long",
    ),
}

# OpenSSL itself refuses these; that it still does is what makes the list above enough.
REFUSED_BY_OPENSSL: Final[dict[str, Callable[[], Pair]]] = {
    "a stranger's authority of the same name": STRANGER.leaf,
    "self-signed": lambda: (lambda ca: ([ca.der], ca.key))(TestCA("td.example", uris=[WEB])),
    "expired": lambda: CA.leaf(not_after=NOW - 60),
    "not yet valid": lambda: CA.leaf(not_before=NOW + LIFETIME / 2),
    "an expired intermediate": lambda: CA.intermediate(not_after=NOW - 60).leaf(),
    "no digital signature": lambda: CA.leaf(key_usage=("key_agreement",)),
    "another purpose": lambda: CA.leaf(eku=["code"]),
    "an issuer that is no CA": lambda: CA.intermediate(ca=False).leaf(),
    "under strangers with enormous keys": lambda: TestCA("td.example", key="rsa8676").intermediate().leaf(),
    "intermediate not sent": lambda: (lambda pair: (pair[0][:1], pair[1]))(CA.intermediate().leaf()),
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("case", GOOD)
def test_a_good_svid_is_admitted(case: str, role: str) -> None:
    """In either role, and what we remember of it is the certificate's own."""
    chain, key = GOOD[case]()
    outcome = judge(careless(role, (chain, key)), role)
    assert outcome.error is None
    peer = outcome.value
    assert peer.chain[: len(chain)] == tuple(chain)
    assert peer.path[0] == chain[0]
    assert peer.certificate_sha256 == sha256(chain[0]).digest()
    assert (peer.id.path, peer.role, peer.not_after) == ("/ns/prod/sa/web", role, NOW + LIFETIME)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("case", BAD)
def test_what_openssl_lets_through_is_refused(case: str, role: str) -> None:
    """Each is a certificate that OpenSSL takes and SPIFFE does not."""
    make, code = BAD[case]
    outcome = judge(careless(role, make()), role)
    assert isinstance(outcome.error, PeerRefusedError)
    assert outcome.error.code == code


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("case", REFUSED_BY_OPENSSL)
def test_what_openssl_refuses_stays_refused(case: str, role: str) -> None:
    """Our context's flags let none of these in."""
    outcome = judge(careless(role, REFUSED_BY_OPENSSL[case]()), role)
    assert isinstance(outcome.error, ssl.SSLCertVerificationError)


def test_a_client_without_certificate_is_refused() -> None:
    """There is no optional client certificate."""
    outcome = judge(careless("client"), "client")
    assert isinstance(outcome.error, ssl.SSLError)
    assert outcome.error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"


@pytest.mark.parametrize("role", ROLES)
def test_tls_1_2_is_refused(role: str) -> None:
    """Its sessions resume despite every switch."""
    theirs = careless(role, CA.leaf())
    theirs.maximum_version = ssl.TLSVersion.TLSv1_2
    assert isinstance(judge(theirs, role).error, ssl.SSLError)


@pytest.mark.parametrize("role", ROLES)
def test_a_trusted_leaf_cannot_vouch_for_itself(role: str) -> None:
    """An authority of the bundle is never itself a peer, although a partial chain of one ends there."""
    ca = TestCA("td.example", uris=[WEB], key_usage=("digital_signature", "key_cert_sign"))
    source = material(ca)
    context = server_context(source) if role == "client" else client_context(source, authorize=authorize_any())
    outcome = judge(careless(role, ([ca.der], ca.key)), role, context)
    assert isinstance(outcome.error, ssl.SSLCertVerificationError)


@pytest.mark.parametrize("role", ROLES)
def test_an_authority_that_has_ended_vouches_for_nobody(role: str) -> None:
    """Whose leaves hold still; one beside it in the same bundle goes on, and ends with what it signed."""
    ended, soon = (TestCA("td.example", not_after=NOW + later) for later in (-60, 600))
    source = material(soon, trust=bundles(ended, soon))
    context = server_context(source) if role == "client" else client_context(source, authorize=authorize_any())
    assert isinstance(judge(careless(role, ended.leaf()), role, context).error, ssl.SSLCertVerificationError)
    assert judge(careless(role, soon.leaf()), role, context).value.not_after == NOW + 600


@pytest.mark.parametrize("role", ROLES)
def test_an_intermediate_may_be_the_authority(role: str) -> None:
    """A bundle's authorities need not be self-signed."""
    between = CA.intermediate()
    source = material(between)
    context = server_context(source) if role == "client" else client_context(source, authorize=authorize_any())
    assert judge(careless(role, between.leaf()), role, context).error is None
    assert isinstance(judge(careless(role, CA.leaf()), role, context).error, ssl.SSLCertVerificationError)


# OpenSSL takes the first authority that fits, and they are loaded in the order of their DER: the shorter one first.
CROSS_SIGNERS: Final = {"ends at the partner's": ("P", True), "ends at our own": ("the partner's authority", False)}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("case", CROSS_SIGNERS)
def test_an_authority_that_another_trust_domain_signed_too(case: str, role: str) -> None:
    """Wherever OpenSSL's path ends, the peer is admitted by its own trust domain's authority."""
    signer, foreign_end = CROSS_SIGNERS[case]
    crossed = TestCA("partner.example", name=CA.name, key=CA.key, parent=TestCA("partner.example", name=signer))
    source = material(CA, "/ns/prod/sa/ours", bundles(CA, crossed))
    context = server_context(source) if role == "client" else client_context(source, authorize=authorize_any())
    peer = judge(careless(role, CA.leaf(eku=[role])), role, context).value
    # Where it ended abroad there is no path of our own to lean on after a change of trust.
    assert (peer.path == ()) is foreign_end
    assert peer.not_after == NOW + LIFETIME


@pytest.mark.parametrize("role", ROLES)
def test_a_cross_signed_authority_speaks_for_its_own_trust_domain_only(role: str) -> None:
    """The twin: without its own authority in its own bundle, a peer is not admitted by another's copy."""
    crossed = TestCA("partner.example", name=CA.name, key=CA.key, parent=PARTNER)
    source = material(crossed, trust=bundles(STRANGER, crossed))
    context = server_context(source) if role == "client" else client_context(source, authorize=authorize_any())
    outcome = judge(careless(role, CA.leaf()), role, context)
    assert isinstance(outcome.error, PeerRefusedError)
    assert outcome.error.code == "untrusted_chain"


@pytest.mark.parametrize("role", ROLES)
def test_authorities_of_one_name_are_told_apart(role: str) -> None:
    """Many trust domains name theirs alike; by their key identifiers OpenSSL finds the right one, and so do we."""
    domains = ("a.example", "b.example", "td.example")
    cas = [TestCA(domain, name="C=US,O=SPIFFE") for domain in domains]
    source = material(cas[2], trust=bundles(*cas))
    context = server_context(source) if role == "client" else client_context(source, authorize=authorize_any())
    for ca in cas:
        assert judge(careless(role, ca.leaf()), role, context).value.id.trust_domain.name == ca.trust_domain
    forged = judge(careless(role, cas[0].leaf(uris=[WEB])), role, context)
    assert isinstance(forged.error, PeerRefusedError)
    assert forged.error.code == "untrusted_chain"


@pytest.mark.parametrize("role", ROLES)
def test_a_trust_domain_without_authorities_is_trusted_by_nobody(role: str) -> None:
    """An empty set of bundles never means the system's."""
    source = material(CA, trust=bundles())
    context = server_context(source) if role == "client" else client_context(source, authorize=authorize_any())
    assert type(judge(careless(role, CA.leaf()), role, context).error) is ssl.SSLCertVerificationError


IDS: Final = (SpiffeId.parse(WEB), SpiffeId.parse("spiffe://td.example/other"))
PARTNER_ID: Final = SpiffeId.parse("spiffe://partner.example/ns/prod/sa/web")


@pytest.mark.parametrize(
    ("authorize", "welcome"),
    [
        (authorize_any(), {*IDS, PARTNER_ID}),
        (authorize_id(WEB), {IDS[0]}),
        (authorize_id(IDS[1]), {IDS[1]}),
        (authorize_one_of(IDS), {*IDS}),
        (authorize_one_of([]), set()),
        (authorize_member_of("td.example"), {*IDS}),
        (authorize_member_of(PARTNER_ID.trust_domain), {PARTNER_ID}),
    ],
)
def test_the_authorizers(authorize: Callable[[SpiffeId, str | None], None], welcome: set[SpiffeId]) -> None:
    """Each lets exactly its own in."""
    for spiffe_id in (*IDS, PARTNER_ID):
        if spiffe_id in welcome:
            authorize(spiffe_id, None)
        else:
            with pytest.raises(SvidError) as caught:
                authorize(spiffe_id, None)
            assert caught.value.code == "peer_not_authorized"


@pytest.mark.parametrize("role", ROLES)
def test_an_authorizer_hears_the_server_name(role: str) -> None:
    """At a client the name it asked for, at a server the name the client sent."""
    heard: list[tuple[str, str | None]] = []

    def authorize(peer: SpiffeId, name: str | None) -> None:
        heard.append((str(peer), name))

    for name in ("reviews.prod", None):
        context = (server_context if role == "client" else client_context)(OURS, authorize=authorize)
        outcome = judge(careless(role, CA.leaf()), role, context, name=name)
        assert outcome.value.sni == name
    assert heard == [(WEB, "reviews.prod"), (WEB, None)]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("error", [KeyError("x"), OSError(5, "x"), TimeoutError(), RecursionError()])
def test_an_authorizer_that_breaks_refuses(role: str, error: Exception) -> None:
    """Whatever it raises becomes a refusal that TLS libraries understand, and tells the peer nothing."""

    def authorize(_peer: SpiffeId, _name: str | None) -> None:
        raise error

    context = (server_context if role == "client" else client_context)(OURS, authorize=authorize)
    outcome = judge(careless(role, CA.leaf()), role, context)
    assert isinstance(outcome.error, PeerRefusedError)
    assert outcome.error.code == "internal_error"


def _present(context: ssl.SSLContext, session: ssl.SSLSession | None) -> Any:
    def call(raw: socket.socket) -> tuple[ssl.SSLSession | None, bool | None]:
        with context.wrap_socket(raw, session=session) as sock:
            sock.sendall(b"x")
            sock.recv(1)
            return sock.session, sock.session_reused

    return call


def test_no_session_is_ever_resumed() -> None:
    """A resumed session would skip expiry, authority and authorization."""
    theirs = careless("client", CA.leaf())
    ours = server_context(OURS)

    def serve(raw: socket.socket) -> None:
        with ours.wrap_socket(raw, server_side=True) as sock:
            sock.recv(1)
            sock.sendall(b"y")

    _, first = meet(serve, _present(theirs, None))
    session, _ = first.value
    assert session is None or not session.has_ticket
    _, second = meet(serve, _present(theirs, session))
    assert second.error is not None or second.value[1] is False


def test_a_server_that_resumes_is_refused() -> None:
    """Our client offers no session; were one smuggled in, a handshake without certificates does not count."""
    chain, key = CA.leaf()
    theirs = careless("server", (chain, key))
    sessions: list[ssl.SSLSession | None] = []

    def serve(raw: socket.socket) -> None:
        with theirs.wrap_socket(raw, server_side=True) as sock:
            sock.recv(1)
            sock.sendall(b"y")
            sock.recv(1)

    ours = client_context(OURS, authorize=authorize_any())

    def call(raw: socket.socket) -> None:
        with ours.wrap_socket(raw, do_handshake_on_connect=False) as sock:
            if sessions:
                sock.session = sessions[0]
            sock.sendall(b"x")
            sock.recv(1)
            sessions.append(sock.session)

    assert meet(serve, call)[1].error is None
    resumed = meet(serve, call)[1].error
    assert isinstance(resumed, PeerRefusedError)
    assert resumed.code == "not_verified"


def test_the_chain_of_a_peer_is_what_it_presented() -> None:
    """It is kept to be verified again when trust changes."""
    between = CA.intermediate()
    chain, key = between.leaf()
    expected: Sequence[bytes] = chain
    peer = judge(careless("client", (chain, key)), "client").value
    assert peer.chain == tuple(expected)
    assert peer.path == (*chain, CA.der)
    assert not any(item.hex() in repr(peer) for item in chain)
