"""Tokens of every shape: a good one and changes to it, each at one stage of its making.

What is odd here is odd on purpose, and truly signed unless the change is to the signature. A token with one change is
a minimal case by itself; of one with several, the changes that do not matter can be left out one by one.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from meshsec.jose import SigningKey
from tokens import ALGORITHMS, signing_key

__all__ = ["ISSUER", "SIGNERS", "Change", "OddRsa", "Secret", "Sent", "jwk", "make", "segment"]

ISSUER: Final = "https://issuer.example"
_CURVE_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_STAGES: Final = ("key", "header", "claims", "header_json", "payload_json", "signature", "text")


@dataclass(frozen=True)
class Sent:
    """What of a request carries tokens."""

    target: str
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Change:
    """One change.

    Attributes:
        name: what it is, for people.
        stage: where it is made: one of the stages of a token, or ``sent``, which puts the token into a request.
        apply: what does it; from what was there to what is there then.
    """

    name: str
    stage: str
    apply: Callable[[Any], Any]


@dataclass(frozen=True)
class Secret:
    """A shared secret that signs, as :class:`SigningKey` does."""

    algorithm: str
    kid: str
    secret: bytes

    def sign(self, message: bytes) -> bytes:
        """The HMAC."""
        return hmac.digest(self.secret, message, getattr(hashlib, f"sha{self.algorithm[2:]}"))

    def public_jwk(self) -> dict[str, Any]:
        """The secret itself, as a key set that is written into a rule may hold it."""
        return {"kty": "oct", "kid": self.kid, "alg": self.algorithm, "k": segment(self.secret)}


@dataclass(frozen=True)
class OddRsa:
    """An RSA key of any size and exponent that signs, as :class:`SigningKey` does."""

    kid: str
    bits: int
    exponent: int = 65537
    algorithm: str = "RS256"

    @cached_property
    def _key(self) -> rsa.RSAPrivateKey:
        return rsa.generate_private_key(self.exponent, self.bits)

    def sign(self, message: bytes) -> bytes:
        """By PKCS #1 v1.5, as RS256 has it."""
        return self._key.sign(message, padding.PKCS1v15(), hashes.SHA256())

    def public_jwk(self) -> dict[str, Any]:
        """The public half."""
        numbers = self._key.public_key().public_numbers()
        n, e = (segment(value.to_bytes((value.bit_length() + 7) // 8, "big")) for value in (numbers.n, numbers.e))
        return {"kty": "RSA", "kid": self.kid, "alg": self.algorithm, "n": n, "e": e}


def _signers() -> Iterator[tuple[str, SigningKey | Secret | OddRsa]]:
    for algorithm in ALGORITHMS:
        yield algorithm, replace(signing_key(algorithm), kid=algorithm)
        yield f"foreign {algorithm}", replace(signing_key(algorithm, "k2"), kid=algorithm)
    for algorithm in ("HS256", "HS384", "HS512"):
        yield algorithm, Secret(algorithm, algorithm, algorithm.encode() * 16)
        yield f"foreign {algorithm}", Secret(algorithm, algorithm, b"another secret" * 8)


SIGNERS: Final[dict[str, SigningKey | Secret | OddRsa]] = dict(_signers())
"""Every algorithm with a key of its own name, and the same once more with a key that nobody knows."""


def jwk(signer: str, **changes: Any) -> dict[str, Any]:
    """A key as a member of a set; None removes a member of it."""
    return {name: value for name, value in {**SIGNERS[signer].public_jwk(), **changes}.items() if value is not None}


def make(signer: str, changes: Sequence[Change]) -> str:
    """A token that is good but for the changes. Text is bytes as latin-1."""
    key = SIGNERS[_through("key", changes, signer)]
    claims = {
        "iss": ISSUER, "sub": "alice", "aud": "web", "exp": int(time.time()) + 3600, "level": 7,
        "realm_access": {"roles": ["admin", "dev"]}, "groups": ["staff"], "scope": "read write",
    }  # fmt: skip
    header = _through("header", changes, {"alg": key.algorithm, "kid": key.kid})
    segments = [
        segment(_through("header_json", changes, json.dumps(header).encode())),
        segment(_through("payload_json", changes, json.dumps(_through("claims", changes, claims)).encode())),
    ]
    signature = key.sign(".".join(segments).encode())
    text: str = _through("text", changes, ".".join((*segments, segment(_through("signature", changes, signature)))))
    return text


def segment(data: bytes) -> str:
    """base64url without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _through(stage: str, changes: Sequence[Change], value: Any) -> Any:
    for change in changes:
        if change.stage == stage:
            value = change.apply(value)
    return value
