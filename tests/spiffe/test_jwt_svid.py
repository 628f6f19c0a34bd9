"""JWT-SVIDs: what the specification demands of them, each demand with what breaks it."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshsec.ca import CertificateAuthority
from meshsec.errors import TokenError
from meshsec.jose import KeySet, SigningKey
from meshsec.spiffe import SpiffeId, TrustDomain, read_bundle, verify_jwt_svid, write_bundle
from tokens import NOW, claims, key_set, raw, signing_key

TD = TrustDomain("cluster.local")
SUBJECT = "spiffe://cluster.local/ns/prod/sa/web"
KEY, OTHER = signing_key("ES256"), signing_key("ES256", "k2")
AUTHORITIES = {TD: key_set(KEY), TrustDomain("partner.example"): key_set(OTHER)}


def token(key: SigningKey = KEY, header: dict[str, Any] | None = None, **changes: Any) -> str:
    """A good one but for these changes."""
    head = {"alg": key.algorithm, "kid": key.kid, "typ": "JWT", **(header or {})}
    found = {"sub": SUBJECT, "aud": ["db"], "iss": None, **changes}
    return raw({name: value for name, value in head.items() if value is not None}, claims(**found), key)


def code(text: str, audience: str = "db", now: float = NOW) -> str | None:
    """Why it is refused."""
    try:
        verify_jwt_svid(text, AUTHORITIES, audience=audience, now=now)
    except TokenError as error:
        return error.code
    return None


def test_a_good_one_names_the_workload() -> None:
    """With everything that is said of it, read-only."""
    svid = verify_jwt_svid(token(roles=["a"]), AUTHORITIES, audience="db", now=NOW)
    assert (svid.id, svid.audience, svid.expires_at) == (SpiffeId.parse(SUBJECT), ("db",), NOW + 300)
    assert svid.claims["roles"] == ("a",)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"header": {"typ": "JOSE"}}, None),
        ({"header": {"typ": None}}, None),
        ({"header": {"typ": "jwt"}}, "jwt_malformed"),
        ({"header": {"typ": "at+jwt"}}, "jwt_malformed"),
        ({"header": {"typ": 1}}, "jwt_malformed"),
        ({"header": {"kid": None}}, None),
        ({"header": {"kid": "other"}}, "jwt_unknown_key"),
        ({"header": {"jku": "https://x.example"}}, "jwt_critical_header"),
        ({"header": {"crit": ["exp"]}}, "jwt_critical_header"),
        ({"aud": "db"}, None),
        ({"aud": ["x", "db"]}, None),
        ({"aud": ["x"]}, "jwt_audience"),
        ({"aud": []}, "jwt_audience"),
        ({"aud": None}, "jwt_audience"),
        ({"aud": ["db", 1]}, "jwt_claim_type"),
        ({"aud": {"db": 1}}, "jwt_claim_type"),
        ({"aud": "https://db/"}, "jwt_audience"),
        ({"exp": None}, "jwt_no_expiry"),
        ({"exp": NOW - 60}, None),
        ({"exp": NOW - 61}, "jwt_expired"),
        ({"exp": True}, "jwt_claim_type"),
        ({"exp": str(NOW)}, "jwt_claim_type"),
        ({"exp": (1 << 64) - 1}, None),
        ({"exp": 1 << 64}, "jwt_claim_type"),
        ({"nbf": -1}, "jwt_claim_type"),
        ({"nbf": NOW + 60}, None),
        ({"nbf": NOW + 61}, "jwt_not_yet_valid"),
        ({"iat": NOW + 9999}, None),
        ({"sub": None}, "jwt_claim_type"),
        ({"sub": "alice"}, "jwt_claim_type"),
        ({"sub": ["spiffe://cluster.local/x"]}, "jwt_claim_type"),
        ({"sub": "spiffe://cluster.local"}, "jwt_claim_type"),
        ({"sub": "spiffe://CLUSTER.local/x"}, "jwt_claim_type"),
        ({"sub": "spiffe://unknown.example/x"}, "jwt_unknown_key"),
        ({"sub": "spiffe://partner.example/x"}, "jwt_unknown_key"),
        ({"sub": "spiffe://partner.example/x", "key": OTHER}, None),
        ({"key": OTHER}, "jwt_unknown_key"),
        ({"key": SigningKey.generate("ES256", kid="k1")}, "jwt_signature"),
        ({"key": signing_key("EdDSA")}, "jwt_algorithm"),
    ],
)
def test_every_rule(changes: dict[str, Any], expected: str | None) -> None:
    """JWT-SVID sections 2, 3 and 5, and only the subject's own trust domain answers for it."""
    assert code(token(**changes)) == expected


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (NOW + 360, None),
        (NOW + 360.1, "jwt_expired"),
        (math.inf, "jwt_expired"),
        (-math.inf, "jwt_not_yet_valid"),
        (math.nan, "jwt_expired"),
    ],
)
def test_the_moment_is_the_callers(now: float, expected: str | None) -> None:
    """A minute beyond the end counts, no more does; a clock that is no number refuses."""
    assert code(token(nbf=NOW), now=now) == expected


def test_an_empty_audience_is_nobody() -> None:
    """Whoever has no name of its own takes no token."""
    assert code(token(aud=[""]), audience="") == "jwt_audience"


def test_only_keys_for_jwt_svids_count() -> None:
    """A bundle's other keys verify no JWT-SVID, though they be the same."""
    authority = CertificateAuthority.create(TD)
    document = write_bundle(authority.bundle, [KEY.public_jwk()], sequence=1, refresh_hint=60)
    keys = read_bundle(TD, document).jwt_keys
    assert verify_jwt_svid(token(), {TD: keys}, audience="db", now=NOW).id.path == "/ns/prod/sa/web"
    for use in ("x509-svid", "sig", ""):
        changed = json.loads(document)
        for key in changed["keys"]:
            key["use"] = use if key["use"] == "jwt-svid" else key["use"]
        keys = read_bundle(TD, json.dumps(changed).encode()).jwt_keys
        with pytest.raises(TokenError) as caught:
            verify_jwt_svid(token(), {TD: keys}, audience="db", now=NOW)
        assert caught.value.code == "jwt_unknown_key"


@given(st.text(max_size=60) | st.builds(".".join, st.lists(st.text("AZaz09-_", max_size=12), min_size=3, max_size=3)))
def test_any_text_is_a_token_or_a_refusal(text: str) -> None:
    """Nothing else comes out."""
    with contextlib.suppress(TokenError):
        verify_jwt_svid(text, {TD: KeySet(())}, audience="db", now=NOW)
