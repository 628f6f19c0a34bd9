"""A real Envoy and meshsec, asked the same: generated policies, generated requests, the same bytes.

With ``MESHSEC_FULL=1`` (``make interop``) at least 20,000 requests over 800 policies; otherwise a small part of them.
``MESHSEC_SEED`` chooses others.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pytest

from interop.client import Client
from interop.compare import Tally, ask_all, served
from interop.generate import cases, questions
from interop.shrink import report, smallest
from interop.sidecar import sites

FULL: Final = bool(os.environ.get("MESHSEC_FULL"))
SEED: Final = int(os.environ.get("MESHSEC_SEED", "20260101"))


@dataclass(frozen=True)
class Size:
    """How much is asked: so many Envoys, one after the other, with so many policies each, and requests for each."""

    envoys: int
    policies: int
    requests: int


SIZE: Final = Size(envoys=5, policies=160, requests=28) if FULL else Size(envoys=1, policies=96, requests=30)


@pytest.fixture(scope="module")
def tally() -> Iterator[Tally]:
    """Everything, asked once."""
    found = Tally()
    for turn in range(SIZE.envoys):
        rng = random.Random(f"{SEED}-{turn}")
        batch = list(cases(rng, list(sites(SIZE.policies))))
        with served(batch), Client() as client:
            for case in batch:
                ask_all(client, ((case, question) for question in questions(rng, case, SIZE.requests)), found)
        found.policies += len(batch)
    yield found
    lines = [f"{found.requests} requests over {found.policies} policies; Envoy said {dict(found.statuses)}"]
    lines += (f"  meant to differ, {count} times: {why}" for why, count in found.listed.most_common())
    sys.stdout.write("\n" + "\n".join(lines) + "\n")


def test_envoy_and_meshsec_agree(tally: Tally) -> None:
    """No difference but those that are listed."""
    shown = [report(smallest(found)) for found in tally.differences[:3]]
    assert not tally.differences, f"{len(tally.differences)} differences, for example\n" + "\n\n".join(shown)


def test_what_was_asked_covers_every_answer(tally: Tally) -> None:
    """A run in which Envoy lets nothing through, or nothing but that, would prove little."""
    assert tally.requests == SIZE.envoys * SIZE.policies * SIZE.requests
    for status in (200, 400, 401, 403):
        assert tally.statuses[status] > tally.requests / 50, tally.statuses
