"""What every test shares: how property tests run, and how cases are called."""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

# Two processes share a small machine: a slow example is no failure, and a failing one is printed to be replayed.
settings.register_profile("meshsec", deadline=None, print_blob=True)
settings.load_profile("meshsec")

LONGEST_ID = 60


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What was imported stays: the collector need not go through it again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture
def short_turns() -> Iterator[None]:
    """Threads take turns fifty times as often: more of their orders are seen, in less time."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(usual / 50)
    yield
    sys.setswitchinterval(usual)


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Bytes and long text (keys, signatures) make no name: several processes must call a case the same."""
    if isinstance(val, bytes) or (isinstance(val, str) and len(val) > LONGEST_ID):
        return argname
    return None
