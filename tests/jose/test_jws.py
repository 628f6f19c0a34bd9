"""The compact serialization: what verifies, and every way we know in which it must not."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from meshsec.errors import TokenError
from meshsec.jose import (
    ASYMMETRIC_ALGORITHMS,
    SYMMETRIC_ALGORITHMS,
    KeySet,
    SigningKey,
    _jws,
    parse_jws,
    sign_jws,
    verify_jws,
)
from sweeping import sweep
from tokens import ALGORITHMS, claims, encode, jwks, key_set, mint, pem, raw, signing_key

KEY = signing_key("ES256")
KEYS = key_set(KEY)
TOKEN = mint()
HEADER, PAYLOAD, SIGNATURE = TOKEN.split(".")
GOOD = {"alg": "ES256", "kid": "k1"}
ATTACKER = SigningKey.generate("ES256", kid="k1")
EVERY = ASYMMETRIC_ALGORITHMS | SYMMETRIC_ALGORITHMS


def code_of(token: str | bytes, keys: KeySet = KEYS) -> str:
    """Why a token is refused. The message is short and repeats nothing of the token."""
    with pytest.raises(TokenError) as caught:
        verify_jws(token, keys, EVERY)
    message = str(caught.value)
    assert len(message) < 512
    text = token if isinstance(token, str) else token.decode("latin-1")
    assert not any(segment[:12] in message for segment in text.split(".") if len(segment) >= 12)
    return caught.value.code


# ------------------------------------------------------------------------------------------------ what verifies


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_we_sign_we_verify(algorithm: str) -> None:
    """Every algorithm, with and without a name for the key."""
    for key in (signing_key(algorithm), SigningKey.from_pem(pem(algorithm), algorithm)):
        token = sign_jws({"typ": "JWT"}, b'{"a": 1}', key)
        header, payload = verify_jws(token, key_set(key), [algorithm])
        assert payload == b'{"a": 1}'
        assert header == {"typ": "JWT", "alg": algorithm} | ({"kid": key.kid} if key.kid else {})


@pytest.mark.parametrize("algorithm", sorted(set(ALGORITHMS) - {"Ed25519"}))
def test_pyjwt_and_we_verify_each_other(algorithm: str) -> None:
    """Another library's tokens verify here, and ours there."""
    key = signing_key(algorithm)
    private = load_pem_private_key(pem(algorithm), None)
    theirs = jwt.encode(claims(), private, algorithm, headers={"kid": key.kid})  # type: ignore[arg-type]
    _, payload = verify_jws(theirs, key_set(key), [algorithm])
    assert json.loads(payload) == claims()
    ours = sign_jws({}, json.dumps(claims()).encode(), key)
    options: Any = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False}
    assert jwt.decode(ours, private.public_key(), [algorithm], options=options) == claims()  # type: ignore[arg-type]


@pytest.mark.parametrize("algorithm", sorted(SYMMETRIC_ALGORITHMS))
def test_a_shared_secret_verifies_where_it_is_allowed(algorithm: str) -> None:
    """An inline HS key that says so; the same token against any other set is refused."""
    secret = b"0123456789abcdef" * 4
    member = {"kty": "oct", "alg": algorithm, "k": encode(secret)}
    token = jwt.encode(claims(), secret, algorithm)
    assert verify_jws(token, KeySet.parse({"keys": [member]}, allow_symmetric=True), EVERY)
    assert code_of(token) == "jwt_unknown_key"


def test_bytes_are_as_good_as_text() -> None:
    """Both forms of the same token."""
    assert verify_jws(TOKEN.encode(), KEYS, ["ES256"]) == verify_jws(TOKEN, KEYS, ["ES256"])


def test_the_allow_list_is_the_only_list() -> None:
    """The caller's algorithms decide, not the token's nor the key's; an empty list allows nothing."""
    assert verify_jws(TOKEN, KEYS, ["ES256"])
    for allowed in (["RS256"], [], SYMMETRIC_ALGORITHMS):
        with pytest.raises(TokenError, match="alg"):
            verify_jws(TOKEN, KEYS, allowed)


