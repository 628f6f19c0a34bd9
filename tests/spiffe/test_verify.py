"""Path validation per trust domain (X509-SVID section 5), as a matrix in both roles, beside OpenSSL's opinion."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ObjectIdentifier
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsec.errors import SvidError
from meshsec.spiffe import Role, SpiffeId, X509Bundle, X509BundleSet, verify_x509_svid
from pki import HOUR, NOW, Key, TestCA, openssl_accepts

ROLES: tuple[Role, ...] = ("client", "server")
WEB = SpiffeId.parse("spiffe://td.example/ns/prod/sa/web")
UNKNOWN_CRITICAL = (x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00"), True)
UNKNOWN = (UNKNOWN_CRITICAL[0], False)


def uri_permitted(host: str) -> list[tuple[x509.ExtensionType, bool]]:
    """A name constraint on URIs."""
    return [(x509.NameConstraints([x509.UniformResourceIdentifier(host)], None), True)]


def dns_excluded(name: str) -> list[tuple[x509.ExtensionType, bool]]:
    """A name constraint on DNS names."""
    return [(x509.NameConstraints(None, [x509.DNSName(name)]), True)]


def _to_the_root(chain: list[bytes], cas: list[TestCA]) -> tuple[list[bytes], list[bytes]]:
    return chain, [cas[0].der]


@dataclass
class Case:
    """A chain to be judged: a root, the CAs between, a leaf, and what of them is presented and what trusted.

    By default the peer presents all but the root, and the root is trusted. ``code`` is for those that are refused.
    """

    name: str
    root: dict[str, Any] = field(default_factory=dict)
    between: list[dict[str, Any]] = field(default_factory=list)
    leaf: dict[str, Any] = field(default_factory=dict)
    arrange: Callable[[list[bytes], list[TestCA]], tuple[list[bytes], list[bytes]]] = _to_the_root
    roles: tuple[Role, ...] = ROLES
    code: str = "untrusted_chain"

    def build(self) -> tuple[list[bytes], Key, list[bytes]]:
        """The chain that is presented, its key, and the anchors."""
        cas = [TestCA("td.example", **self.root)]
        for options in self.between:
            cas.append(cas[-1].intermediate(**options))
        chain, key = cas[-1].leaf(**self.leaf)
        presented, anchors = self.arrange(chain, cas)
        return presented, key, anchors


ACCEPTED = [
    Case("plain"),
    Case("leaf with a subject", leaf={"subject": "web"}),
    Case("leaf without authority key identifier", leaf={"aki": False}),
    Case("leaf without subject key identifier", leaf={"ski": False}),
    Case("leaf with SAN not critical and no subject", leaf={"san_critical": False}),
    Case("leaf without keyUsage", leaf={"key_usage": None}),
    Case("leaf without basicConstraints", leaf={"ca": None}),
    Case("leaf without extended key usage", leaf={"eku": None}),
    Case("leaf with critical extended key usage", leaf={"eku_critical": True}),
    Case("leaf for clients only, as client", leaf={"eku": ["client"]}, roles=("client",)),
    Case("leaf for servers only, as server", leaf={"eku": ["server"]}, roles=("server",)),
    Case("leaf with DNS and IP names", leaf={"dns": ["localhost"], "ips": ["127.0.0.1"]}),
    Case("leaf with an unknown extension", leaf={"extensions": [UNKNOWN]}),
    Case("Ed25519 leaf", leaf={"key": "ed25519"}),
    Case("RSA leaf", leaf={"key": "rsa"}),
    Case("RSA root", root={"key": "rsa"}),
    Case("P-384 root", root={"key": "p384"}),
    Case("root without subject key identifier", root={"ski": False}),
    Case("no key identifier anywhere", root={"ski": False, "aki": False}, leaf={"aki": False, "ski": False}),
    Case("root with basicConstraints not critical", root={"bc_critical": False}),
    Case("root without keyUsage", root={"key_usage": None}),
    Case("root with a SPIFFE ID", root={"uris": ["spiffe://td.example"]}),
    Case("root for serverAuth and clientAuth", root={"eku": ["server", "client"]}),
    Case("root with path length 0", root={"path_length": 0}),
    Case("one intermediate", between=[{}]),
    Case("three intermediates", between=[{}, {}, {}]),
    Case("intermediate without keyUsage", between=[{"key_usage": None}]),
    Case("intermediate with path length 0", between=[{"path_length": 0}]),
    Case("intermediate with another DNS name excluded", between=[{"extensions": dns_excluded("evil.test")}]),
    Case("root sent along", arrange=lambda chain, cas: ([*chain, cas[0].der], [cas[0].der])),
    Case(
        "intermediates out of order",
        between=[{}, {}, {}],
        arrange=lambda chain, cas: ([chain[0], *reversed(chain[1:])], [cas[0].der]),
    ),
    Case(
        "strangers among the intermediates",
        between=[{}],
        arrange=lambda chain, cas: ([chain[0], TestCA("x").der, *chain[1:]], [cas[0].der]),
    ),
    Case("intermediate as the only anchor", between=[{}], arrange=lambda chain, cas: (chain, [cas[1].der])),
    Case(
        "intermediate as the only anchor, not sent",
        between=[{}],
        arrange=lambda chain, cas: (chain[:1], [cas[1].der]),
    ),
    Case("other roots in the bundle", arrange=lambda chain, cas: (chain, [TestCA().der, cas[0].der, TestCA().der])),
]

REFUSED = [
    Case("another root", arrange=lambda chain, cas: (chain, [TestCA().der])),
    Case(
        "another root of the same name",
        root={"name": "N"},
        arrange=lambda chain, cas: (chain, [TestCA(name="N").der]),
    ),
    Case("empty bundle", arrange=lambda chain, cas: (chain, [])),
    Case("expired root", root={"not_after": NOW - 1}),
    Case("root valid from in a minute", root={"not_before": NOW + 60}),
    Case("expired intermediate", between=[{"not_after": NOW - 1}]),
    Case("root without keyCertSign", root={"key_usage": ["crl_sign"]}),
    Case("intermediate without keyCertSign", between=[{"key_usage": ["crl_sign"]}]),
    Case("intermediate that is not a CA", between=[{"ca": False}]),
    Case("intermediate without basicConstraints", between=[{"ca": None}]),
    Case("path length exceeded", root={"path_length": 0}, between=[{}]),
    Case("path length exceeded below", between=[{"path_length": 0}, {}]),
    Case("intermediate not sent", between=[{}], arrange=lambda chain, cas: (chain[:1], [cas[0].der])),
    Case("intermediate for code signing", between=[{"eku": ["code"]}]),
    Case("intermediate for servers, above a client", between=[{"eku": ["server"]}], roles=("client",)),
    Case("intermediate for clients, above a server", between=[{"eku": ["client"]}], roles=("server",)),
    Case("DNS name excluded", between=[{"extensions": dns_excluded("localhost")}], leaf={"dns": ["localhost"]}),
    Case("unknown critical extension in the leaf", leaf={"extensions": [UNKNOWN_CRITICAL]}),
    Case("unknown critical extension in a CA", between=[{"extensions": [UNKNOWN_CRITICAL]}]),
    Case("nine intermediates", between=[{}] * 9),
    Case("twelve intermediates", between=[{}] * 12, code="chain_too_long"),
    Case("expired leaf", leaf={"not_after": NOW - 1}, code="expired"),
    Case("leaf valid from in a minute", leaf={"not_before": NOW + 60}, code="not_yet_valid"),
    Case("leaf for clients, as server", leaf={"eku": ["client"]}, roles=("server",), code="leaf_extended_key_usage"),
    Case("leaf for servers, as client", leaf={"eku": ["server"]}, roles=("client",), code="leaf_extended_key_usage"),
    Case("leaf for code signing", leaf={"eku": ["code"]}, code="leaf_extended_key_usage"),
    Case("leaf for anything", leaf={"eku": ["any"]}, code="leaf_extended_key_usage"),
    Case("another trust domain", leaf={"uris": ["spiffe://other.example/a"]}, code="unknown_trust_domain"),
    Case("a sub-domain of ours", leaf={"uris": ["spiffe://sub.td.example/a"]}, code="unknown_trust_domain"),
    Case("no certificate", arrange=lambda chain, cas: ([], [cas[0].der]), code="malformed"),
    Case("an empty certificate", arrange=lambda chain, cas: ([b""], [cas[0].der]), code="malformed"),
    Case("garbage above", arrange=lambda chain, cas: ([*chain, b"\x30\x00"], [cas[0].der]), code="malformed"),
    Case("leaf last", between=[{}], arrange=lambda chain, cas: (chain[::-1], [cas[0].der]), code="uri_san_count"),
]

# SPIFFE permits these, the path validation of ``cryptography`` does not; documented in verify_x509_svid.
NOT_SUPPORTED = [
    Case("Ed25519 root", root={"key": "ed25519"}),
    Case("Ed25519 intermediate", between=[{"key": "ed25519"}]),
    Case("root with an empty name", root={"name": ""}),
    Case("URI name constraint that holds", between=[{"extensions": uri_permitted("td.example")}]),
    Case("URI name constraint that does not hold", between=[{"extensions": uri_permitted("other.example")}]),
    Case("RSA root of 1024 bits", root={"key": "rsa1024"}),
]


def verify(chain: list[bytes], anchors: list[bytes], role: Role) -> SpiffeId:
    """The function under test, with one bundle."""
    return verify_x509_svid(chain, X509Bundle("td.example", anchors), now=NOW, role=role)


def in_roles(cases: list[Case]) -> list[Any]:
    """One row for each case and role."""
    return [pytest.param(case, role, id=f"{case.name}, {role}") for case in cases for role in case.roles]


@pytest.mark.parametrize(("case", "role"), in_roles(ACCEPTED))
def test_an_svid_with_a_path_is_accepted(case: Case, role: Role) -> None:
    """The peer is named, and OpenSSL would have let it through too: we are never laxer."""
    chain, key, anchors = case.build()
    assert verify(chain, anchors, role) == WEB
    assert openssl_accepts(chain, key, anchors, role)


@pytest.mark.parametrize(("case", "role"), in_roles(REFUSED))
def test_a_chain_that_does_not_hold_is_refused(case: Case, role: Role) -> None:
    """Each with its own stable code."""
    chain, _, anchors = case.build()
    with pytest.raises(SvidError) as caught:
        verify(chain, anchors, role)
    assert caught.value.code == case.code
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("case", "role"), in_roles(NOT_SUPPORTED))
def test_what_the_path_validation_cannot_judge_is_refused(case: Case, role: Role) -> None:
    """Refused with the reason in the message, never waved through."""
    chain, _, anchors = case.build()
    with pytest.raises(SvidError, match="no trusted path for") as caught:
        verify(chain, anchors, role)
    assert caught.value.code == "untrusted_chain"


def test_a_peer_cannot_use_its_svid_to_issue_others() -> None:
    """A leaf is no CA, whatever it signs."""
    ca = TestCA("td.example")
    chain, key = ca.leaf("/ns/prod/sa/intruder")
    subject = x509.load_der_x509_certificate(chain[0]).subject
    assert not list(subject)  # an issuer's name may not even be empty; give the forger a better one
    chain, key = ca.leaf("/ns/prod/sa/intruder", subject="intruder")
    forger = TestCA("td.example", name="intruder", key=key)
    forged, _ = forger.leaf()
    with pytest.raises(SvidError) as caught:
        verify([forged[0], *chain], [ca.der], "client")
    assert caught.value.code == "untrusted_chain"


A, B = TestCA("a.example"), TestCA("b.example")
BUNDLES = X509BundleSet([X509Bundle("a.example", [A.der]), X509Bundle("b.example", [B.der])])


def named_a(ca: TestCA) -> list[bytes]:
    """A leaf that says it is of a.example, signed by that CA."""
    return ca.leaf(uris=["spiffe://a.example/x"])[0]


@pytest.mark.parametrize("role", ROLES)
def test_one_trust_domain_cannot_vouch_for_another(role: Role) -> None:
    """Both roots are trusted, each for its own: B's signature under A's name is worth nothing."""
    assert str(verify_x509_svid(named_a(A), BUNDLES, now=NOW, role=role)) == "spiffe://a.example/x"
    with pytest.raises(SvidError) as caught:
        verify_x509_svid(named_a(B), BUNDLES, now=NOW, role=role)
    assert caught.value.code == "untrusted_chain"


def test_an_intermediate_does_not_hide_the_other_trust_domain() -> None:
    """Nor does a CA that claims A's trust domain under B's root."""
    under_b = TestCA("a.example", parent=B, uris=["spiffe://a.example"])
    with pytest.raises(SvidError) as caught:
        verify_x509_svid([*named_a(under_b), B.der], BUNDLES, now=NOW, role="client")
    assert caught.value.code == "untrusted_chain"


def test_a_root_that_another_trust_domain_has_signed_stays_its_own() -> None:
    """A's root, cross-signed by B and sent along, still leads to A; and a leaf of B's is none the better for it."""
    crossed = TestCA("a.example", name=A.name, key=A.key, parent=B)
    for extra in ([crossed.der], [crossed.der, B.der]):
        chain = [*named_a(A), *extra]
        assert str(verify_x509_svid(chain, BUNDLES, now=NOW, role="client")) == "spiffe://a.example/x"
    only_b = X509BundleSet([X509Bundle("b.example", [B.der])])
    with pytest.raises(SvidError) as caught:
        verify_x509_svid([*named_a(A), crossed.der, B.der], only_b, now=NOW, role="client")
    assert caught.value.code == "unknown_trust_domain"


@pytest.mark.parametrize("identifiers", [{"ski": False, "aki": False}, {}], ids=["no key identifiers", "identifiers"])
def test_roots_of_the_same_name_are_told_apart(identifiers: dict[str, bool]) -> None:
    """Many SPIRE roots share one name: whether in one bundle or in two, each vouches for its own leaves."""
    first = TestCA("a.example", name="SPIFFE", **identifiers)
    second = TestCA("a.example", name="SPIFFE", **identifiers)
    foreign = TestCA("b.example", name="SPIFFE", **identifiers)
    bundles = X509BundleSet(
        [X509Bundle("a.example", [first.der, second.der]), X509Bundle("b.example", [foreign.der])]
    )
    for ca in (first, second, foreign):
        chain, _ = ca.leaf("/x", **identifiers)
        assert verify_x509_svid(chain, bundles, now=NOW, role="server").path == "/x"
    with pytest.raises(SvidError):
        verify_x509_svid(named_a(foreign), bundles, now=NOW, role="server")


def test_a_root_that_two_trust_domains_share_vouches_for_both() -> None:
    """Aliases of one trust domain: each name has its bundle, with the same root in it."""
    bundles = X509BundleSet([X509Bundle("a.example", [A.der]), X509Bundle("old.example", [A.der])])
    for uri in ("spiffe://a.example/x", "spiffe://old.example/x"):
        assert str(verify_x509_svid(A.leaf(uris=[uri])[0], bundles, now=NOW, role="client")) == uri


def test_the_moment_is_the_callers() -> None:
    """Both ends of the validity count as valid, a millisecond beyond does not; a clock that is no number refuses."""
    chain, _ = A.leaf(not_before=NOW - 10, not_after=NOW + 10)
    for moment in (NOW - 10, NOW, NOW + 0.5, NOW + 10):
        assert verify_x509_svid(chain, BUNDLES, now=moment, role="client")
    for moment, code in (
        (NOW - 10.001, "not_yet_valid"),
        (-math.inf, "not_yet_valid"),
        (NOW + 10.001, "expired"),
        (math.inf, "expired"),
        (math.nan, "expired"),
    ):
        with pytest.raises(SvidError) as caught:
            verify_x509_svid(chain, BUNDLES, now=moment, role="client")
        assert caught.value.code == code


def test_a_root_that_has_gone_is_gone() -> None:
    """After a bundle lost a root, what that root signed is refused."""
    old, new = TestCA("a.example"), TestCA("a.example")
    both, only_new = X509Bundle("a.example", [old.der, new.der]), X509Bundle("a.example", [new.der])
    assert verify_x509_svid(named_a(old), both, now=NOW, role="client")
    with pytest.raises(SvidError):
        verify_x509_svid(named_a(old), only_new, now=NOW, role="client")


def test_ten_certificates_are_a_chain_and_eleven_are_not() -> None:
    """Leaf, eight intermediates and a root; whatever else a peer sends along is not even read."""
    others = [TestCA("a.example").der for _ in range(9)]
    assert verify_x509_svid([*named_a(A), *others], BUNDLES, now=NOW, role="client")
    for one_more in (B.der, b"no certificate"):
        with pytest.raises(SvidError) as caught:
            verify_x509_svid([*named_a(A), *others, one_more], BUNDLES, now=NOW, role="client")
        assert caught.value.code == "chain_too_long"


def test_a_maze_of_intermediates_is_left() -> None:
    """CAs of one name and one key lead everywhere, for longer than anyone could wait; there is a budget."""
    forger = TestCA("a.example", name="maze")
    maze = [TestCA("a.example", name="maze", key=forger.key).der for _ in range(8)]
    with pytest.raises(SvidError):
        verify_x509_svid([*named_a(forger), *maze], BUNDLES, now=NOW, role="client")


def test_the_message_holds_no_control_characters_of_the_peers() -> None:
    """A peer chooses the names in its certificates; they go into our log."""
    forger = TestCA("a.example", name="x\nmeshsec: all is well\x1b[2J")
    with pytest.raises(SvidError) as caught:
        verify_x509_svid([*named_a(forger), forger.der], BUNDLES, now=NOW, role="client")
    assert str(caught.value).isprintable()


GOOD_CHAIN, _KEY = A.intermediate().leaf()


@given(
    st.integers(0, 1),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=3),
    st.none() | st.integers(0, 700),
)
@settings(max_examples=300, deadline=None)
def test_a_damaged_chain_is_refused_in_our_words(which: int, changes: list[tuple[int, int]], cut: int | None) -> None:
    """Any bytes changed, any tail cut off: an SvidError, or the very identity that was signed."""
    damaged = bytearray(GOOD_CHAIN[which])
    for position, value in changes:
        damaged[position % len(damaged)] = value
    chain = list(GOOD_CHAIN)
    chain[which] = bytes(damaged[:cut])
    try:
        spiffe_id = verify_x509_svid(chain, BUNDLES, now=NOW, role="client")
    except SvidError:
        return
    assert str(spiffe_id) == "spiffe://a.example/ns/prod/sa/web"


@given(st.lists(st.binary(max_size=40), max_size=12))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_no_chain(chain: list[bytes]) -> None:
    """Junk is refused, never a traceback."""
    with pytest.raises(SvidError):
        verify_x509_svid(chain, BUNDLES, now=NOW + HOUR / 2, role="server")
