"""A thousand requests a second with keys that nobody has: few fetches, and good tokens do not notice.

``MESHSEC_FULL=1``: a whole minute of it; else five seconds. The seconds are the key store's, not ours.
"""

from __future__ import annotations

import os
import threading

import pytest

from issuing import COOLDOWN, ISSUER, World, unknown, warm
from meshsec import Reason
from meshsec.testing import TestIssuer
from waiting import until

SECONDS = 60 if os.environ.get("MESHSEC_FULL") else 5


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
