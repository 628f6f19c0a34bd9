"""What is known of one issuer's key set, and what time makes of it. Pure state: the clock is handed in.

This file must not know locks, threads or sockets.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass, field
from random import SystemRandom
from typing import Final, Self

from ..authn import KeySource, KeyState, TokenCache
from ..jose import KeySet
from ..resources import KeysConfig

__all__ = ["LONGEST_KID", "Flight", "Shelf"]

_SHORTEST_RETRY: Final = 1.0
_NEVER: Final = -math.inf
_MOST_MISSED: Final = 256
LONGEST_KID: Final = 256  # characters of a name that is worth remembering

_random: Final = SystemRandom()


@dataclass(slots=True, eq=False)
class Flight:
    """One fetch in the air.

    Attributes:
        landed: done when the fetch is. It has no result and no error: who waited looks at the snapshot.
        waiters: how many requests wait for it.
        kids: the names of keys that they look for.
    """

    landed: Future[None] = field(default_factory=Future)
    waiters: int = 0
    kids: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        # A running future cannot be cancelled: whoever stops waiting does not take the others down.
        self.landed.set_running_or_notify_cancel()


@dataclass(slots=True, eq=False)
class Shelf:
    """One source and what is known of it. Whoever shares one guards it.

    Attributes:
        source: whose keys.
        config: how often, how long, how patiently.
        keys: the last good set, however old.
        loaded_at: when it came.
        max_age: for how many seconds its server said that it is good.
        attempted_at: when the last fetch began, well or badly: the cooldown counts from here.
        due_at: when to fetch of our own accord.
        failures: fetches that failed since the last good one.
        last_error: why the last of them did.
        flight: the fetch in the air.
        cache: the tokens that ``keys`` verified; None: they are not remembered.
        missed: names of keys that a good fetch did not bring: how often, and until when nobody is asked for them.
    """

    source: KeySource
    config: KeysConfig
    keys: KeySet | None = None
    loaded_at: float = _NEVER
    max_age: float = math.inf
    attempted_at: float = _NEVER
    due_at: float = _NEVER
    failures: int = 0
    last_error: str | None = None
    flight: Flight | None = None
    cache: TokenCache | None = None
    missed: dict[str, tuple[int, float]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, source: KeySource, config: KeysConfig, known: KeySet | None = None, loaded_at: float = _NEVER
    ) -> Self:
        """A new one, with a set that an earlier process fetched, if there is any; due at once."""
        cache = TokenCache() if known and config.token_cache else None
        return cls(source, config, known, loaded_at, cache=cache)

    @property
    def budget(self) -> float:
        """Seconds that one fetch may take, discovery included."""
        return self.source.timeout or self.config.timeout

    def state(self, now: float) -> KeyState:
        """What requests may know."""
        fetchable = self.flight is not None or now >= self._cool_at
        if now < self._stale_at:
            return KeyState(self.keys, fetchable=fetchable, cache=self.cache)
        return KeyState(fetchable=fetchable)

    def next_change(self, now: float) -> float:
        """When :meth:`state` will say something else by the passing of time alone."""
        return min((moment for moment in (self._stale_at, self._cool_at) if moment > now), default=math.inf)

    def is_due(self, now: float) -> bool:
        """Whether to fetch of our own accord."""
        return self.flight is None and now >= self.due_at

    def may_be_asked(self, now: float) -> bool:
        """Whether to fetch because a request asks."""
        return self.flight is None and now >= self._cool_at

    def lacks(self, kids: Collection[str], now: float) -> bool:
        """Whether every one of these keys was looked for in vain, and not long ago; without a name nobody knows."""
        known = bool(kids) and now < self._stale_at
        return known and all(now < self.missed.get(kid, (0, _NEVER))[1] for kid in kids)

    def take_off(self, now: float) -> Flight:
        """A fetch begins, and with it the cooldown."""
        self.flight, self.attempted_at = Flight(), now
        return self.flight

    def succeeded(self, keys: KeySet, now: float, max_age: float = math.inf) -> None:
        """A good set came; ``max_age`` is how long its server says that it stays so."""
        self._note_missed(keys, now)
        self.flight, self.failures, self.last_error = None, 0, None
        if keys != self.keys:
            # What the old set verified is forgotten together with it.
            self.keys, self.cache = keys, TokenCache() if self.config.token_cache else None
        self.loaded_at, self.max_age = now, max_age
        self._plan_refresh(now)

    def _note_missed(self, keys: KeySet, now: float) -> None:
        """Each further time that a key is not there, it takes twice as long until it is looked for again."""
        named = {key.kid for key in keys.keys}
        for kid in sorted(self.flight.kids - named) if self.flight else ():
            times, _ = self.missed.pop(kid, (0, _NEVER))
            if len(self.missed) >= _MOST_MISSED:
                del self.missed[next(iter(self.missed))]
            rarer = self.config.cooldown * 2.0 ** min(times, 16)
            self.missed[kid] = times + 1, now + min(rarer, max(self.config.refresh, self.config.cooldown))

    def failed(self, error: str, now: float) -> None:
        """None came: without keys try again after each cooldown; with keys ever more rarely, to the usual pace."""
        self.flight, self.failures, self.last_error = None, self.failures + 1, error
        pause = max(self.config.cooldown, _SHORTEST_RETRY)
        spread = _random.uniform(1.0, 1.1)
        self.due_at = now + pause * spread
        if now < self._stale_at:
            rarer = min(pause * 2.0 ** min(self.failures - 1, 16), max(self.config.refresh, pause))
            self.due_at = min(now + rarer * spread, self._stale_at)

    def forked(self, now: float) -> None:
        """In a child process: a fetch that was in the air stayed with the parent, and plans are drawn anew."""
        if self.flight is not None:
            self.flight, self.attempted_at, self.due_at = None, _NEVER, _NEVER
        elif self.keys is not None and not self.failures:
            self._plan_refresh(now)

    def _plan_refresh(self, now: float) -> None:
        """Before it is needed, and not when everyone else does it.

        A server may have its set fetched sooner than we would, but not more often than the cooldown allows.
        """
        soonest = min(max(self.max_age, self.config.cooldown, _SHORTEST_RETRY), self.config.refresh)
        self.due_at = now + min(soonest, self.config.max_stale) * _random.uniform(0.8, 1.0)

    @property
    def _stale_at(self) -> float:
        return self.loaded_at + self.config.max_stale

    @property
    def _cool_at(self) -> float:
        return self.attempted_at + self.config.cooldown
