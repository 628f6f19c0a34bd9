"""What stands for a token where it is remembered: equal for equal tokens, and without meaning to any other process.

Must not know: what is remembered.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Hashable
from hashlib import sha256
from typing import Final

__all__ = ["secret_digest"]

_one, _other = secrets.token_bytes(32), secrets.token_bytes(32)


def _by_siphash(secret: bytes) -> Hashable:
    """128 bits of SipHash (PEP 456), keyed by the interpreter and by us; a third of what SHA-256 costs."""
    return hash(_one + secret), hash(_other + secret)


def _by_sha256(secret: bytes) -> Hashable:
    return sha256(_one + secret).digest()


# What Python was built with, and how wide.
_has_siphash: Final = sys.hash_info.algorithm.startswith("siphash") and sys.hash_info.width >= 64
secret_digest: Final = _by_siphash if _has_siphash else _by_sha256
