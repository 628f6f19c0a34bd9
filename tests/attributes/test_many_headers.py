"""Header blocks as large as some servers let them be: reading one takes no longer than it is, and leaves nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from meshsec.attributes import Connection, HttpRequest, RequestFacts, read_request
from meshsec.policy import DecisionMemo
from meshsec.resources import PathNormalization

MANY = 30_000
# Seconds of this thread's processor time: a tenth of one in proportion, a quarter of a minute with the square of it.
LONGEST = 8.0

BLOCKS: dict[str, Callable[[int], str]] = {
    "one name": lambda number: "x-a",
    "a name that a rule reads": lambda number: "x-role",
    "a name that may hold a token": lambda number: "authorization",
    "each twice": lambda number: f"x-{number // 2}",
    "all different": lambda number: f"x-{number}",
    "one pair": lambda number: f"x-{max(number, 1)}",
}


@pytest.mark.parametrize(("compatibility", "joined"), [("safe", False), ("istio", True)])
@pytest.mark.parametrize("block", BLOCKS)
def test_reading_takes_no_longer_than_the_block_is(block: str, joined: bool, compatibility: str) -> None:
    """Each shape of it."""
    lines = (("host", "web.prod"), *((BLOCKS[block](number), "v") for number in range(MANY)))
    request = HttpRequest("GET", "/", None, lines, joined_headers=joined)
    began = time.thread_time()
    facts = read_request(request, PathNormalization.BASE, "refuse", compatibility=compatibility)  # type: ignore[arg-type]
    assert time.thread_time() - began < LONGEST
    if block != "a name that may hold a token":
        assert isinstance(facts, RequestFacts)
        assert sum(map(len, facts.headers.values())) == MANY + 1


@pytest.mark.parametrize("block", BLOCKS)
def test_looking_it_up_takes_no_longer_and_keeps_nothing(block: str) -> None:
    """The names of such a block have no place in the memory of a process."""
    memo = DecisionMemo({"host", "x-role"}, {"authorization"})
    names = (b"host", *(BLOCKS[block](number).encode() for number in range(MANY)))
    began = time.thread_time()
    for _ in range(2):
        memo.recall(Connection(), ("GET", "/"), names, (b"web.prod", *([b"v"] * MANY)), {}, 1.0)
    assert time.thread_time() - began < LONGEST
    assert not memo._shapes.young
    memo.recall(Connection(), ("GET", "/"), names[:4], (b"web.prod", *([b"v"] * 3)), {}, 1.0)
    assert len(memo._shapes.young) == 1
