"""An end-user token issuer in memory: a fresh key, and tokens that its JSON Web Key Set verifies."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from ..jose import KeySet, SigningKey, sign_jws

__all__ = ["TestIssuer"]


class TestIssuer:
    """Signs tokens with a key that never leaves this process.

    Args:
        issuer: the ``iss`` of its tokens.
        algorithm: ``ES256``, ``RS256`` or ``EdDSA``.
        key_id: the key's name, for a test of what happens when an issuer changes its key.
    """

    __test__ = False  # pytest collects classes whose name begins like this

    def __init__(
        self, issuer: str = "https://issuer.example", *, algorithm: str = "ES256", key_id: str = "test-1"
    ) -> None:
        self.issuer = issuer
        self._key = SigningKey.generate(algorithm, kid=key_id)

    @property
    def jwks(self) -> str:
        """The public JSON Web Key Set as text, for ``jwks:`` in a JWTRule; a SPIFFE bundle, too."""
        key = self._key.public_jwk()
        return json.dumps({"keys": [key, {**key, "use": "jwt-svid"}]})

    @property
    def keys(self) -> KeySet:
        """The same set, parsed."""
        return KeySet.parse(self.jwks)

    def token(self, *, now: float | None = None, lifetime: float = 300, **claims: Any) -> str:
        """A signed token.

        Args:
            now: POSIX seconds; by default the clock's.
            lifetime: seconds until ``exp``; negative for an expired token.
            claims: added to ``iss``, ``sub``, ``iat`` and ``exp``; None removes a claim.
        """
        issued = int(time.time() if now is None else now)
        payload: Mapping[str, Any] = {
            "iss": self.issuer,
            "sub": "test-user",
            "iat": issued,
            "exp": issued + int(lifetime),
            **claims,
        }
        kept = {name: value for name, value in payload.items() if value is not None}
        return sign_jws({"typ": "JWT"}, json.dumps(kept).encode(), self._key)
