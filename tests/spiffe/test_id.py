"""SPIFFE IDs and trust domain names (SPIFFE-ID sections 2.1 to 2.4; rules I1 to I8)."""

from __future__ import annotations

import string
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshsec.errors import SpiffeIdError
from meshsec.spiffe import SpiffeId, TrustDomain

TRUST_DOMAIN_CHARACTERS = frozenset(string.ascii_lowercase + string.digits + ".-_")
PATH_CHARACTERS = frozenset(string.ascii_letters + string.digits + ".-_")

GOOD = [
    "spiffe://example.org",
    "spiffe://example.org/a",
    "spiffe://example.org/ns/prod/sa/web",
    "spiffe://example.org/A-Z_a.z/0",
    "spiffe://1.2.3.4/service",
    "spiffe://example..org/x",
    "spiffe://.x/x",
    "spiffe://-x/x",
    "spiffe://x-/x",
    "spiffe://_/x",
    "spiffe://td/...",
    "spiffe://td/.a/..a/a..",
    "spiffe://td/a/....",
]

BAD = [
    "",
    "spiffe",
    "spiffe:",
    "spiffe:/td/a",
    "spiffe:td/a",
    "//td/a",
    "https://td/a",
    "SPIFFE://td/a",
    "Spiffe://td/a",
    " spiffe://td/a",
    "spiffe://",
    "spiffe:///a",
    "spiffe://TD/a",
    "spiffe://td.Example/a",
    "spiffe://user@td/a",
    "spiffe://user:secret@td/a",
    "spiffe://td:80/a",
    "spiffe://td:/a",
    "spiffe://[::1]/a",
    "spiffe://t%64/a",
    "spiffe://td/%61",
    "spiffe://td/",
    "spiffe://td/a/",
    "spiffe://td//a",
    "spiffe://td/a//b",
    "spiffe://td/.",
    "spiffe://td/..",
    "spiffe://td/./a",
    "spiffe://td/a/../b",
    "spiffe://td/a/..",
    "spiffe://td?q",
    "spiffe://td/a?q",
    "spiffe://td/a?",
    "spiffe://td#f",
    "spiffe://td/a#f",
    "spiffe://td/a#",
    "spiffe://td/a\n",
    "spiffe://td\n",
    "spiffe://td/a\r\n",
    "spiffe://td/a\0",
    "spiffe://td/a b",
    "spiffe://td/a\\b",
    "spiffe://td/a;b",
    "spiffe://td/a:b",
    "spiffe://td/a,spiffe://td/b",
    "spiffe://\u212aelvin/a",
    "spiffe://td/\u0430",
    "spiffe://td/\uff41",
    "spiffe://t\u00ad\u200bd/a",
    "spiffe://td/\ud800",
]


@pytest.mark.parametrize("text", GOOD)
def test_a_well_formed_id_is_read_and_written_alike(text: str) -> None:
    """What is accepted comes out again, byte for byte."""
    spiffe_id = SpiffeId.parse(text)
    assert str(spiffe_id) == text
    assert SpiffeId(spiffe_id.trust_domain, spiffe_id.path) == spiffe_id


@pytest.mark.parametrize("text", BAD, ids=ascii)
def test_a_malformed_id_is_refused(text: str) -> None:
    """Nothing is folded, decoded, trimmed or normalized."""
    with pytest.raises(SpiffeIdError) as caught:
        SpiffeId.parse(text)
    assert caught.value.code == "spiffe_id_invalid"
    assert str(caught.value).isprintable()


def test_every_byte_in_every_place() -> None:
    """A character is accepted where its class allows it and nowhere else: first, amid and last."""
    for character in map(chr, range(256)):
        for word in (f"{character}x", f"x{character}y", f"x{character}"):
            assert _accepts(f"spiffe://td/{word}") == (character in PATH_CHARACTERS or word == "x/y"), ascii(word)
            assert _accepts(f"spiffe://td/{word}/z") == (character in PATH_CHARACTERS or word == "x/y"), ascii(word)
            assert _accepts(f"spiffe://{word}/z") == (character in TRUST_DOMAIN_CHARACTERS or word == "x/y"), ascii(
                word
            )
            assert _is_trust_domain(word) == (character in TRUST_DOMAIN_CHARACTERS), ascii(word)
        assert not _accepts(f"{character}spiffe://td/x"), ascii(character)
        assert not _accepts(f"spiffe{character}://td/x"), ascii(character)


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        (f"spiffe://{'a' * 255}/x", True),
        (f"spiffe://{'a' * 256}/x", False),
        ("spiffe://td/" + "a" * (2048 - 12), True),
        ("spiffe://td/" + "a" * (2048 - 11), False),
        (f"spiffe://{'a' * 255}/" + "a" * (2048 - 265), True),
        (f"spiffe://{'a' * 255}/" + "a" * (2048 - 264), False),
        ("spiffe://td" + "/a" * 100_000, False),
    ],
    ids=lambda value: str(len(value)) if isinstance(value, str) else None,
)
def test_lengths_are_bounded(text: str, *, accepted: bool) -> None:
    """255 bytes for the trust domain, 2048 for the whole."""
    assert _accepts(text) == accepted


def test_an_id_that_is_put_together_is_bounded_too() -> None:
    """The constructor is no way around the limits of the parser."""
    domain = TrustDomain("a" * 255)
    assert len(str(SpiffeId(domain, "/" + "b" * (2048 - 265)))) == 2048
    with pytest.raises(SpiffeIdError, match="2048"):
        SpiffeId(domain, "/" + "b" * (2048 - 264))


