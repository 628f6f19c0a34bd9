"""The tokens that the callers hold: good ones from the issuer, and forgeries of every common kind."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any, Final

from joserfc import jwt
from joserfc.jwk import RSAKey

from .world import World

__all__ = ["TOKENS", "mint"]


def _encoded(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def _decoded(part: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return value


def _claims(world: World, **changes: Any) -> dict[str, Any]:
    now = int(time.time())
    return {"iss": world.issuer, "sub": "alice", "aud": "bookinfo", "iat": now, "exp": now + 3600, **changes}


def _tampered(world: World) -> str:
    """alice's own token with one more group written into it, the signature left as it was."""
    header, payload, signature = world.token("alice").split(".")
    claims = _decoded(payload)
    claims["groups"] = [*claims["groups"], "admin"]
    return ".".join((header, _encoded(claims), signature))


def _unsigned(world: World, signature: str = "") -> str:
    return ".".join((_encoded({"alg": "none", "typ": "JWT"}), _encoded(_claims(world, groups=["admin"])), signature))


def _forged(world: World, **changes: Any) -> str:
    """Signed with a key that the issuer never had."""
    key = RSAKey.generate_key(2048, {"kid": "forged-1"})
    return jwt.encode({"alg": "RS256", "kid": "forged-1"}, _claims(world, **changes), key, algorithms=["RS256"])


# What stands in the table's column, and how such a token is come by.
TOKENS: Final[dict[str, Callable[[World], str]]] = {
    "alice": lambda world: world.token("alice"),
    "alice (ES256)": lambda world: world.token("alice-es256"),
    "ada, an admin": lambda world: world.token("ada"),
    "expired": lambda world: world.token("alice-expired"),
    "other audience": lambda world: world.token("alice-elsewhere"),
    "other issuer": lambda world: _forged(world, iss="https://issuer.invalid"),
    "tampered": _tampered,
    "alg: none": _unsigned,
    "alg: none, padded": lambda world: _unsigned(world, world.token("alice").rpartition(".")[2]),
    "unknown key": _forged,
}


def mint(world: World) -> dict[str, str]:
    """One token of each kind."""
    return {name: make(world) for name, make in TOKENS.items()}
