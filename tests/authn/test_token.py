"""One token against one rule: signature, types, times, audience, and what becomes of the claims."""

from __future__ import annotations

import math
import socket
import time
from types import MappingProxyType
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from meshsec.authn import verify_token
from meshsec.authn._token import TokenProfile
from meshsec.decision import Reason
from meshsec.errors import MeshsecError, TokenError
from meshsec.jose import KeySet, SigningKey
from meshsec.resources import Compatibility, JWTRule
from tokens import ALGORITHMS, ISSUER, NOW, claims, jwks, key_set, mint, pem, raw, signing_key

KEY = signing_key()
KEYS = key_set(KEY)
RULE = JWTRule(issuer=ISSUER, audiences=["web"], jwks=jwks(KEY))
HEADER = {"alg": "ES256", "kid": "k1"}


def refusal(token: str, rule: JWTRule = RULE, now: float = NOW) -> TokenError:
    """Why a token is refused: a known reason, a short message, nothing of the token in it."""
    with pytest.raises(TokenError) as caught:
        verify_token(token, rule, KEYS, now=now)
    error = caught.value
    assert Reason(error.code)
    assert len(str(error)) < 512
    assert not any(part[:12] in str(error) for part in token.split(".") if len(part) >= 12)
    return error


def code_of(token: str, rule: JWTRule = RULE, now: float = NOW) -> str:
    """The reason alone."""
    return refusal(token, rule, now).code


def test_a_good_token_names_the_user() -> None:
    """Issuer, subject and every claim."""
    principal = verify_token(mint(groups=["admin"]), RULE, KEYS, now=NOW)
    assert principal.name == f"{ISSUER}/alice"
    assert principal.claims["groups"] == ("admin",)
    assert principal.claims["exp"] == NOW + 300


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "Ed25519"])
def test_every_algorithm_is_taken(algorithm: str) -> None:
    """And a token signed by another key of the same kind is not."""
    key = signing_key(algorithm)
    assert verify_token(mint(key), RULE, key_set(key), now=NOW).subject == "alice"
    other = SigningKey.generate(algorithm, kid="k1")
    with pytest.raises(TokenError, match="Jwt verification fails"):
        verify_token(mint(other), RULE, key_set(key), now=NOW)


def test_what_istio_does_not_know_is_not_taken() -> None:
    """RFC 9864's name for EdDSA is refused, as Istio's proxy does; the old name with the same key is not."""
    for algorithm, expected in (("EdDSA", None), ("Ed25519", Reason.JWT_ALGORITHM)):
        key = signing_key(algorithm)
        keys = KeySet.parse({"keys": [{name: value for name, value in key.public_jwk().items() if name != "alg"}]})
        try:
            verify_token(mint(key), RULE, keys, now=NOW)
            found = None
        except TokenError as error:
            found = error.code
        assert found == expected


