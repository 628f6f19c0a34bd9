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
from ._digest import secret_digest
from ._token import TokenProfile, VerifiedToken

__all__ = ["LONGEST", "TokenCache", "token_digest"]

_MOST: Final = 2048  # of each generation; an entry takes about 2 KiB
LONGEST: Final = 4096  # characters of a token that is worth its place


def token_digest(token: str) -> Hashable:
    """A digest of the token's first characters: of all of them, where it is short enough to be kept."""
    return secret_digest(token[: LONGEST + 1].encode("utf-8", "replace"))


@dataclass(frozen=True, slots=True)
class _Entry:
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

    _entries: Generations[Hashable, _Entry] = field(default_factory=lambda: Generations(_MOST), repr=False)

    def find(self, digest: Hashable, profile: TokenProfile, now: float) -> VerifiedToken | None:
        """The token, if it held for this very profile and its times hold now."""
        entry = self._entries.find(digest)
        if entry is None or entry.profile is not profile:
            return None
        return entry.token if entry.begins <= now <= entry.ends else None

    def add(self, digest: Hashable, profile: TokenProfile, token: VerifiedToken) -> None:
        """Remember a token that was verified just now, if it was before."""
        if not self._entries.is_new(digest):
            self._entries.keep(digest, _Entry(token, profile, *profile.lifetime(token.claims)))
