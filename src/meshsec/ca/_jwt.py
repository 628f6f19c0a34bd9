"""JWT-SVIDs: the key that signs them, and the claims they hold (JWT-SVID sections 2 to 4).

This file must not know X.509, files, nor who asks for a token.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ..errors import IssuanceError
from ..jose import SigningKey, sign_jws
from ..spiffe import SpiffeId
from ._keys import AuthorityKey, key_pem, read_key
from ._profile import Validity

__all__ = ["DEFAULT_JWT_TTL", "MAX_JWT_TTL", "JwtKey", "sign_jwt_svid"]

DEFAULT_JWT_TTL: Final = 300.0
MAX_JWT_TTL: Final = 86_400.0  # a bearer token cannot be called back

_CURVE_ALGORITHMS: Final = {"secp256r1": "ES256", "secp384r1": "ES384"}


@dataclass(frozen=True, slots=True, eq=False)
class JwtKey:
    """A key that signs JWT-SVIDs.

    Attributes:
        kid: its name in tokens and bundles: the beginning of the hash of its public half.
        pem: the private key, **unencrypted**.
    """

    kid: str
    pem: bytes = field(repr=False)
    _key: SigningKey = field(repr=False)

    @classmethod
    def generate(cls) -> JwtKey:
        """A fresh P-256 key."""
        return cls._of(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, data: bytes) -> JwtKey:
        """Read an unencrypted private key. Raises ValueError for no key or one of an unsuitable kind."""
        return cls._of(read_key(data))

    @classmethod
    def _of(cls, key: AuthorityKey) -> JwtKey:
        algorithm = _CURVE_ALGORITHMS[key.curve.name] if isinstance(key, ec.EllipticCurvePrivateKey) else "RS256"
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        kid, pem = sha256(public).hexdigest()[:32], key_pem(key)
        return cls(kid, pem, SigningKey.from_pem(pem, algorithm, kid=kid))

    def public_jwk(self) -> dict[str, Any]:
        """The public half, as a member of a key set."""
        return self._key.public_jwk()

    def sign(self, payload: bytes) -> str:
        """The token; its header holds alg, kid and typ, and nothing else (JWT-SVID 2)."""
        return sign_jws({"typ": "JWT"}, payload, self._key)


def sign_jwt_svid(key: JwtKey, subject: SpiffeId, audience: Sequence[str], validity: Validity, token_id: str) -> str:
    """A JWT-SVID. Raises IssuanceError (``audience_invalid``) where nobody, or nobody named, may accept it."""
    if isinstance(audience, str) or not audience or not all(audience):
        raise IssuanceError("a JWT-SVID is for a list of at least one named audience", code="audience_invalid")
    claims = {
        "sub": str(subject),
        "aud": list(audience),
        "iat": int(validity.not_before),
        "exp": int(validity.not_after),
        "jti": token_id,
    }
    return key.sign(json.dumps(claims).encode())
