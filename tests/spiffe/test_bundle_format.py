"""The SPIFFE bundle format: what is passed over, what is refused, what comes back."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsec.errors import ConfigError, MeshsecError
from meshsec.jose import SigningKey
from meshsec.spiffe import X509Bundle, read_bundle, write_bundle
from pki import TestCA

TD = "td.example"
CAS = [TestCA(TD), TestCA(TD, key="p384"), TestCA(TD, key="rsa")]
BUNDLE = X509Bundle(TD, [ca.der for ca in CAS])
JWT_KEY = SigningKey.generate("ES256", kid="k1").public_jwk()
WRITTEN = json.loads(write_bundle(BUNDLE, [JWT_KEY], sequence=7, refresh_hint=60))


def read(**changes: Any) -> Any:
    """The document with some members changed; None removes one."""
    document = {**WRITTEN, **changes}
    return read_bundle(
        TD, json.dumps({name: value for name, value in document.items() if value is not None}).encode()
    )


def test_what_is_written_comes_back() -> None:
    """EC and RSA authorities, the JWT key, sequence and hint."""
    document = read()
    assert document.x509 == BUNDLE
    assert [key.kid for key in document.jwt_keys.keys] == ["k1"]
    assert (document.sequence, document.refresh_hint) == (7, 60)


def test_an_authority_is_written_as_the_standard_says() -> None:
    """X509-SVID 6: no kid, exactly one certificate, the key's own members."""
    *authorities, token_key = WRITTEN["keys"]
    assert [sorted(key) for key in authorities] == [
        ["crv", "kty", "use", "x", "x5c", "y"],
        ["crv", "kty", "use", "x", "x5c", "y"],
        ["e", "kty", "n", "use", "x5c"],
    ]
    assert [key["x5c"] for key in authorities] == [[b64encode(ca.der).decode()] for ca in CAS]
    assert (token_key["use"], token_key["kid"]) == ("jwt-svid", "k1")


def test_sequence_and_hint_may_be_absent() -> None:
    """Five minutes is the standard's default."""
    document = read(spiffe_sequence=None, spiffe_refresh_hint=None)
    assert (document.sequence, document.refresh_hint) == (None, 300)


def test_a_document_has_a_largest_size() -> None:
    """To the byte; what is longer is not even parsed."""
    text = json.dumps(WRITTEN).encode().ljust(4 << 20)
    assert read_bundle(TD, text).x509 == BUNDLE
    with pytest.raises(ConfigError, match="more than 4194304 bytes"):
        read_bundle(TD, text + b" ")


def test_an_empty_bundle_revokes_everybody() -> None:
    """It is no error: nobody is trusted any more."""
    document = read(keys=[])
    assert document.x509.x509_authorities == ()
    assert len(document.jwt_keys) == 0


X509, JWT = WRITTEN["keys"][0], WRITTEN["keys"][-1]
PASSED_OVER: dict[str, Any] = {
    "an unknown use": {**X509, "use": "X509-SVID"},
    "no use": {**{name: value for name, value in X509.items() if name != "use"}},
    "a use that is no text": {**X509, "use": ["x509-svid"]},
    "no certificate": {**X509, "x5c": []},
    "a certificate that is no list": {**X509, "x5c": X509["x5c"][0]},
    "no key type": {**{name: value for name, value in X509.items() if name != "kty"}},
    "a token key without a name": {**{name: value for name, value in JWT.items() if name != "kid"}},
    "a token key of an unknown type": {**JWT, "kty": "XYZ"},
    "a WIT key": {**JWT, "use": "wit-svid"},
    "no object": "x",
}


@pytest.mark.parametrize("member", PASSED_OVER.values(), ids=PASSED_OVER.keys())
def test_a_member_that_is_not_understood_is_passed_over(member: Any) -> None:
    """The others still count, and it counts for nothing."""
    document = read(keys=[member, X509])
    assert document.x509.der == {CAS[0].der}
    assert len(document.jwt_keys) == 0


def test_only_the_first_certificate_of_a_member_counts() -> None:
    """A second one in the same list is no authority."""
    [other] = WRITTEN["keys"][1]["x5c"]
    assert read(keys=[{**X509, "x5c": [*X509["x5c"], other]}]).x509.der == {CAS[0].der}


REFUSED: dict[str, dict[str, Any]] = {
    "no keys": {"keys": None},
    "keys that are no list": {"keys": {}},
    "a negative sequence": {"spiffe_sequence": -1},
    "a sequence in text": {"spiffe_sequence": "1"},
    "a hint that is a truth": {"spiffe_refresh_hint": True},
    "a leaf as authority": {"keys": [{**X509, "x5c": [b64encode(CAS[0].leaf()[0][0]).decode()]}]},
    "half a certificate": {"keys": [{**X509, "x5c": [X509["x5c"][0][:40]]}]},
    "no base64": {"keys": [{**X509, "x5c": ["%%"]}]},
}


@pytest.mark.parametrize("changes", REFUSED.values(), ids=REFUSED.keys())
def test_a_bundle_that_cannot_be_meant_is_refused(changes: dict[str, Any]) -> None:
    """Rather the last good bundle than half of this one."""
    with pytest.raises(ConfigError) as caught:
        read(**changes)
    assert caught.value.code == "bundle_invalid"


def test_a_repeated_name_and_an_endless_text_are_refused() -> None:
    """One reading only, and a bounded one."""
    for data in (b'{"keys":[],"keys":[]}', b" " * (5 << 20), b"", b"[]"):
        with pytest.raises(ConfigError):
            read_bundle(TD, data)


NAMES = st.sampled_from(["use", "kty", "x5c", "kid", "keys", "x", "n"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
@settings(max_examples=80, deadline=None)
def test_any_json_is_read_or_refused_in_our_words(value: Any) -> None:
    """Whatever stands under keys."""
    try:
        read_bundle(TD, json.dumps({"keys": value}).encode())
    except MeshsecError:
        return