@pytest.mark.parametrize(
    ("change", "value", "code", "message"),
    [
        ("iss", "https://other.example", Reason.JWT_ISSUER, "Jwt issuer is not configured"),
        ("iss", None, Reason.JWT_ISSUER, "Jwt issuer is not configured"),
        ("iss", f"{ISSUER}/", Reason.JWT_ISSUER, "Jwt issuer is not configured"),
        ("iss", ISSUER[:-1], Reason.JWT_ISSUER, "Jwt issuer is not configured"),
        ("iss", f"_{ISSUER}_", Reason.JWT_ISSUER, "Jwt issuer is not configured"),
        ("iss", ISSUER.upper(), Reason.JWT_ISSUER, "Jwt issuer is not configured"),
        ("iss", [ISSUER], Reason.JWT_CLAIM_TYPE, "Jwt payload [iss] field is not a string"),
        ("iss", 7, Reason.JWT_CLAIM_TYPE, "Jwt payload [iss] field is not a string"),
        ("sub", 7, Reason.JWT_CLAIM_TYPE, "Jwt payload [sub] field is not a string"),
        ("sub", ["alice"], Reason.JWT_CLAIM_TYPE, "Jwt payload [sub] field is not a string"),
        ("jti", ["1"], Reason.JWT_CLAIM_TYPE, "Jwt payload [jti] field is not a string"),
        ("iat", "1", Reason.JWT_CLAIM_TYPE, "Jwt payload [iat] field is not an integer"),
        ("iat", True, Reason.JWT_CLAIM_TYPE, "Jwt payload [iat] field is not an integer"),
        ("iat", -1, Reason.JWT_CLAIM_TYPE, "Jwt payload [iat] field is not a positive 64 bit integer"),
        ("iat", 1 << 64, Reason.JWT_CLAIM_TYPE, "Jwt payload [iat] field is not a positive 64 bit integer"),
        ("nbf", True, Reason.JWT_CLAIM_TYPE, "Jwt payload [nbf] field is not an integer"),
        ("nbf", 1 << 64, Reason.JWT_CLAIM_TYPE, "Jwt payload [nbf] field is not a positive 64 bit integer"),
        ("nbf", -1, Reason.JWT_CLAIM_TYPE, "Jwt payload [nbf] field is not a positive 64 bit integer"),
        ("exp", True, Reason.JWT_CLAIM_TYPE, "Jwt payload [exp] field is not an integer"),
        ("exp", str(NOW + 300), Reason.JWT_CLAIM_TYPE, "Jwt payload [exp] field is not an integer"),
        ("exp", [NOW + 300], Reason.JWT_CLAIM_TYPE, "Jwt payload [exp] field is not an integer"),
        ("exp", {}, Reason.JWT_CLAIM_TYPE, "Jwt payload [exp] field is not an integer"),
        ("exp", -1, Reason.JWT_CLAIM_TYPE, "Jwt payload [exp] field is not a positive 64 bit integer"),
        ("exp", 1 << 64, Reason.JWT_CLAIM_TYPE, "Jwt payload [exp] field is not a positive 64 bit integer"),
        ("exp", (1 << 64) - 1, Reason.JWT_CLAIM_TYPE, "Jwt payload [exp] field is not a positive 64 bit integer"),
        ("exp", 1e30, Reason.JWT_CLAIM_TYPE, "Jwt payload [exp] field is not a positive 64 bit integer"),
        ("exp", None, Reason.JWT_NO_EXPIRY, "Jwt payload [exp] field is required"),
        ("exp", 0, Reason.JWT_EXPIRED, "Jwt is expired"),
        ("aud", 7, Reason.JWT_CLAIM_TYPE, "Jwt payload [aud] field is not a string or string list"),
        ("aud", {"web": 1}, Reason.JWT_CLAIM_TYPE, "Jwt payload [aud] field is not a string or string list"),
        ("aud", ["web", 7], Reason.JWT_CLAIM_TYPE, "Jwt payload [aud] field is not a string or string list"),
        ("aud", None, Reason.JWT_AUDIENCE, "Audiences in Jwt are not allowed"),
        ("aud", "", Reason.JWT_AUDIENCE, "Audiences in Jwt are not allowed"),
        ("aud", "web2", Reason.JWT_AUDIENCE, "Audiences in Jwt are not allowed"),
        ("aud", "WEB", Reason.JWT_AUDIENCE, "Audiences in Jwt are not allowed"),
        ("aud", [], Reason.JWT_AUDIENCE, "Audiences in Jwt are not allowed"),
        ("aud", "web other", Reason.JWT_AUDIENCE, "Audiences in Jwt are not allowed"),
    ],
)
def test_one_wrong_claim_is_enough(change: str, value: object, code: Reason, message: str) -> None:
    """Each row is the good token with one claim changed; the messages are Istio's."""
    error = refusal(mint(**{change: value}))
    assert (error.code, str(error)) == (code, message)


@pytest.mark.parametrize("name", ["iss", "sub", "jti", "iat", "nbf", "exp", "aud"])
def test_null_is_no_value(name: str) -> None:
    """A claim that is there and null is of the wrong type, not absent."""
    assert code_of(raw(HEADER, claims() | {name: None}, KEY)) == Reason.JWT_CLAIM_TYPE


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b"not json",
        b'{"iss":NaN}',
        b'{"exp":NaN}',
        b'{"exp":Infinity}',
        b'{"exp":1e400}',
        b'{"sub":"a","sub":"b"}',
        b'{"sub":"a","s\\u0075b":"b"}',
        b'{"x":' * 40 + b"1" + b"}" * 40,
        b'{"x":' * 4000,
    ],
)
def test_a_payload_has_one_reading(payload: bytes) -> None:
    """What is no JSON object, or more than one, is malformed; an empty one has no segment at all."""
    assert code_of(raw(HEADER, payload, KEY)) == Reason.JWT_MALFORMED


