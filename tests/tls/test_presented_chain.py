"""What we send along is what OpenSSL would send by itself, which it would work out anew at every handshake."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Final, NamedTuple

import pytest

from meshsec.spiffe import X509Svid
from meshsec.tls import StaticMaterial, TlsMaterial, authorize_any, client_context, load_svid, server_context
from meshsec.tls import _context as contexts
from pki import NOW, TestCA
from wire import bundles, careless, shake_hands, wired

CERTIFICATE: Final = 11  # RFC 8446 section 4
ROLES: Final = ("client", "server")
ROOT: Final = TestCA("td.example")
OTHER: Final = TestCA("td.example")
PARTNER: Final = TestCA("partner.example")
FIRST: Final = ROOT.intermediate()
SECOND: Final = FIRST.intermediate()
CROSSED: Final = TestCA("td.example", name=ROOT.name, key=ROOT.key, parent=OTHER)
NAMESAKES: Final = [TestCA("td.example", name="C=US,O=SPIFFE") for _ in range(3)]
NAMELESS: Final = TestCA("td.example", ski=False, aki=False)
EXPIRED: Final = TestCA("td.example", not_after=NOW - 60)
RSA: Final = TestCA("td.example", key="rsa")
ED25519: Final = TestCA("td.example", key="ed25519")


class Layout(NamedTuple):
    """Who issued the leaf, whom its owner trusts, how many certificates that makes, and the leaf's own company."""

    issuer: TestCA
    trusted: list[TestCA]
    sent: int
    alone: bool = False


LAYOUTS: Final = {
    "issued by the root": Layout(ROOT, [ROOT], 2),
    "one root of several": Layout(ROOT, [OTHER, ROOT, RSA], 2),
    "several roots of one name": Layout(NAMESAKES[1], NAMESAKES, 2),
    "a root without key identifiers": Layout(NAMELESS, [NAMELESS], 2),
    "a root that has expired": Layout(EXPIRED, [EXPIRED], 2),
    "an RSA root": Layout(RSA, [RSA], 2),
    "an Ed25519 root": Layout(ED25519, [ED25519], 2),
    "under an intermediate that is sent": Layout(FIRST, [ROOT], 2),
    "under an intermediate that is sent, both trusted": Layout(FIRST, [FIRST, ROOT], 2),
    "under three that are sent": Layout(SECOND.intermediate(), [ROOT], 4),
    "under an intermediate that is only trusted": Layout(FIRST, [FIRST], 2, alone=True),
    "under an intermediate that is trusted as its root is": Layout(FIRST, [ROOT, FIRST], 3, alone=True),
    "under two that are trusted as their root is": Layout(SECOND, [SECOND, ROOT, FIRST], 4, alone=True),
    "under an authority that another one signed": Layout(CROSSED, [CROSSED, OTHER], 3, alone=True),
    "under one that is trusted no longer": Layout(ROOT, [OTHER], 1),
    "under nobody who is trusted": Layout(ROOT, [], 1),
}


def source(layout: Layout) -> StaticMaterial:
    """Its owner's material; the partner is trusted everywhere, because it is who looks at the chain."""
    chain, key = layout.issuer.leaf()
    return StaticMaterial(X509Svid(chain[:1] if layout.alone else chain, key), bundles(*layout.trusted, PARTNER))


def by_openssl(material: TlsMaterial, role: str) -> ssl.SSLContext:
    """A context of the ssl module with the same pair, the same trust and the same flags."""
    assert material.svid is not None
    context = careless(role, (material.svid.chain, material.svid.private_key))
    context.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=b"".join(sorted(der for bundle in material.bundles for der in bundle.der)))
    return context


def presented(context: ssl.SSLContext, role: str) -> list[bytes]:
    """The certificates on the wire, DER, whatever the other end then thinks of them."""
    messages: list[bytes] = []

    def watch(_connection: object, direction: str, _version: object, _kind: object, what: int, data: bytes) -> None:
        if (direction, what) == ("read", CERTIFICATE):
            messages.append(data)

    looking = careless("server" if role == "client" else "client", PARTNER.leaf())
    if role == "client":
        looking.verify_mode = ssl.CERT_REQUIRED
    looking._msg_callback = watch  # type: ignore[attr-defined] # the ssl module's own, for such tests
    ends = wired(looking, context) if role == "client" else wired(context, looking)
    with suppress(ssl.SSLError):
        shake_hands(*ends)
    (message,) = messages
    return certificates(message)


def certificates(message: bytes) -> list[bytes]:
    """Of a handshake message of that kind (RFC 8446 section 4.4.2) without a request context."""
    found, rest = [], message[8:]  # type, length, an empty context, length of the list
    while rest:
        size = int.from_bytes(rest[:3], "big")
        found.append(rest[3 : 3 + size])
        extensions = int.from_bytes(rest[3 + size : 5 + size], "big")
        rest = rest[5 + size + extensions :]
    return found


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_chain_on_the_wire_is_openssls_own(layout: str, role: str) -> None:
    """The same certificates in the same order."""
    ours = source(LAYOUTS[layout])
    context = server_context(ours) if role == "server" else client_context(ours, authorize=authorize_any())
    sent = presented(context, role)
    assert sent == presented(by_openssl(ours.current(), role), role)
    assert len(sent) == LAYOUTS[layout].sent


@pytest.mark.parametrize("role", ROLES)
def test_a_new_issuer_is_sent_with_a_new_certificate(role: str) -> None:
    """And an issuer that is no longer trusted is not, although the certificate is still the same."""
    ours = source(LAYOUTS["issued by the root"])
    context = server_context(ours) if role == "server" else client_context(ours, authorize=authorize_any())
    assert presented(context, role)[1:] == [ROOT.der]
    ours.replace(bundles=bundles(OTHER, PARTNER))
    assert presented(context, role)[1:] == []
    ours.replace(svid=X509Svid(*OTHER.leaf()))
    assert presented(context, role)[1:] == [OTHER.der]


def test_our_own_contexts_hold_the_issuer() -> None:
    """Without a store to look into, only what was loaded is sent; the twin that was told of none sends none."""
    ours = source(LAYOUTS["issued by the root"])
    told, untold = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = ours.current().svid
    assert pair is not None
    load_svid(told, pair, [OTHER.certificate, ROOT.certificate])
    load_svid(untold, pair)
    assert presented(told, "server") == [pair.chain[0], ROOT.der]
    assert presented(untold, "server") == [pair.chain[0]]


def test_a_context_is_told_of_our_own_trust_domains_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise every handshake would look for them, and nobody would see it."""
    told: list[object] = []
    monkeypatch.setattr(contexts, "load_svid", lambda *arguments: told.extend(arguments[2]))
    server_context(source(LAYOUTS["issued by the root"])).prepare()
    assert told == [ROOT.certificate]