def test_a_token_without_kid_is_tried_with_every_fitting_key() -> None:
    """Up to four of them, as rotating issuers without names need it."""
    others = [SigningKey.generate("ES256", kid=f"o{index}") for index in range(4)]
    token = raw({"alg": "ES256"}, claims(), KEY)
    assert verify_jws(token, key_set(*others[:3], KEY), EVERY)
    assert code_of(token, key_set(*others[:3])) == "jwt_signature"
    assert code_of(token, key_set(*others, KEY)) == "jwt_signature"


# ------------------------------------------------------------------------------------------------ what must not


def test_the_original_verifies() -> None:
    """The accepted twin of every attack below."""
    assert verify_jws(TOKEN, KEYS, EVERY)


NONE_SPELLINGS = ["none", "None", "NONE", "nOnE", "none ", " none", "", "null", "\u006eone", "n0ne", "none\0"]


@pytest.mark.parametrize("algorithm", NONE_SPELLINGS)
@pytest.mark.parametrize("signature", ["", SIGNATURE, "AA"])
def test_no_algorithm_is_no_algorithm(algorithm: str, signature: str) -> None:
    """However it is spelt, with a signature or without."""
    token = f"{encode({'alg': algorithm, 'kid': 'k1'})}.{PAYLOAD}.{signature}"
    assert code_of(token) in ("jwt_algorithm", "jwt_malformed")


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({"kid": "k1"}, "jwt_malformed"),
        ({"alg": None}, "jwt_malformed"),
        ({"alg": True}, "jwt_malformed"),
        ({"alg": 256}, "jwt_malformed"),
        ({"alg": ["ES256"]}, "jwt_malformed"),
        ({"alg": {"ES256": 1}}, "jwt_malformed"),
        ({"alg": "es256"}, "jwt_algorithm"),
        ({"alg": "ES256 "}, "jwt_algorithm"),
        ({"alg": "ES256K"}, "jwt_algorithm"),
        ({"alg": "RSA1_5"}, "jwt_algorithm"),
        ({"alg": "PBES2-HS256+A128KW", "p2c": 10**9}, "jwt_algorithm"),
        ({"alg": "dir", "enc": "A256GCM", "zip": "DEF"}, "jwt_algorithm"),
        ({**GOOD, "kid": 7}, "jwt_malformed"),
        ({**GOOD, "kid": None}, "jwt_malformed"),
        ({**GOOD, "kid": ["k1"]}, "jwt_malformed"),
        ({**GOOD, "kid": {}}, "jwt_malformed"),
        ({**GOOD, "kid": "../../dev/null"}, "jwt_unknown_key"),
        ({**GOOD, "kid": "k1' OR '1'='1"}, "jwt_unknown_key"),
        ({**GOOD, "kid": "k1\0"}, "jwt_unknown_key"),
        ({**GOOD, "kid": "K1"}, "jwt_unknown_key"),
        ({**GOOD, "crit": ["exp"]}, "jwt_critical_header"),
        ({**GOOD, "crit": []}, "jwt_critical_header"),
        ({**GOOD, "crit": None}, "jwt_critical_header"),
        ({**GOOD, "crit": "b64"}, "jwt_critical_header"),
        ({**GOOD, "crit": ["b64"], "b64": True}, "jwt_critical_header"),
        ({**GOOD, "crit": ["x"], "x": 1}, "jwt_critical_header"),
        ({**GOOD, "b64": False}, "jwt_critical_header"),
        ({**GOOD, "b64": True}, "jwt_critical_header"),
        ({**GOOD, "alg": "RS256"}, "jwt_unknown_key"),
        ({**GOOD, "alg": "ES384"}, "jwt_unknown_key"),
        ({**GOOD, "alg": "HS256"}, "jwt_unknown_key"),
        ({**GOOD, "alg": "EdDSA"}, "jwt_unknown_key"),
    ],
    ids=json.dumps,
)
def test_a_header_that_says_something_else_is_refused(header: dict[str, Any], code: str) -> None:
    """Truly signed by the right key, and still refused."""
    assert code_of(raw(header, claims(), KEY)) == code


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (b'{"alg":"ES256","kid":"k1","alg":"ES256"}', "jwt_malformed"),
        (b'{"alg":"none","alg":"ES256","kid":"k1"}', "jwt_malformed"),
        (b'{"alg":"ES256","kid":"k1","\\u0061lg":"none"}', "jwt_malformed"),
        (b'{"alg":"ES256","kid":"k1","x":NaN}', "jwt_malformed"),
        (b'{"alg":"ES256","kid":"k1"}x', "jwt_malformed"),
        (b'["ES256"]', "jwt_malformed"),
        (b'"ES256"', "jwt_malformed"),
        (b"null", "jwt_malformed"),
        (b"\xff\xfe", "jwt_malformed"),
        (b'{"alg":"ES256","x":' + b"[" * 60 + b"]" * 60 + b"}", "jwt_malformed"),
        (b'{"alg":"ES256","x":' + b"[" * 5_000, "jwt_malformed"),
    ],
)
def test_a_header_has_one_reading(header: bytes, code: str) -> None:
    """Repeated names, junk, depth: truly signed, and still refused."""
    assert code_of(raw(header, claims(), KEY)) == code


