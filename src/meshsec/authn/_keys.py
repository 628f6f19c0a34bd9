"""What the decision path knows about key sets, and how it asks for what it lacks.

Values only. Ages, cooldowns and waiting are the affair of whoever answers; this file must not know clocks or sockets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from ..errors import TokenError
from ..jose import KeySet
from ._cache import TokenCache

__all__ = ["KeySnapshot", "KeySource", "KeyState", "NeedKeys", "Refused"]


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where an issuer's keys come from.

    Attributes:
        issuer: the ``iss`` they speak for.
        jwks_uri: where the key set is; None: the issuer's discovery document says it.
        timeout: seconds that one fetch may take; None: the mesh's setting. Says nothing about which source it is.
    """

    issuer: str
    jwks_uri: str | None = None
    timeout: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class KeyState:
    """What is at hand for one source.

    Attributes:
        keys: the last good set; None where there is none, or only one that is too old.
        fetchable: whether asking may help: a fetch is permitted or in flight.
        cache: the tokens that these very keys verified; None: every token is verified anew.
    """

    keys: KeySet | None = None
    fetchable: bool = False
    cache: TokenCache | None = field(default=None, compare=False)


KeySnapshot = Mapping[KeySource, KeyState]
"""What is at hand, read-only, for one moment."""

NO_KEYS: Final = KeyState()


@dataclass(frozen=True, slots=True)
class NeedKeys:
    """A question: fetch these, then decide again.

    Attributes:
        sources: any of them may hold the key; at least one.
        unverified_kids: what the tokens in question call their keys; empty where one of them names none. Says
            nothing about which question it is.
    """

    sources: tuple[KeySource, ...]
    unverified_kids: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def of(cls, refusals: Iterable[Refused]) -> Self:
        """The question that several refusals make together."""
        refusals = tuple(refusals)
        kids = tuple(refusal.unverified_kid for refusal in refusals)
        sources = dict.fromkeys(source for refusal in refusals for source in refusal.askable)
        return cls(tuple(sources), kids if all(kids) else ())


@dataclass(frozen=True, slots=True)
class Refused:
    """A token that held against none of its rules.

    Attributes:
        error: the last reason.
        askable: the key sets that, fetched anew, may change it.
        unverified_kid: what the token calls its key; empty where it names none.
    """

    error: TokenError
    askable: tuple[KeySource, ...] = ()
    unverified_kid: str = ""
