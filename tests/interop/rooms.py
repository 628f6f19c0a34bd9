"""Workloads with rules for tokens, and the requests that are made to them.

This file must not know what anybody says of a request.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from interop.changes import CHANGES
from interop.forge import ISSUER, SIGNERS, Change, OddRsa, Secret, Sent, jwk, make
from interop.generate import Document, Question

__all__ = ["ROOMS", "Ask", "Room", "asks"]


@dataclass(frozen=True)
class Room:
    """A workload's resources, and the token that is good there.

    Attributes:
        rules: the JWTRules.
        signers: whose tokens are good.
        policies: the AuthorizationPolicies.
        line: the header that a token comes in, ``@`` standing for it.
    """

    rules: tuple[Document, ...]
    signers: tuple[str, ...]
    policies: tuple[Document, ...] = ()
    line: tuple[str, str] = ("Authorization", "Bearer @")

    @property
    def documents(self) -> tuple[Document, ...]:
        """All of it."""
        return (_document("RequestAuthentication", {"jwtRules": list(self.rules)}), *self.policies)


def _document(kind: str, spec: Mapping[str, Any]) -> Document:
    metadata = {"name": "one", "namespace": "prod"}
    return {"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": metadata, "spec": dict(spec)}


def _rule(*keys: Mapping[str, Any], **changes: Any) -> Document:
    return {"issuer": ISSUER, "jwks": json.dumps({"keys": keys}), **changes}


def _allow(key: str, *values: str) -> Document:
    return {"when": [{"key": key, "values": list(values)}]}


def _odd_keys() -> Iterator[dict[str, Any]]:
    """Keys that Envoy uses and meshsec does not, each signing under its own name; and one good one."""
    for signer in (OddRsa("short", 1024), OddRsa("cubic", 2048, 3)):
        SIGNERS[signer.kid] = signer
        yield jwk(signer.kid)
    SIGNERS["weak"] = Secret("HS256", "weak", b"weak")
    yield jwk("weak")
    for kid, change in _ODD_MEMBERS.items():
        SIGNERS[kid] = replace(SIGNERS["ES256"], kid=kid)
        yield jwk(kid, **change)
    yield jwk("ES256")


_ODD_MEMBERS: Final[Mapping[str, dict[str, Any]]] = {
    "enc": {"use": "enc"},
    "use": {"use": 7},
    "sign": {"key_ops": ["sign"]},
    "both": {"key_ops": ["sign", "verify"]},
    "ops": {"key_ops": "verify"},
    "curveless": {"crv": None},
    "bare": {"crv": None, "alg": None},
    "curve": {"crv": "P-384"},
    "alg": {"alg": "ES384"},
    "numbered": {"alg": 7},
    "chained": {"x5c": ["AAAA"], "x5t": 7},
    "unknown": {"kty": "XX"},
    "padded": {"x": jwk("ES256")["x"] + "="},
}
# The keys of an issuer that names none of them, nor their algorithms.
_NAMELESS: Final = tuple(jwk(name, kid=None, alg=None, use=None) for name in ("RS256", "ES256", "ES384", "EdDSA"))
_ALL: Final = tuple(jwk(name) for name in SIGNERS if not name.startswith("foreign") and name != "Ed25519")
_SAME: Final = tuple(jwk(name, kid="same") for name in ("foreign ES256", "ES256", "RS256", "foreign RS256"))
_CROWD: Final = tuple(
    jwk(name, kid=None, alg=None) for name in (*["foreign ES256"] * 4, "ES256", "RS256", *["foreign RS256"] * 2)
)
_OUTPUTS: Final = {
    "outputPayloadToHeader": "x-payload",
    "outputClaimToHeaders": [{"header": "x-sub", "claim": "sub"}, {"header": "x-level", "claim": "level"}],
}
_ROLES: Final = (
    _allow("request.auth.claims[realm_access][roles]", "admin"),
    _allow("request.auth.claims[groups]", "staff"),
)
_NO_SCOPE: Final = {"when": [{"key": "request.auth.claims[scope]", "notValues": ["read"]}]}

ROOMS: Final[Mapping[str, Room]] = {
    "every algorithm": Room(
        (_rule(*_ALL, audiences=["web", "https://api.example/"], **_OUTPUTS),), ("ES256", "RS256", "EdDSA", "HS256")
    ),
    "keys without names": Room((_rule(*_NAMELESS, forwardOriginalToken=True),), ("ES256", "RS256", "ES384", "EdDSA")),
    "keys of one name": Room((_rule(*_SAME, audiences=["web"]),), ("ES256", "RS256")),
    "odd keys": Room((_rule(*_odd_keys()),), ("ES256", "short", "cubic", "weak", *_ODD_MEMBERS)),
    "a crowd of keys": Room((_rule(*_CROWD),), ("ES256", "RS256")),
    "places of its own": Room(
        (
            _rule(
                *_ALL,
                fromHeaders=[{"name": "x-token", "prefix": "T "}, {"name": "x-raw"}],
                fromParams=["token"],
                fromCookies=["session"],
                **_OUTPUTS,
            ),
        ),
        ("ES256",),
        line=("x-token", "T @"),
    ),
    "roles": Room(
        (_rule(*_ALL, spaceDelimitedClaims=["groups"]),),
        ("ES256",),
        (_document("AuthorizationPolicy", {"action": "ALLOW", "rules": list(_ROLES)}),),
    ),
    "no scope, no way": Room(
        (_rule(*_ALL),),
        ("ES256",),
        (
            _document(
                "AuthorizationPolicy",
                {
                    "action": "DENY",
                    "rules": [{"when": [{"key": "request.auth.claims[scope]", "notValues": ["read"]}]}],
                },
            ),
        ),
    ),
    "one issuer twice": Room(
        (
            _rule(jwk("ES256"), audiences=["web"]),
            _rule(jwk("RS256"), jwk("ES256"), audiences=["api.example"], fromParams=["token"]),
        ),
        ("ES256", "RS256"),
    ),
    "two issuers": Room(
        (
            _rule(jwk("ES256")),
            _rule(jwk("foreign ES256"), issuer="https://other.example", fromHeaders=[{"name": "x-raw"}]),
        ),
        ("ES256", "foreign ES256"),
    ),
}


@dataclass(frozen=True)
class Ask:
    """One request with a token: who signed it, what was changed, and where it goes."""

    room: str
    signer: str
    changes: tuple[Change, ...]
    sent: Sent

    @classmethod
    def of(cls, room: str, signer: str, changes: Sequence[Change]) -> Ask:
        """Make it."""
        name, line = ROOMS[room].line
        text = make(signer, changes)
        sent = next((change for change in changes if change.stage == "sent"), None)
        if sent is not None:
            return cls(room, signer, tuple(changes), sent.apply(text))
        usual = Sent("/", ((name, line.replace("@", text)),))
        odd = any(character in text for character in "\r\n\0")
        return cls(room, signer, tuple(changes), Sent("/", ()) if odd else usual)

    @property
    def question(self) -> Question:
        """As it is asked."""
        return Question("GET", self.sent.target, (("Host", "web.prod"), *self.sent.headers), "127.0.0.1")

    def changed(self, *stages: str) -> bool:
        """Whether something was, at one of these stages."""
        return any(change.stage in stages for change in self.changes)

    def fewer(self) -> Iterator[Ask]:
        """The same with one change less."""
        for index in range(len(self.changes)):
            yield Ask.of(self.room, self.signer, (*self.changes[:index], *self.changes[index + 1 :]))


def asks(rng: random.Random, count: int) -> Iterator[Ask]:
    """Good tokens, then each change to each room, then several at once; of these the first ``count``, mixed."""
    good = [Ask.of(name, signer, ()) for name, room in ROOMS.items() for signer in room.signers]
    singles = [(name, (change,)) for name in ROOMS for change in CHANGES]
    rng.shuffle(singles)
    yield from good
    for index in range(count - len(good)):
        if index < len(singles):
            name, changes = singles[index]
        else:
            name = rng.choice(list(ROOMS))
            changes = tuple(rng.sample(CHANGES, rng.choice((2, 2, 2, 3))))  # type: ignore[assignment]
        yield Ask.of(name, rng.choice(ROOMS[name].signers), changes)
