"""JSON Web Keys: which are usable, for what, and which of a set may have signed a token."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from meshsec.errors import KeysUnavailableError, MeshsecError
from meshsec.jose import SYMMETRIC_ALGORITHMS, KeySet, SigningKey
from tokens import ALGORITHMS, encode, jwks, key_set, pem, signing_key

RSA = {name: value for name, value in signing_key("RS256").public_jwk().items() if name not in ("alg", "use")}
EC = {name: value for name, value in signing_key("ES256").public_jwk().items() if name not in ("alg", "use")}
OKP = {name: value for name, value in signing_key("EdDSA").public_jwk().items() if name not in ("alg", "use")}
SECRET = {"kty": "oct", "alg": "HS256", "k": encode(bytes(range(32)))}
GOOD = {**signing_key("ES384", "good").public_jwk()}


def number(value: int) -> str:
    """An integer as a JWK has it."""
    return encode(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def parse(*members: object, **options: bool) -> KeySet:
    """A set of these members."""
    return KeySet.parse(json.dumps({"keys": members}), **options)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_knows_its_algorithm(algorithm: str) -> None:
    """A key that names an algorithm is for that one alone."""
    assert key_set(signing_key(algorithm)).keys[0].algorithms == {algorithm}


@pytest.mark.parametrize(
    ("jwk", "algorithms"),
    [
        (RSA, {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
        (EC, {"ES256"}),
        (OKP, {"EdDSA", "Ed25519"}),
        ({**RSA, "use": "sig", "key_ops": ["verify"]}, {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
    ],
)
def test_a_key_without_alg_may_do_what_its_type_can(jwk: dict[str, Any], algorithms: set[str]) -> None:
    """Type and curve bound the algorithms; never a shared-secret one."""
    assert parse(jwk).keys[0].algorithms == algorithms


BAD = [
    (RSA, {"n": number((1 << 1023) + 1)}),
    (RSA, {"n": number((1 << 2046) + 1)}),
    (RSA, {"n": number((1 << 8192) + 1)}),
    (RSA, {"e": number(1)}),
    (RSA, {"e": number(65539)}),
    (RSA, {"n": RSA["n"] + "="}),
    (RSA, {"n": 7}),
    (RSA, {"e": None}),
    (RSA, {"kty": "EC"}),
    (RSA, {"kty": "RSA1"}),
    (RSA, {"kty": None}),
    (RSA, {"kid": 7}),
    (RSA, {"kid": None}),
    (RSA, {"alg": "ES256"}),
    (RSA, {"alg": "HS256"}),
    (RSA, {"alg": "none"}),
    (RSA, {"alg": "RSA-OAEP"}),
    (RSA, {"alg": ["RS256"]}),
    (RSA, {"use": "enc"}),
    (RSA, {"use": ["sig"]}),
    (RSA, {"key_ops": ["sign"]}),
    (RSA, {"key_ops": "verify"}),
    (RSA, {"key_ops": []}),
    (EC, {"crv": "P-384"}),
    (EC, {"crv": "secp256k1"}),
    (EC, {"crv": "P-256K"}),
    (EC, {"x": EC["y"], "y": EC["x"]}),
    (EC, {"x": ""}),
    (EC, {"y": "é"}),
    (EC, {"alg": "ES384"}),
    (OKP, {"crv": "X25519"}),
    (OKP, {"crv": "Ed448"}),
    (OKP, {"x": OKP["x"][:-2]}),
    (OKP, {"alg": "ES256"}),
]


@pytest.mark.parametrize(("good", "change"), BAD)
def test_a_bad_key_is_left_out_and_takes_no_other_with_it(good: dict[str, Any], change: dict[str, Any]) -> None:
    """Malformed, weak or meant for something else: the key goes, its neighbour stays; alone it is no set."""
    assert len(parse(GOOD, good)) == 2
    bad = {**good, **change}
    assert [key.kid for key in parse(bad, GOOD, bad).keys] == ["good"]
    with pytest.raises(KeysUnavailableError, match="valid public key"):
        parse(bad)


@pytest.mark.parametrize("member", [None, 7, "key", [], {}, {"kty": "RSA"}, {"kty": "EC", "crv": "P-256"}])
def test_a_member_that_is_no_key_is_left_out(member: object) -> None:
    """Whatever else stands in the list."""
    assert len(parse(member, GOOD)) == 1


@pytest.mark.parametrize("name", ["n", "e"])
def test_a_key_lacks_nothing(name: str) -> None:
    """A missing member makes a key unusable."""
    assert len(parse(GOOD, {key: value for key, value in RSA.items() if key != name})) == 1


def test_a_shared_secret_counts_only_where_it_is_allowed_and_says_so_itself() -> None:
    """HS keys: never by default, never without an HS algorithm of their own."""
    assert parse(SECRET, allow_symmetric=True).keys[0].algorithms == {"HS256"}
    for bad in (SECRET | {"alg": "RS256"}, {"kty": "oct", "k": SECRET["k"]}, SECRET | {"alg": "HS384"}):
        with pytest.raises(KeysUnavailableError):
            parse(bad, allow_symmetric=True)
    with pytest.raises(KeysUnavailableError):
        parse(SECRET)


@pytest.mark.parametrize(("algorithm", "size"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_a_shared_secret_is_as_long_as_its_hash(algorithm: str, size: int) -> None:
    """RFC 7518 section 3.2, to the byte; the empty one is none."""
    assert parse({"kty": "oct", "alg": algorithm, "k": encode(b"x" * size)}, allow_symmetric=True)
    for short in (size - 1, 1, 0):
        with pytest.raises(KeysUnavailableError):
            parse({"kty": "oct", "alg": algorithm, "k": encode(b"x" * short)}, allow_symmetric=True)


def public_texts() -> list[bytes]:
    """Public keys as bytes that somebody could take for a secret."""
    found = []
    for algorithm in ("RS256", "ES256"):
        key = load_pem_private_key(pem(algorithm), None).public_key()
        text = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        found += [text, text.strip(), text.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + text]
        found.append(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
        found.append(key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    return found


@pytest.mark.parametrize("secret", public_texts())
def test_a_public_key_is_no_shared_secret(secret: bytes) -> None:
    """In whatever form it is put into an oct key."""
    for algorithm in SYMMETRIC_ALGORITHMS:
        with pytest.raises(KeysUnavailableError):
            parse({"kty": "oct", "alg": algorithm, "k": encode(secret)}, allow_symmetric=True)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_the_public_half_is_public(algorithm: str) -> None:
    """What signs is published without what it signs with."""
    members = {"kty", "kid", "use", "alg", "n", "e", "crv", "x", "y"}
    assert signing_key(algorithm).public_jwk().keys() <= members


def test_private_members_are_not_read() -> None:
    """A set that was published with its private halves still only verifies."""
    key = SigningKey.generate("ES256", kid="leaked")
    private = {**key.public_jwk(), "d": encode(b"\1" * 32)}
    assert parse(private) == parse(key.public_jwk())
    assert private["d"] not in parse(private).keys[0].material


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html>busy</html>",
        "[]",
        "null",
        "{}",
        '{"keys": []}',
        '{"keys": {}}',
        '{"keys": null}',
        '{"keys": "x"}',
        '{"key": [1]}',
        jwks(signing_key())[:-2],
        jwks(signing_key()) + "x",
        '{"keys": [], ' + jwks(signing_key())[1:],
        json.dumps({"k1": "-----BEGIN CERTIFICATE-----"}),
        json.dumps({"keys": [GOOD] * 257}),
        jwks(signing_key()) + " " * (1 << 20),
        '{"keys":' + "[" * 100_000,
    ],
    ids=lambda body: body[:30],
)
def test_what_is_no_key_set_is_refused(body: str) -> None:
    """HTML, other JSON, truncated, twice the same name, too many, too large, too deep."""
    for form in (body, body.encode()):
        with pytest.raises(KeysUnavailableError) as caught:
            KeySet.parse(form)
        assert len(str(caught.value)) < 200


def test_the_limits_are_generous() -> None:
    """256 keys and half a megabyte are a set."""
    assert len(parse(*[GOOD] * 256)) == 256
    assert KeySet.parse(jwks(signing_key()) + " " * (1 << 19))


def test_sets_are_equal_by_their_keys() -> None:
    """What does not matter for verifying does not matter for equality."""
    assert parse(RSA, EC) == parse({**RSA, "x5t": "abc", "use": "sig"}, EC)
    assert parse(RSA, EC) != parse(RSA)
    assert parse(RSA) != parse({**RSA, "alg": "RS256"})
    assert parse(RSA) != parse({**RSA, "kid": "other"})


def test_no_key_material_shows() -> None:
    """Neither secrets nor private keys appear in a repr."""
    assert SECRET["k"] not in repr(parse(SECRET, allow_symmetric=True))
    assert repr(signing_key("ES256")) == "SigningKey(algorithm='ES256', kid='k1')"


def named(*names: str | None) -> KeySet:
    """RSA keys of these names; the material does not matter here."""
    rest = {name: value for name, value in RSA.items() if name != "kid"}
    return parse(*[rest if name is None else {**rest, "kid": name} for name in names])


@pytest.mark.parametrize(
    ("keys", "header", "expected"),
    [
        (named("a", "b"), {"alg": "RS256", "kid": "b"}, ["b"]),
        (named("a", "b"), {"alg": "RS256", "kid": "c"}, []),
        (named("a", "b"), {"alg": "RS256"}, ["a", "b"]),
        (named("a", "b"), {"alg": "RS256", "kid": ""}, ["a", "b"]),
        (named(None, "b"), {"alg": "RS256", "kid": "b"}, ["b", None]),
        (named(None, ""), {"alg": "RS256", "kid": "b"}, [None, None]),
        (named("a", "a"), {"alg": "RS256", "kid": "a"}, ["a", "a"]),
        (named(*"abcdef"), {"alg": "RS256"}, ["a", "b", "c", "d"]),
        (named(None, None, None, None, "b"), {"alg": "RS256", "kid": "b"}, ["b", None, None, None]),
        (named("a"), {"alg": "ES256", "kid": "a"}, []),
        (named("a"), {"alg": "HS256", "kid": "a"}, []),
        (parse({**EC, "kid": "a"}, {**RSA, "kid": "a"}), {"alg": "ES256", "kid": "a"}, ["a"]),
        (parse(RSA, {**RSA, "alg": "RS256", "kid": "sure"}), {"alg": "RS256"}, ["sure", "k1"]),
    ],
)
def test_candidates(keys: KeySet, header: dict[str, str], expected: list[str | None]) -> None:
    """By algorithm always, by name where the token has one, nameless keys after it, at most four, surest first."""
    assert [key.kid for key in keys.candidates(header)] == expected


@pytest.mark.parametrize("algorithm", ["none", "HS256", "RS1", "", "es256", "ES256K"])
def test_signing_needs_an_asymmetric_algorithm(algorithm: str) -> None:
    """Nothing else is made, by whatever spelling."""
    with pytest.raises(ValueError, match="not an algorithm"):
        SigningKey.generate(algorithm)
    with pytest.raises(ValueError, match="not an algorithm"):
        SigningKey.from_pem(pem("ES256"), algorithm)


def test_signing_needs_a_key_that_fits() -> None:
    """A key of another type or curve, a public one, or none."""
    public = load_pem_private_key(pem("ES256"), None).public_key()
    text = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert SigningKey.from_pem(pem("ES256"), "ES256")
    for data in (text, pem("ES384"), pem("RS256"), pem("EdDSA"), b"", b"junk"):
        with pytest.raises(ValueError, match="not a private key for ES256"):
            SigningKey.from_pem(data, "ES256")


def test_the_generated_rsa_key_is_of_the_size_it_must_have() -> None:
    """Its public half is usable."""
    key = SigningKey.generate("PS256", kid="x")
    assert len(key_set(key)) == 1
    assert isinstance(load_pem_private_key(pem("PS256"), None), rsa.RSAPrivateKey)


MEMBERS = st.dictionaries(
    st.sampled_from(["kty", "kid", "alg", "use", "key_ops", "n", "e", "crv", "x", "y", "k"]),
    st.sampled_from(["RSA", "EC", "OKP", "oct", "P-256", "Ed25519", "HS256", "ES256", "sig", "AQAB", RSA["n"]])
    | st.text(max_size=6)
    | st.integers()
    | st.none()
    | st.lists(st.text(max_size=3), max_size=2),
)


@given(st.lists(MEMBERS, max_size=3), st.booleans())
def test_any_members_are_a_set_or_an_error(members: list[dict[str, Any]], allow_symmetric: bool) -> None:
    """Nothing else comes out of a parse."""
    with contextlib.suppress(MeshsecError):
        assert len(KeySet.parse({"keys": members}, allow_symmetric=allow_symmetric)) > 0
