"""Tokens that held a moment ago, so that the next request with the same one need not verify it again.

A cache belongs to one key set and dies with it: no token is taken after the key that signed it has left the set. It
holds no token, only a digest that means nothing to another process, and what became of the token. What is bound to a
connection is not in here. This file must not know how a token is verified.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

from .._generations import Generations
from ._digest import secret_proof
from ._token import TokenProfile, VerifiedToken

__all__ = ["TokenCache"]

_MOST: Final = 2048  # of each generation; an entry takes about 2 KiB
_LONGEST: Final = 4096  # characters of a token that is worth its place


@dataclass(frozen=True, slots=True)
class _Entry:
    proof: Hashable
    token: VerifiedToken
    profile: TokenProfile
    begins: float
    ends: float


@dataclass(slots=True, eq=False)
class TokenCache:
    """What became of the tokens that one key set verified. Safe to share between threads.

    A token gets in when it is verified for the second time, so that tokens that come once push nothing out; tokens
    that did not hold leave no trace at all.
    """

    _entries: Generations[int, _Entry] = field(default_factory=lambda: Generations(_MOST), repr=False)

    def find(self, text: str, profile: TokenProfile, now: float) -> VerifiedToken | None:
        """The token, if it held for this very profile and its times hold now."""
        if len(text) > _LONGEST or not text.isascii():  # no token is
            return None
        # Python's own hash says that most are not here; only of one that may be it is more asked.
        key, entries = hash(text), self._entries
        entry = entries.young.get(key) or entries.find(key)
        if entry is None or entry.profile is not profile or entry.proof != secret_proof(text.encode()):
            return None
        return entry.token if entry.begins <= now <= entry.ends else None

    def add(self, text: str, profile: TokenProfile, token: VerifiedToken) -> None:
        """Remember a token that was verified just now, if it was before."""
        if len(text) <= _LONGEST and text.isascii() and not self._entries.is_new(hash(text)):
            entry = _Entry(secret_proof(text.encode()), token, profile, *profile.lifetime(token.claims))
            self._entries.keep(hash(text), entry)