JSON_FORM = ("protected", "payload", "signature")

FORMS: list[tuple[str, Callable[[], str | bytes], str]] = [
    ("empty", lambda: "", "jwt_malformed"),
    ("two dots", lambda: "..", "jwt_malformed"),
    ("one segment", lambda: HEADER, "jwt_malformed"),
    ("two segments", lambda: f"{HEADER}.{PAYLOAD}", "jwt_malformed"),
    ("no signature", lambda: f"{HEADER}.{PAYLOAD}.", "jwt_malformed"),
    ("no payload", lambda: f"{HEADER}..{SIGNATURE}", "jwt_malformed"),
    ("leading dot", lambda: f".{TOKEN}", "jwt_malformed"),
    ("trailing dot", lambda: f"{TOKEN}.", "jwt_malformed"),
    ("doubled dot", lambda: f"{HEADER}..{PAYLOAD}.{SIGNATURE}", "jwt_malformed"),
    ("four segments", lambda: f"{TOKEN}.{SIGNATURE}", "jwt_malformed"),
    ("five segments", lambda: f"{HEADER}.AA.AA.{PAYLOAD}.{SIGNATURE}", "jwt_malformed"),
    ("dots", lambda: "." * 30_000, "jwt_malformed"),
    ("100,000 dots", lambda: "." * 100_000, "jwt_too_large"),
    ("300 kB header", lambda: f"{encode(b'x' * 300_000)}.{PAYLOAD}.{SIGNATURE}", "jwt_too_large"),
    ("9 kB header", lambda: raw({**GOOD, "x": "y" * 9_000}, claims(), KEY), "jwt_too_large"),
    ("huge payload", lambda: mint(x="y" * 40_000), "jwt_too_large"),
    ("huge signature", lambda: f"{HEADER}.{PAYLOAD}.{'A' * 40_000}", "jwt_too_large"),
    ("not base64 header", lambda: f"{HEADER}!.{PAYLOAD}.{SIGNATURE}", "jwt_malformed"),
    ("not base64 payload", lambda: f"{HEADER}.{PAYLOAD[:-1]}+.{SIGNATURE}", "jwt_malformed"),
    ("not base64 signature", lambda: f"{HEADER}.{PAYLOAD}.{SIGNATURE[:-1]}/", "jwt_malformed"),
    ("padded signature", lambda: f"{TOKEN}==", "jwt_malformed"),
    ("padded header", lambda: f"{HEADER}=.{PAYLOAD}.{SIGNATURE}", "jwt_malformed"),
    ("space in front", lambda: f" {TOKEN}", "jwt_malformed"),
    ("newline behind", lambda: f"{TOKEN}\n", "jwt_malformed"),
    ("newline inside", lambda: f"{HEADER}.{PAYLOAD[:9]}\n{PAYLOAD[9:]}.{SIGNATURE}", "jwt_malformed"),
    ("not ASCII", lambda: f"{TOKEN}é", "jwt_malformed"),
    ("surrogate", lambda: f"{TOKEN}\ud800", "jwt_malformed"),
    ("fullwidth", lambda: f"{TOKEN[:-1]}\uff21", "jwt_malformed"),
    ("bytes", lambda: TOKEN.encode() + b"\xff", "jwt_malformed"),
    ("NUL", lambda: f"{TOKEN}\0", "jwt_malformed"),
    ("JSON form", lambda: json.dumps(dict(zip(JSON_FORM, TOKEN.split("."), strict=True))), "jwt_malformed"),
    ("polyglot", lambda: f'{{"{HEADER}.{PAYLOAD}.{SIGNATURE}":1}}', "jwt_malformed"),
    ("tampered payload", lambda: f"{HEADER}.{encode(claims(sub='root'))}.{SIGNATURE}", "jwt_signature"),
    ("swapped header", lambda: f"{encode({'kid': 'k1', 'alg': 'ES256'})}.{PAYLOAD}.{SIGNATURE}", "jwt_signature"),
    ("other signature", lambda: f"{HEADER}.{PAYLOAD}.{mint(sub='root').split('.')[2]}", "jwt_signature"),
    ("other key", lambda: mint(ATTACKER), "jwt_signature"),
    ("zero signature", lambda: f"{HEADER}.{PAYLOAD}.{encode(bytes(64))}", "jwt_signature"),
    ("short signature", lambda: f"{HEADER}.{PAYLOAD}.{encode(bytes(63))}", "jwt_signature"),
    ("one byte", lambda: f"{HEADER}.{PAYLOAD}.AA", "jwt_signature"),
    ("order of the curve", lambda: f"{HEADER}.{PAYLOAD}.{encode(bytes([255]) * 64)}", "jwt_signature"),
    ("DER signature", lambda: f"{HEADER}.{PAYLOAD}.{encode(bytes.fromhex('3006020101020101'))}", "jwt_signature"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "code"), [form[1:] for form in FORMS], ids=[form[0] for form in FORMS])
