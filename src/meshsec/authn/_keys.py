"""What the decision path knows about key sets, and how it asks for what it lacks.

Values only. Ages, cooldowns and waiting are the affair of whoever answers; this file must not know clocks or sockets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ..jose import KeySet
from ._cache import TokenCache

__all__ = ["KeySnapshot", "KeySource", "KeyState", "NeedKeys"]


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
    """

    sources: tuple[KeySource, ...]
