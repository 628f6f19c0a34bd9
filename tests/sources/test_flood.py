"""A thousand requests a second with keys that nobody has: few fetches, and good tokens do not notice.

``MESHSEC_FULL=1``: a whole minute of it; else five seconds. The seconds are the key store's, not ours.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from meshsec import Connection, HttpRequest, Mesh, MeshConfig, Reason, Workload
from meshsec.errors import KeysUnavailableError
from meshsec.resources import KeysConfig, parse
from meshsec.sources._fetch import FetchResult
from meshsec.testing import TestIssuer
from tokens import encode

SECONDS = 60 if os.environ.get("MESHSEC_FULL") else 5
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
    """A mesh whose key store has our clock, and an issuer that is well, down, or silent."""

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
        request = HttpRequest("GET", "/", "web.prod", [("authorization", f"Bearer {token}")])
        return self.mesh.decide(Connection(), request).reason


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


@pytest.mark.parametrize("state", ["well", "down"])
def test_a_flood_makes_the_promised_number_of_fetches(state: str) -> None:
    """One for each cooldown; every good token in between is let in, with the issuer well or down."""
    with warm(state) as world:
        good = ISSUER.token()
        for number in range(1000 * SECONDS):
            world.now += 0.001
            assert world.ask(unknown(number)) is Reason.JWT_UNKNOWN_KEY
            if number % 20 == 0:
                assert world.ask(good) is Reason.ALLOW_RULE
        assert 1 <= world.fetches <= SECONDS / COOLDOWN + 1


def test_a_flood_from_a_cold_start_makes_no_more() -> None:
    """The issuer is down from the beginning: everything is refused, and it is not asked more often for that."""
    world = World("down")
    for number in range(1000 * SECONDS):
        world.now += 0.001
        assert world.ask(unknown(number)) is Reason.KEYS_UNAVAILABLE
    assert 1 <= world.fetches <= SECONDS / COOLDOWN + 2  # the store's own first one starts no request's cooldown
    world.mesh.close()


def until(true: Callable[[], bool]) -> None:
    """Wait for other threads to get there."""
    patience = threading.Event()
    for _ in range(3000):
        if true():
            return
        patience.wait(0.01)
    raise AssertionError("it did not happen")


def test_good_tokens_do_not_wait_for_a_silent_issuer() -> None:
    """While a fetch hangs: four of the flood wait for it, the others and every good token are answered at once."""
    with warm("silent") as world:
        answered: list[Reason] = []
        flood = [
            threading.Thread(target=lambda n=n: [answered.append(world.ask(unknown(n * 100 + i))) for i in range(50)])
            for n in range(8)
        ]
        for thread in flood:
            thread.start()
        good = ISSUER.token()
        assert {world.ask(good) for _ in range(200)} == {Reason.ALLOW_RULE}
        until(lambda: sum(thread.is_alive() for thread in flood) <= 4)
        assert sum(thread.is_alive() for thread in flood) == 4
        assert not world.answer.is_set()
        world.answer.set()
        for thread in flood:
            thread.join(60)
        assert set(answered) == {Reason.JWT_UNKNOWN_KEY}
        assert len(answered) == 8 * 50
        assert world.fetches == 1


def test_tokens_of_nobodys_issuer_cause_no_fetch() -> None:
    """An issuer that no rule names is not looked up anywhere."""
    with warm("well") as world:
        stranger = TestIssuer("https://stranger.example")
        assert {world.ask(stranger.token()) for _ in range(100)} == {Reason.JWT_ISSUER}
        assert world.fetches == 0
