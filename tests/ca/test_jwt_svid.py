"""JWT-SVIDs: another library takes them, with the keys that are published."""

from __future__ import annotations

import json
from typing import Any

import jwt
import pytest

from meshsec.ca import CertificateAuthority
from meshsec.errors import IssuanceError, SpiffeIdError
from meshsec.jose import KeySet, verify_jws
from meshsec.spiffe import read_bundle
from pki import NOW

ID = "spiffe://td.example/ns/prod/sa/web"
CA = CertificateAuthority.create("td.example", now=NOW)


def test_another_library_verifies_it() -> None:
    """PyJWT, with nothing but the published key set."""
    authority = CertificateAuthority.create("td.example")
    token = authority.issue_jwt_svid(ID, ["shop", "bank"], ttl=60)
    key = jwt.PyJWKSet.from_dict(authority.jwks())[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key.key, algorithms=["ES256"], audience="bank")
    assert (claims["sub"], claims["aud"], claims["exp"] - claims["iat"]) == (ID, ["shop", "bank"], 60)


def test_the_header_holds_nothing_else() -> None:
    """JWT-SVID section 2: alg, kid and typ only."""
    header, payload = verify_jws(CA.issue_jwt_svid(ID, ["shop"], now=NOW), KeySet.parse(CA.jwks()), ["ES256"])
    assert set(header) == {"alg", "kid", "typ"}
    assert set(json.loads(payload)) == {"sub", "aud", "iat", "exp", "jti"}


def test_the_bundle_verifies_it_too() -> None:
    """The SPIFFE bundle holds the same key under SPIFFE's own use."""
    document = read_bundle("td.example", CA.bundle_document())
    verify_jws(CA.issue_jwt_svid(ID, ["shop"], now=NOW), document.jwt_keys, ["ES256"])
    assert document.x509 == CA.bundle


def test_a_token_and_a_certificate_have_different_keys() -> None:
    """So that neither can ever be taken for the other."""
    [token_key] = CA.jwks()["keys"]
    [root] = [key for key in json.loads(CA.bundle_document())["keys"] if key["use"] == "x509-svid"]
    assert token_key["x"] != root["x"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nobody": ({"audience": []}, "audience_invalid"),
    "an empty name": ({"audience": ["shop", ""]}, "audience_invalid"),
    "a text for a list": ({"audience": "shop"}, "audience_invalid"),
    "another trust domain": ({"id": "spiffe://other.example/x"}, "foreign_trust_domain"),
    "a trust domain": ({"id": "spiffe://td.example"}, "no_path"),
    "longer than a day": ({"ttl": 86_401}, "lifetime_invalid"),
    "no time": ({"ttl": 0}, "lifetime_invalid"),
}


@pytest.mark.parametrize(("options", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_issued(options: dict[str, Any], code: str) -> None:
    """Each refusal has a stable code."""
    with pytest.raises(IssuanceError) as caught:
        CA.issue_jwt_svid(**{"id": ID, "audience": ["shop"], "now": NOW, **options})
    assert caught.value.code == code
    with pytest.raises(SpiffeIdError):
        CA.issue_jwt_svid("web", ["shop"])