@pytest.mark.parametrize(
    ("changes", "now", "code"),
    [
        ({"exp": NOW}, NOW + 59, None),
        ({"exp": NOW}, NOW + 60, None),
        ({"exp": NOW}, NOW + 60.5, Reason.JWT_EXPIRED),
        ({"exp": NOW}, NOW + 61, Reason.JWT_EXPIRED),
        ({"exp": NOW + 0.9}, NOW + 60, None),
        ({"exp": NOW + 0.9}, NOW + 61, Reason.JWT_EXPIRED),
        ({"nbf": NOW}, NOW - 59, None),
        ({"nbf": NOW}, NOW - 60, None),
        ({"nbf": NOW}, NOW - 61, Reason.JWT_NOT_YET_VALID),
        ({"iat": NOW + 3600}, NOW, None),
        ({"iat": 0.0, "nbf": 0.0}, NOW, None),
        ({"iat": -0.5}, NOW, Reason.JWT_CLAIM_TYPE),
        ({"exp": (1 << 64) - 2048, "iat": 1 << 48}, NOW, None),
        ({"exp": (1 << 48) - 1, "iat": (1 << 48) + 1}, NOW, None),
        ({"exp": 0.5}, NOW, Reason.JWT_EXPIRED),
    ],
)
def test_times_have_a_minute_of_skew(changes: dict[str, Any], now: float, code: Reason | None) -> None:
    """Each way, to the second; ``iat`` is not judged, as in Istio."""
    token = mint(**changes)
    if code is None:
        assert verify_token(token, RULE, KEYS, now=now)
    else:
        assert code_of(token, now=now) == code


@pytest.mark.parametrize(
    ("compatibility", "changes", "lifetime"),
    [
        ("safe", {"exp": NOW, "nbf": NOW - 0.5}, (NOW - 60, NOW + 60)),
        ("safe", {"exp": NOW + 0.9}, (-60, NOW + 60)),
        ("safe", {"exp": 0}, (-60, 60)),
        ("istio", {"exp": NOW}, (-60, NOW + 60)),
        ("istio", {"exp": 0}, (-60, math.inf)),
        ("istio", {"exp": None, "nbf": NOW}, (NOW - 60, math.inf)),
    ],
)
def test_a_token_that_held_holds_for_its_time(
    compatibility: Compatibility, changes: dict[str, Any], lifetime: tuple[float, float]
) -> None:
    """What is remembered ends with it; only Istio's reading has tokens that never end."""
    assert TokenProfile.of(RULE, compatibility).lifetime(claims(**changes)) == lifetime


OFFSETS = st.integers(-300, 300).filter(lambda offset: abs(abs(offset) - 60) > 10)
AUDIENCES = st.sampled_from(["web", "other", ["a", "web"], []])
ISSUERS = st.sampled_from([ISSUER, "https://other.example", None])


@given(OFFSETS, st.none() | OFFSETS, AUDIENCES, ISSUERS)
def test_pyjwt_judges_alike(exp: int, nbf: int | None, audience: Any, issuer: str | None) -> None:
    """Another library with the same leeway gives the same verdict on the machine's clock, off the exact boundary."""
    now = int(time.time())
    token = mint(exp=now + exp, nbf=None if nbf is None else now + nbf, iat=None, aud=audience, iss=issuer)
    public: Any = load_pem_private_key(pem("ES256"), None).public_key()
    options: Any = {"require": ["exp", "iss"]}
    try:
        jwt.decode(token, public, ["ES256"], audience="web", issuer=ISSUER, leeway=60, options=options)
        theirs = True
    except jwt.InvalidTokenError:
        theirs = False
    assert accepts(token, now) == theirs


def accepts(token: str, now: float) -> bool:
    """Whether a token holds."""
    try:
        verify_token(token, RULE, KEYS, now=now)
    except TokenError:
        return False
    return True


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"exp": NOW - 999, "aud": "other"}, Reason.JWT_EXPIRED),
        ({"nbf": NOW + 999, "aud": "other"}, Reason.JWT_NOT_YET_VALID),
        ({"iss": "https://other.example", "exp": NOW - 999}, Reason.JWT_ISSUER),
        ({"sub": 7, "exp": NOW - 999}, Reason.JWT_CLAIM_TYPE),
    ],
)
def test_the_signature_comes_first_then_types_issuer_times_audience(changes: dict[str, Any], code: Reason) -> None:
    """With several faults the first in order is told; with a bad signature, always that."""
    assert code_of(mint(**changes)) == code
    assert code_of(mint(SigningKey.generate("ES256", kid="k1"), **changes)) == Reason.JWT_SIGNATURE


@pytest.mark.parametrize(
    ("rule", "token"),
    [
        ("web", "web"),
        ("web", ["other", "web"]),
        ("web", "https://web"),
        ("web", "http://web/"),
        ("https://web/", "web"),
        ("https://web", "http://web"),
        ("web/", "web"),
    ],
)
def test_audiences_meet_without_scheme_and_slash(rule: str, token: str | list[str]) -> None:
    """Istio's normalization on both sides; one slash and one scheme, no more."""
    audience = JWTRule(issuer=ISSUER, audiences=["unused", rule], jwks=jwks(KEY))
    assert verify_token(mint(aud=token), audience, KEYS, now=NOW)
    for wrong in (f"{rule}//", f"https://http://{rule}", f"http://https://{rule}", f"x{rule}", f"{rule}/x"):
        assert code_of(mint(aud=wrong), audience) == Reason.JWT_AUDIENCE