@pytest.mark.parametrize("path", ["a", "/", "/a/", "//a", "/a?b", "/..", "/a\n", "/%61"])
def test_a_path_that_is_put_in_is_checked(path: str) -> None:
    """The constructor is no way around the grammar."""
    with pytest.raises(SpiffeIdError):
        SpiffeId(TrustDomain("td"), path)


@pytest.mark.parametrize("text", ["cluster.local", "spiffe://cluster.local"])
def test_a_trust_domain_is_read_from_its_name_or_its_id(text: str) -> None:
    """Configuration may write either."""
    assert TrustDomain.parse(text) == TrustDomain("cluster.local")
    assert str(TrustDomain.parse(text)) == "cluster.local"


@pytest.mark.parametrize(
    "text",
    ["", "spiffe://", "spiffe://td/", "spiffe://td/a", "td/a", "https://td", "spiffe://spiffe://td", "TD", "td\n"],
)
def test_a_malformed_trust_domain_is_refused(text: str) -> None:
    """Neither an ID with a path nor anything else is a trust domain."""
    with pytest.raises(SpiffeIdError):
        TrustDomain.parse(text)


@pytest.mark.parametrize(
    ("path", "namespace", "account"),
    [
        ("/ns/prod/sa/web", "prod", "web"),
        ("/ns/ns/sa/sa", "ns", "sa"),
        ("", None, None),
        ("/web", None, None),
        ("/ns/prod/sa", None, None),
        ("/ns/prod/sa/web/x", None, None),
        ("/x/ns/prod/sa/web", None, None),
        ("/NS/prod/SA/web", None, None),
        ("/sa/web/ns/prod", None, None),
    ],
)
def test_istios_form_names_a_service_account(path: str, namespace: str | None, account: str | None) -> None:
    """Exactly five parts, in Istio's order; any other path names none."""
    spiffe_id = SpiffeId(TrustDomain("td"), path)
    assert (spiffe_id.namespace, spiffe_id.service_account) == (namespace, account)


def test_a_service_account_has_an_id() -> None:
    """The trust domain may be given as text or as a value."""
    expected = SpiffeId.parse("spiffe://td/ns/prod/sa/web")
    assert SpiffeId.for_service_account("td", "prod", "web") == expected
    assert SpiffeId.for_service_account(TrustDomain("td"), "prod", "web") == expected


@pytest.mark.parametrize(
    ("namespace", "account"),
    [("", "web"), ("prod", ""), ("a/b", "web"), ("prod", "a/b"), (".", "web"), ("prod", "..")],
)
def test_a_service_account_cannot_change_the_form(namespace: str, account: str) -> None:
    """A name with a slash would forge another account."""
    with pytest.raises(SpiffeIdError):
        SpiffeId.for_service_account("td", namespace, account)


def test_of_takes_values_and_text() -> None:
    """A value passes as it is, text is parsed."""
    spiffe_id = SpiffeId.parse("spiffe://td/a")
    assert SpiffeId.of(spiffe_id) is spiffe_id
    assert SpiffeId.of("spiffe://td/a") == spiffe_id
    assert TrustDomain.of(spiffe_id.trust_domain) is spiffe_id.trust_domain
    assert TrustDomain.of("td") == spiffe_id.trust_domain


def test_equality_is_of_the_own_type_only_and_agrees_with_the_hash() -> None:
    """An ID is never equal to its text, so that a set of one kind is never asked for the other."""
    one, same = SpiffeId.parse("spiffe://td/a"), SpiffeId.parse("spiffe://td/a")
    assert one == same
    assert hash(one) == hash(same)
    assert one != str(one)
    assert one.trust_domain != "td"
    assert one != SpiffeId.parse("spiffe://td/A")
    assert SpiffeId(TrustDomain("td")) != TrustDomain("td")


def test_values_cannot_be_changed() -> None:
    """An ID that was checked stays what was checked."""
    with pytest.raises(AttributeError):
        SpiffeId.parse("spiffe://td/a").path = "/b"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        TrustDomain("td").name = "x"  # type: ignore[misc]


@given(st.text(max_size=40) | st.text(alphabet="spifed:/tA.-_%@?#\n\0", max_size=40).map("spiffe://".__add__))
@example("spiffe://td/a\n")
@settings(max_examples=300)
def test_any_text_is_accepted_or_refused_in_our_words(text: str) -> None:
    """Accepted text is canonical, and an independent URI parser agrees; everything else is a SpiffeIdError."""
    try:
        spiffe_id = SpiffeId.parse(text)
    except SpiffeIdError:
        return
    parts = urlsplit(text)
    assert (parts.scheme, parts.netloc, parts.path) == ("spiffe", spiffe_id.trust_domain.name, spiffe_id.path)
    assert (parts.query, parts.fragment, parts.port, parts.username) == ("", "", None, None)
    assert str(spiffe_id) == text


_segments = st.text(alphabet=sorted(PATH_CHARACTERS), min_size=1, max_size=12).filter(
    lambda text: text not in {".", ".."}
)


@given(
    st.text(alphabet=sorted(TRUST_DOMAIN_CHARACTERS), min_size=1, max_size=255),
    st.lists(_segments, max_size=8).map(lambda parts: "".join(f"/{part}" for part in parts)),
)
@settings(max_examples=100)
def test_everything_the_grammar_makes_is_accepted(name: str, path: str) -> None:
    """The parser is not stricter than the standard either."""
    assert SpiffeId.parse(f"spiffe://{name}{path}") == SpiffeId(TrustDomain(name), path)


def _accepts(text: str) -> bool:
    try:
        SpiffeId.parse(text)
    except SpiffeIdError:
        return False
    return True


def _is_trust_domain(text: str) -> bool:
    try:
        TrustDomain(text)
    except SpiffeIdError:
        return False
    return True
