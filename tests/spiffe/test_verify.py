"""Path validation per trust domain (X509-SVID section 5), as a matrix in both roles, beside OpenSSL's opinion."""

from __future__ import annotations

import math
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from chains import ACCEPTED, NOT_SUPPORTED, REFUSED, ROLES, Case
from meshsec.errors import SvidError
from meshsec.spiffe import Role, SpiffeId, X509Bundle, X509BundleSet, verify_x509_svid
from pki import HOUR, NOW, TestCA, openssl_accepts

WEB = SpiffeId.parse("spiffe://td.example/ns/prod/sa/web")


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


def test_enormous_keys_are_no_way_in() -> None:
    """RSA keys beyond 8192 bits in a stranger's chain are refused, in one's own bundle they disturb nobody."""
    forger = TestCA("a.example", key="rsa8676")
    between = forger.intermediate(key="rsa8676")
    chain = [*named_a(between), forger.der]
    with pytest.raises(SvidError) as caught:
        verify_x509_svid(chain, BUNDLES, now=NOW, role="client")
    assert caught.value.code == "untrusted_chain"
    trusted = X509Bundle("a.example", [A.der, forger.der])
    for good in (chain, named_a(A)):
        assert verify_x509_svid(good, trusted, now=NOW, role="client")


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
