"""The leaf profile (X509-SVID sections 2 to 4 and 5.2): one function, three callers."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsec.errors import SvidError
from meshsec.spiffe import SpiffeId, X509Bundle, X509Svid, check_leaf, verify_x509_svid
from pki import NOW, TestCA, certificate, key_of

CA = TestCA("td.example")
ID = "spiffe://td.example/ns/prod/sa/web"
ALLOWED_IN_PATH = frozenset(string.ascii_letters + string.digits + ".-_")
SAN = x509.ExtensionOID.SUBJECT_ALTERNATIVE_NAME


def leaf(**options: Any) -> x509.Certificate:
    """A leaf of the test CA."""
    return x509.load_der_x509_certificate(CA.leaf(**options)[0][0])


GOOD: dict[str, dict[str, Any]] = {
    "plain": {},
    "with a subject": {"subject": "web"},
    "with a subject and a critical SAN": {"subject": "web", "san_critical": True},
    "empty subject and a SAN that is not critical": {"san_critical": False},
    "DNS and IP names beside the URI": {"dns": ["localhost", "web.prod"], "ips": ["127.0.0.1", "::1"]},
    "no keyUsage": {"key_usage": None},
    "keyUsage not critical": {"ku_critical": False},
    "more keyUsage": {"key_usage": ["digital_signature", "key_encipherment", "key_agreement"]},
    "no basicConstraints": {"ca": None},
    "no extended key usage": {"eku": None},
    "a path of one segment": {"uris": ["spiffe://td.example/x"]},
    "a key of another kind": {"key": "ed25519"},
}


@pytest.mark.parametrize("options", GOOD.values(), ids=GOOD.keys())
def test_a_leaf_within_the_profile_names_its_workload(options: dict[str, Any]) -> None:
    """What only issuers are asked for does not refuse a peer."""
    assert str(check_leaf(leaf(**options))) == options.get("uris", [ID])[0]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no SAN": ({"uris": []}, "uri_san_count"),
    "only DNS names": ({"uris": [], "dns": ["localhost"]}, "uri_san_count"),
    "two URIs": ({"uris": [ID, "spiffe://td.example/ns/prod/sa/admin"]}, "uri_san_count"),
    "the same URI twice": ({"uris": [ID, ID]}, "uri_san_count"),
    "a URL beside the ID": ({"uris": [ID, "https://td.example"]}, "uri_san_count"),
    "a URL": ({"uris": ["https://td.example/ns/prod/sa/web"]}, "spiffe_id_invalid"),
    "an upper-case scheme": ({"uris": ["SPIFFE://td.example/a"]}, "spiffe_id_invalid"),
    "an upper-case trust domain": ({"uris": ["spiffe://TD.example/a"]}, "spiffe_id_invalid"),
    "a trailing slash": ({"uris": [ID + "/"]}, "spiffe_id_invalid"),
    "a trailing newline": ({"uris": [ID + "\n"]}, "spiffe_id_invalid"),
    "a NUL": ({"uris": [ID + "\0.evil"]}, "spiffe_id_invalid"),
    "a query": ({"uris": [ID + "?q"]}, "spiffe_id_invalid"),
    "a fragment": ({"uris": [ID + "#f"]}, "spiffe_id_invalid"),
    "a user": ({"uris": ["spiffe://user@td.example/a"]}, "spiffe_id_invalid"),
    "a port": ({"uris": ["spiffe://td.example:80/a"]}, "spiffe_id_invalid"),
    "a percent sign": ({"uris": ["spiffe://td.example/%61"]}, "spiffe_id_invalid"),
    "a parent folder": ({"uris": ["spiffe://td.example/a/../b"]}, "spiffe_id_invalid"),
    "too long": ({"uris": ["spiffe://td.example/" + "a" * 2048]}, "spiffe_id_invalid"),
    "no path": ({"uris": ["spiffe://td.example"]}, "no_path"),
    "only a slash": ({"uris": ["spiffe://td.example/"]}, "spiffe_id_invalid"),
    "a CA": ({"ca": True}, "leaf_is_ca"),
    "a CA in every respect": ({"ca": True, "key_usage": ["digital_signature", "key_cert_sign"]}, "leaf_is_ca"),
    "a CA by a constraint that is not critical": ({"ca": True, "bc_critical": False}, "leaf_is_ca"),
    "keyCertSign": ({"key_usage": ["digital_signature", "key_cert_sign"]}, "leaf_key_usage"),
    "cRLSign": ({"key_usage": ["digital_signature", "crl_sign"]}, "leaf_key_usage"),
    "keyUsage not critical, with keyCertSign": (
        {"key_usage": ["digital_signature", "key_cert_sign"], "ku_critical": False},
        "leaf_key_usage",
    ),
    "keyUsage without digitalSignature": ({"key_usage": ["key_encipherment"]}, "leaf_key_usage"),
}


def by_check(options: dict[str, Any]) -> SpiffeId:
    """The profile itself."""
    return check_leaf(leaf(**options))


def by_svid(options: dict[str, Any]) -> SpiffeId:
    """The profile as a workload's own SVID meets it."""
    return X509Svid(*CA.leaf(**options)).id


