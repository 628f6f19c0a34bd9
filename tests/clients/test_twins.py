"""httpx and its successor have the same classes under two names, and each needs transports of its own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

CLIENTS: Final = Path(__file__).parents[2] / "src" / "meshsec" / "clients"


def test_the_twins_do_not_drift_apart() -> None:
    """What is mended in one file is mended in the other: they differ in the name of the library only."""
    newer = (CLIENTS / "httpx2.py").read_text(encoding="utf-8")
    assert (CLIENTS / "httpx.py").read_text(encoding="utf-8") == newer.replace("httpx2", "httpx")
