"""Keys of every kind and tokens of every shape, well-formed or not, for tests."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from meshsec.attributes import HttpRequest, RequestFacts, read_request
from meshsec.jose import KeySet, SigningKey
from meshsec.resources import PathNormalization

__all__ = [
    "ALGORITHMS",
    "ISSUER",
    "NOW",
    "claims",
    "encode",
    "jwks",
    "key_set",
    "mint",
    "pem",
    "raw",
    "request_facts",
    "signing_key",
]

NOW = 1_800_000_000
ISSUER = "https://issuer.example"
ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
)  # fmt: skip

_CURVES: dict[str, ec.EllipticCurve] = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}


@cache
def _pem(kind: str, name: str) -> bytes:
    key: Any
    if kind in _CURVES:
        key = ec.generate_private_key(_CURVES[kind])
    elif kind == "Ed":
        key = ed25519.Ed25519PrivateKey.generate()
    else:
        key = rsa.generate_private_key(65537, 2048)
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def pem(algorithm: str, name: str = "k1") -> bytes:
    """A private key for an algorithm; the same one for the same name, and for every algorithm of RSA."""
    return _pem(algorithm if algorithm in _CURVES else algorithm[:2].replace("PS", "RS"), name)


@cache
def signing_key(algorithm: str = "ES256", name: str = "k1") -> SigningKey:
    """The same as a signing key; its ``kid`` is its name."""
    return SigningKey.from_pem(pem(algorithm, name), algorithm, kid=name)


def jwks(*keys: SigningKey) -> str:
    """The public key set."""
    return json.dumps({"keys": [key.public_jwk() for key in keys]})


def key_set(*keys: SigningKey) -> KeySet:
    """The public key set, parsed."""
    return KeySet.parse(jwks(*keys))


def encode(data: bytes | str | Mapping[str, Any]) -> str:
    """A segment."""
    if isinstance(data, Mapping):
        data = json.dumps(data)
    return urlsafe_b64encode(data.encode() if isinstance(data, str) else data).rstrip(b"=").decode()


def raw(header: bytes | str | Mapping[str, Any], payload: bytes | str | Mapping[str, Any], key: SigningKey) -> str:
    """A token with exactly this header and payload, truly signed."""
    signed = f"{encode(header)}.{encode(payload)}"
    return f"{signed}.{encode(key.sign(signed.encode()))}"


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims for NOW; None removes one."""
    found = {"iss": ISSUER, "sub": "alice", "aud": "web", "iat": NOW, "exp": NOW + 300, **changes}
    return {name: value for name, value in found.items() if value is not None}


def mint(key: SigningKey | None = None, **changes: Any) -> str:
    """A good token but for these changes."""
    key = key or signing_key()
    return raw({"alg": key.algorithm, "kid": key.kid}, claims(**changes), key)


def request_facts(
    target: str = "/", *headers: tuple[str, str], method: str = "GET", joined: bool = False, ambiguous: Any = "refuse"
) -> RequestFacts:
    """A request as the core sees it."""
    request = HttpRequest(method, target, "web.prod", headers, joined_headers=joined)
    facts = read_request(request, PathNormalization.BASE, ambiguous)
    assert isinstance(facts, RequestFacts), facts
    return facts


def rule_with_outputs(issuer: str, key: SigningKey) -> str:
    """A JWTRule as YAML, its key written into it: tokens from a header or a cookie, headers made of its claims."""
    return f"""
  - issuer: {issuer}
    jwks: '{jwks(key)}'
    fromHeaders: [{{name: x-token}}]
    fromCookies: [session]
    outputClaimToHeaders: [{{header: x-user, claim: sub}}]
    outputPayloadToHeader: x-claims
"""
