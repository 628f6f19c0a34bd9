"""What stands for a token where it is remembered: equal for equal tokens, and without meaning to any other process.

Must not know: what is remembered.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Hashable
from hashlib import sha256
from typing import Final

__all__ = ["secret_digest"]

_one, _other = secrets.token_bytes(32), secrets.token_bytes(32)


def _by_siphash(secret: bytes) -> Hashable:
    """128 bits of SipHash (PEP 456), keyed by the interpreter and by us; a fifth of what SHA-256 costs."""
    return hash(secret), hash(_one + secret)


def _by_known_siphash(secret: bytes) -> Hashable:
    """The same where others may know the interpreter's key."""
    return hash(_other + secret), hash(_one + secret)


def _by_sha256(secret: bytes) -> Hashable:
    return sha256(_one + secret).digest()


def _best() -> Callable[[bytes], Hashable]:
    # What Python was built with, and how wide.
    if not (sys.hash_info.algorithm.startswith("siphash") and sys.hash_info.width >= 64):
        return _by_sha256
    return _by_siphash if os.environ.get("PYTHONHASHSEED", "random") == "random" else _by_known_siphash


secret_digest: Final = _best()