def by_verifier(options: dict[str, Any]) -> SpiffeId:
    """The profile as a peer's SVID meets it."""
    chain, _ = CA.leaf(**options)
    return verify_x509_svid(chain, X509Bundle("td.example", [CA.der]), now=NOW, role="client")


@pytest.mark.parametrize("caller", [by_check, by_svid, by_verifier])
@pytest.mark.parametrize(("options", "code"), BAD.values(), ids=BAD.keys())
def test_a_leaf_outside_the_profile_is_refused_by_every_caller(
    options: dict[str, Any], code: str, caller: Callable[[dict[str, Any]], SpiffeId]
) -> None:
    """One corpus for all who ask: the rule exists once and has the same answer everywhere."""
    with pytest.raises(SvidError) as caught:
        caller(options)
    assert caught.value.code == code
    assert str(caught.value).isprintable()


def test_every_ascii_character_in_a_certificates_uri() -> None:
    """SAN strings arrive raw from the parser below: ours is the only filter."""
    for character in map(chr, range(128)):
        accepted = character in ALLOWED_IN_PATH or character == "/"
        uri = f"spiffe://td.example/x{character}y"
        assert _accepts(leaf(uris=[uri])) == accepted, ascii(uri)
        assert _accepts(leaf(uris=[f"spiffe://td.example/x{character}"])) == (character in ALLOWED_IN_PATH), ascii(
            uri
        )


def san(*names: bytes) -> bytes:
    """A subjectAltName as DER, from URIs as they are."""
    encoded = b"".join(bytes([0x86, len(name)]) + name for name in names)
    return bytes([0x30, len(encoded)]) + encoded


def test_every_byte_in_a_certificates_uri() -> None:
    """IA5String is ASCII by definition, but a forger may write any byte."""
    for code in range(128, 256):
        name = b"spiffe://td.example/x" + bytes([code])
        broken = leaf(uris=[], extensions=[(x509.UnrecognizedExtension(SAN, san(name)), True)])
        with pytest.raises(SvidError):
            check_leaf(broken)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x30", b"\x30\x05\x00", b"\x05\x00", b"\x30\x80\x00\x00", san(ID.encode()) + b"\0", b"\x30\x02\xaf\x00"],
    ids=bytes.hex,
)
def test_a_malformed_san_is_refused(content: bytes) -> None:
    """Whatever the parser below raises becomes one code."""
    with pytest.raises(SvidError) as caught:
        check_leaf(leaf(uris=[], extensions=[(x509.UnrecognizedExtension(SAN, content), True)]))
    assert caught.value.code == "malformed"


def test_an_empty_san_names_nobody() -> None:
    """An empty list is a count of none, or malformed; in no case a name."""
    with pytest.raises(SvidError) as caught:
        check_leaf(leaf(uris=[], extensions=[(x509.UnrecognizedExtension(SAN, b"\x30\x00"), True)]))
    assert caught.value.code in {"uri_san_count", "malformed"}


def test_two_san_extensions_are_refused() -> None:
    """Which of the two would count must not depend on who reads them."""
    unused = x509.ObjectIdentifier("2.5.29.99")
    made = leaf(uris=[ID], extensions=[(x509.UnrecognizedExtension(unused, san(b"spiffe://td.example/admin")), True)])
    der = made.public_bytes(Encoding.DER).replace(b"\x55\x1d\x63", b"\x55\x1d\x11")
    with pytest.raises(SvidError) as caught:
        check_leaf(x509.load_der_x509_certificate(der))
    assert caught.value.code == "malformed"


@given(st.binary(max_size=60))
@settings(max_examples=60, deadline=None)
def test_any_uri_bytes_are_an_id_or_a_refusal(name: bytes) -> None:
    """What is accepted is exactly the bytes that stand in the certificate."""
    key = key_of("ed25519")  # the cheapest to sign with
    made = certificate(
        subject="",
        issuer="x",
        public_key=key.public_key(),
        issuer_key=key,
        extensions=[(x509.UnrecognizedExtension(SAN, san(b"spiffe://" + name)), True)],
    )
    try:
        spiffe_id = check_leaf(made)
    except SvidError:
        return
    assert str(spiffe_id).encode() == b"spiffe://" + name


def _accepts(made: x509.Certificate) -> bool:
    try:
        check_leaf(made)
    except SvidError:
        return False
    return True
