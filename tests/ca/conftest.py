"""How large the tests of the authority are: small by default, as the proof asks under MESHSEC_FULL=1."""

from __future__ import annotations

import os

import pytest

FULL = bool(os.environ.get("MESHSEC_FULL"))


@pytest.fixture
def many() -> int:
    """How many service accounts."""
    return 1000 if FULL else 60


@pytest.fixture
def rounds() -> int:
    """How often a process is killed."""
    return 200 if FULL else 10
