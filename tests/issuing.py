"""A mesh whose key store has a clock of the test's, and an issuer that is well, down, or silent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from meshsec import Connection, HttpRequest, Mesh, MeshConfig, Reason, Workload
from meshsec.errors import KeysUnavailableError
from meshsec.resources import KeysConfig, parse
from meshsec.sources._fetch import FetchResult
from meshsec.testing import TestIssuer
from tokens import encode

__all__ = ["COOLDOWN", "ISSUER", "POLICY", "World", "ask", "unknown", "warm"]

COOLDOWN = 1.0
POLICY = """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: users, namespace: prod}
spec: {jwtRules: [{issuer: https://issuer.example, jwksUri: https://issuer.example/jwks}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: users, namespace: prod}
spec: {rules: [{from: [{source: {requestPrincipals: ["*"]}}]}]}
"""
ISSUER = TestIssuer()


class World:
    """The mesh and its issuer."""

    def __init__(self, state: str = "well") -> None:
        config = MeshConfig(keys=KeysConfig(cooldown=COOLDOWN, timeout=120, token_cache=False))
        self.mesh = Mesh(workload=Workload(name="web", namespace="prod"), resources=parse(POLICY), config=config)
        self.state = state
        self.now = 1000.0
        self.fetches = 0
        self.answer = threading.Event()
        store = self.mesh._keys
        store._clock, store._fetch = lambda: self.now, self.fetch

    def fetch(self, _: str, *, timeout: float) -> FetchResult:
        """What the issuer does."""
        self.fetches += 1
        if self.state == "silent":
            assert self.answer.wait(60)
        if self.state != "well":
            raise KeysUnavailableError("down")
        return FetchResult(200, ISSUER.jwks.encode())

    def ask(self, token: str) -> Reason:
        """One request's end."""
        return ask(self.mesh, token)


def ask(mesh: Mesh, token: str) -> Reason:
    """What becomes of a request with the token."""
    request = HttpRequest("GET", "/", "web.prod", [("authorization", f"Bearer {token}")])
    return mesh.decide(Connection(), request).reason


@contextmanager
def warm(state: str) -> Iterator[World]:
    """Good keys are at hand; then the issuer becomes what it will be, and the cooldown passes."""
    world = World()
    assert world.ask(ISSUER.token()) is Reason.ALLOW_RULE
    world.state, world.fetches = state, 0
    world.now += COOLDOWN
    yield world
    world.mesh.close()


def unknown(number: int) -> str:
    """A token of a key that nobody has, another one for each number."""
    _, payload, signature = ISSUER.token().split(".")
    return f"{encode({'alg': 'ES256', 'kid': f'kid-{number}'})}.{payload}.{signature}"
