"""Waiting for what another thread or process does: the one way in which tests look again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

__all__ = ["PATIENCE", "until"]

PATIENCE: Final = 60.0
PAUSES: Final = (0.001, 0.05)  # the first and the longest; whoever is waited for needs the processor more


def until(holds: Callable[[], object]) -> None:
    """Look again and again until it holds, ever less often; patience ends where no machine is so slow."""
    end = time.monotonic() + PATIENCE
    pause, longest = PAUSES
    while not holds():
        assert time.monotonic() < end, "it never came to pass"
        time.sleep(pause)
        pause = min(2 * pause, longest)