def test_a_form_that_is_not_the_compact_one_is_refused(make: Callable[[], str | bytes], code: str) -> None:
    """Each is the good token but for one change."""
    assert code_of(make()) == code


def sized(header: int, payload: int) -> str:
    """A good token whose segments have so many characters; base64url has no length of 4n + 1."""
    head = json.dumps(GOOD).encode().ljust(header * 3 // 4)
    body = b"{}".ljust(payload * 3 // 4)
    token = raw(head, body, KEY)
    assert [len(segment) for segment in token.split(".")[:2]] == [header, payload]
    return token


HEADER_LIMIT, TOKEN_LIMIT = 8 * 1024, 32 * 1024
REST = len(f"..{SIGNATURE}")


@pytest.mark.parametrize(
    ("fits", "does_not"),
    [
        ((HEADER_LIMIT, 16), (HEADER_LIMIT + 2, 16)),
        ((100, TOKEN_LIMIT - REST - 100), (102, TOKEN_LIMIT - REST - 100)),
        ((102, TOKEN_LIMIT - REST - 102), (103, TOKEN_LIMIT - REST - 102)),
    ],
)
def test_sizes_are_bounded_to_the_character(fits: tuple[int, int], does_not: tuple[int, int]) -> None:
    """The longest that is read, and one that is longer."""
    assert verify_jws(sized(*fits), KEYS, EVERY)
    assert code_of(sized(*does_not)) == "jwt_too_large"


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (f"{HEADER}!.{PAYLOAD}.{SIGNATURE}", "Jwt header is an invalid Base64url encoded"),
        (f"{HEADER}.{PAYLOAD}!.{SIGNATURE}", "Jwt payload is an invalid Base64url encoded"),
        (f"{HEADER}.{PAYLOAD}.{SIGNATURE}!", "Jwt signature is an invalid Base64url encoded"),
        (f"{encode(b'[]')}.{PAYLOAD}.{SIGNATURE}", "Jwt header is an invalid JSON"),
        (f"{encode({'alg': 'none'})}.{PAYLOAD}.{SIGNATURE}", "Jwt header [alg] is not supported"),
        (f"{encode({'alg': 7})}.{PAYLOAD}.{SIGNATURE}", "Jwt header [alg] field is required and must be a string"),
        (
            f"{encode({'alg': 'ES256', 'kid': 7})}.{PAYLOAD}.{SIGNATURE}",
            "Jwt header [kid] field is not a string",
        ),
    ],
)
def test_the_messages_are_istios(token: str, message: str) -> None:
    """Word for word, for clients that know them."""
    with pytest.raises(TokenError) as caught:
        parse_jws(token)
    assert str(caught.value) == message