def test_one_slash_is_taken_off_and_no_more() -> None:
    """Of the rule's audience as of the token's, before they are compared: what is left must be the same."""
    twice = JWTRule(issuer=ISSUER, audiences=["web//"], jwks=jwks(KEY))
    for audience, held in (("web//", True), (["x", "https://web//"], True), ("web/", False), ("web", False)):
        token = mint(aud=audience)
        if held:
            assert verify_token(token, twice, KEYS, now=NOW)
        else:
            assert code_of(token, twice) == Reason.JWT_AUDIENCE


def test_without_audiences_none_is_checked() -> None:
    """As in Istio; the types still count."""
    rule = JWTRule(issuer=ISSUER, jwks=jwks(KEY))
    assert verify_token(mint(aud="whatever"), rule, KEYS, now=NOW)
    assert verify_token(mint(aud=None), rule, KEYS, now=NOW)
    assert code_of(mint(aud=7), rule) == Reason.JWT_CLAIM_TYPE


def test_an_empty_issuer_takes_any_or_none() -> None:
    """As in Istio, for rules that name a jwksUri only."""
    rule = JWTRule(jwks_uri="https://issuer.example/jwks")
    assert verify_token(mint(iss="https://other.example"), rule, KEYS, now=NOW).issuer == "https://other.example"
    nobody = verify_token(mint(iss=None, sub=None), rule, KEYS, now=NOW)
    assert (nobody.issuer, nobody.subject) == ("", "")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("read write", ("read", "write")),
        ("read", ("read",)),
        ("  read   write ", ("read", "write")),
        ("read\twrite\nx", ("read\twrite\nx",)),
        ("   ", "   "),
        ("", ""),
        (["a b", "c"], ("a b", "c")),
        (7, 7),
    ],
)
@pytest.mark.parametrize("name", ["scope", "permission", "roles"])
def test_space_delimited_claims_are_split(name: str, value: object, expected: object) -> None:
    """scope and permission always, others as the rule says; only text, only at spaces."""
    rule = JWTRule(issuer=ISSUER, jwks=jwks(KEY), space_delimited_claims=["roles"])
    assert verify_token(mint(**{name: value}), rule, KEYS, now=NOW).claims[name] == expected
    assert verify_token(mint(other="a b"), rule, KEYS, now=NOW).claims["other"] == "a b"


def test_claims_are_read_only_all_the_way_down() -> None:
    """What one handler could change, the next would believe."""
    principal = verify_token(mint(realm={"roles": [{"name": "admin"}]}), RULE, KEYS, now=NOW)
    realm = principal.claims["realm"]
    assert isinstance(principal.claims, MappingProxyType)
    assert isinstance(realm, MappingProxyType)
    assert isinstance(realm["roles"], tuple)
    assert isinstance(realm["roles"][0], MappingProxyType)
    assert "alice" not in repr(principal.claims["realm"])


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verifying opens no socket, whatever the token says of keys."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    header = {**HEADER, "jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/"}
    assert verify_token(raw(header, claims(), KEY), RULE, KEYS, now=NOW)
    assert code_of(raw({**header, "kid": "other"}, claims(), KEY)) == Reason.JWT_UNKNOWN_KEY


@given(st.text() | st.text(alphabet="AQ.eyJ-_", max_size=60))
def test_any_text_is_a_principal_or_a_token_error(token: str) -> None:
    """Nothing else comes out."""
    refusal(token)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([ISSUER, "web"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "scope", "x"]), VALUES))
def test_any_signed_claims_are_a_principal_or_a_meshsec_error(changes: dict[str, Any]) -> None:
    """Truly signed: what passes has the issuer, an audience and a time to end."""
    token = raw(HEADER, {**claims(), **changes}, KEY)
    try:
        principal = verify_token(token, RULE, KEYS, now=NOW)
    except MeshsecError:
        return
    assert principal.issuer == ISSUER
    assert principal.claims["exp"] + 60 >= NOW


def test_a_wrong_set_is_never_enough() -> None:
    """The same kid with other keys is no key."""
    other = KeySet.parse(jwks(SigningKey.generate("ES256", kid="k1")))
    with pytest.raises(TokenError, match="Jwt verification fails"):
        verify_token(mint(), RULE, other, now=NOW)