def test_what_is_overlooked_once_is_not_overlooked_for_ever() -> None:
    """A header that verified leniently, extension and all, is unknown to those who read strictly; and well-read."""
    for header in ({**GOOD, "crit": ["x"]}, {**GOOD, "b64": True}):
        token = raw(header, claims(), KEY)
        for _ in range(2):
            parse_jws(token, lenient=True).verify(KEYS, EVERY)
            assert code_of(token) == "jwt_critical_header"
    padded = f"{HEADER}.{PAYLOAD}.{SIGNATURE}=="
    for _ in range(2):
        parse_jws(padded, lenient=True).verify(KEYS, EVERY)
        assert code_of(padded) == "jwt_malformed"


def test_headers_are_remembered_within_bounds_and_only_of_good_tokens() -> None:
    """A thousand good headers leave room for 256, a forged one none; what is read again says the same."""
    _jws._headers.clear()
    for number in range(1000):
        token = raw({**GOOD, "n": number}, claims(), KEY)
        first, again = verify_jws(token, KEYS, EVERY), verify_jws(token, KEYS, EVERY)
        assert first == again == (parse_jws(token, lenient=True).unverified_header, first[1])
        assert 1 <= len(_jws._headers) <= 256
    before = dict(_jws._headers)
    assert code_of(raw({**GOOD, "n": "forged"}, claims(), ATTACKER)) == "jwt_signature"
    assert _jws._headers == before


@pytest.mark.parametrize(
    "header",
    [
        {"jwk": ATTACKER.public_jwk()},
        {"jku": "http://127.0.0.1:9/jwks"},
        {"x5u": "http://127.0.0.1:9/cert"},
        {"x5c": ["AAAA"]},
        {"kid": "other", "jwk": ATTACKER.public_jwk()},
    ],
    ids=lambda header: next(iter(header)),
)
def test_the_key_never_comes_from_the_token(header: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A key or an address in the header is not looked at, and opens no socket; it does not harm a good token."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert code_of(raw({**GOOD, **header}, claims(), ATTACKER)) in ("jwt_signature", "jwt_unknown_key")
    assert verify_jws(raw({**header, **GOOD}, claims(), KEY), KEYS, EVERY)


def public_forms(algorithm: str) -> list[bytes]:
    """A public key in every form in which it might be taken for a secret."""
    key = signing_key(algorithm)
    public = load_pem_private_key(pem(algorithm), None).public_key()
    text = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    jwk = key.public_jwk()
    return [
        text,
        text.strip(),
        text.replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + text,
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(jwk).encode(),
        jwks(key).encode(),
        str(jwk.get("n", jwk.get("x"))).encode(),
        b"",
    ]


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
@pytest.mark.parametrize("hashed", sorted(SYMMETRIC_ALGORITHMS))
def test_a_public_key_is_no_secret(algorithm: str, hashed: str) -> None:
    """HS tokens made with the public key, with and without ``alg`` in the set, all algorithms allowed."""
    jwk = signing_key(algorithm).public_jwk()
    bare = {name: value for name, value in jwk.items() if name != "alg"}
    for secret in public_forms(algorithm):
        signed = f"{encode({'alg': hashed, 'kid': 'k1'})}.{PAYLOAD}"
        digest = hmac.new(secret, signed.encode(), getattr(hashlib, f"sha{hashed[2:]}")).digest()
        for members in ([jwk], [bare]):
            keys = KeySet.parse({"keys": members}, allow_symmetric=True)
            assert code_of(f"{signed}.{encode(digest)}", keys) == "jwt_unknown_key"


@pytest.mark.parametrize("claimed", ["RS256", "RS512", "PS256", "PS512"])
@pytest.mark.parametrize("real", ["RS256", "RS512", "PS256", "PS512"])
def test_the_algorithm_of_header_signature_and_key_is_one(claimed: str, real: str) -> None:
    """One RSA key can do all of these: only the one that the header names, and that the key allows, verifies."""
    token = raw({"alg": claimed, "kid": "k1"}, claims(), signing_key(real))
    jwk = signing_key("RS256").public_jwk()
    anything = KeySet.parse({"keys": [{name: value for name, value in jwk.items() if name != "alg"}]})
    only_rs256 = KeySet.parse({"keys": [jwk]})
    if claimed == real:
        assert verify_jws(token, anything, EVERY)
    else:
        assert code_of(token, anything) == "jwt_signature"
    if claimed == real == "RS256":
        assert verify_jws(token, only_rs256, EVERY)
    else:
        assert code_of(token, only_rs256) in ("jwt_signature", "jwt_unknown_key")


@pytest.mark.parametrize("part", [0, 1, 2])
@sweep("character")
def test_every_character_of_every_segment_counts(part: int, character: int) -> None:
    """A sweep: one character replaced by any byte gives the same token, or none."""
    segments = [HEADER.encode(), PAYLOAD.encode(), SIGNATURE.encode()]
    changed = segments[part][:10] + bytes([character]) + segments[part][11:]
    token = b".".join([*segments[:part], changed, *segments[part + 1 :]])
    if token == TOKEN.encode():
        assert verify_jws(token, KEYS, EVERY)
    else:
        code_of(token)


@given(st.text() | st.binary() | st.text(alphabet="AQ.eyJ-_", max_size=60))
def test_any_text_is_refused_with_a_token_error(token: str | bytes) -> None:
    """Nothing but the accepted and TokenError comes out of a parse."""
    code_of(token)


HEADERS = st.dictionaries(
    st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "x"]),
    st.sampled_from(["ES256", "k1", "RS256", "HS256", "none", ""]) | st.integers() | st.none() | st.lists(st.text()),
)


@given(HEADERS, st.binary(max_size=30))
def test_any_signed_header_is_accepted_or_a_token_error(header: dict[str, Any], payload: bytes) -> None:
    """Truly signed by the right key: what passes has a form that is allowed."""
    token = raw(header, payload, KEY)
    try:
        found, _ = verify_jws(token, KEYS, EVERY)
    except TokenError:
        return
    assert found["alg"] == "ES256"
    assert not {"crit", "b64"} & found.keys()


def test_the_parse_shows_nothing() -> None:
    """A token that is logged by accident is not in the log."""
    assert repr(parse_jws(TOKEN)) == "UnverifiedJws()"
