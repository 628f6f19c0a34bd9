"""Connections that stay open between requests, for whoever asks the same place again and again.

A connection carries requests only of those who would have made it in the same way: to the same address, with the same
context, which still checks by the same proofs. This file must not know what is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Final

from ..errors import KeysUnavailableError
from ._line import Asking, FetchResult, Line, Target, exchange, open_line, read_url

__all__ = ["KeptLines"]

_IDLE: Final = 30.0  # seconds without a request after which a connection is closed
_OLD: Final = 300.0  # seconds after which it gets no request any more
_MOST: Final = 32  # that wait for requests, for each place

_Place = tuple[str, str, int, object, str | None]


@dataclass(frozen=True, slots=True)
class _Kept:
    line: Line
    proof: object
    born: float
    used: float


class KeptLines:
    """Connections by place; it may be shared by threads.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._waiting: dict[_Place, list[_Kept]] = {}

    def fetch(self, url: str, *, timeout: float, asking: Asking) -> FetchResult:
        """As :func:`meshsec.sources._fetch.fetch`, on a connection that is open already where there is one.

        Whoever listens there may close it at any time: then the request is made once more, on a new one.
        """
        target = read_url(url)
        place = (target.scheme, target.host, target.port, asking.context, asking.server_hostname)
        deadline = self._clock() + timeout
        kept = self._take(place, asking.proof)
        if kept is not None:
            try:
                return self._ask(place, kept, target, asking, timeout)
            except KeysUnavailableError:
                timeout = deadline - self._clock()
                if timeout <= 0:
                    raise
        now = self._clock()
        return self._ask(place, _Kept(open_line(target, asking), asking.proof, now, now), target, asking, timeout)

    def close(self) -> None:
        """Close what waits; a later request begins anew."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for kept in (kept for found in waiting.values() for kept in found):
            kept.line.finish()

    def after_fork(self) -> None:
        """In a forked child: the connections are the parent's, and the lock may be anybody's."""
        self._lock = Lock()
        self.close()

    def _ask(self, place: _Place, kept: _Kept, target: Target, asking: Asking, timeout: float) -> FetchResult:
        line = kept.line
        try:
            result = exchange(line, target, asking, timeout=timeout)
        except BaseException:
            line.finish()
            raise
        if line.sock is not None and line.whole:
            self._keep(place, _Kept(line, kept.proof, kept.born, self._clock()))
        else:
            line.finish()
        return result

    def _take(self, place: _Place, proof: object) -> _Kept | None:
        """The one that was used last, if any still holds; those that do not are closed."""
        with self._lock:
            waiting = self._waiting.pop(place, [])
            held = [kept for kept in waiting if self._holds(kept, proof)]
            found = held.pop() if held else None
            if held:
                self._waiting[place] = held
        for kept in waiting:
            if kept is not found and kept not in held:
                kept.line.finish()
        return found

    def _holds(self, kept: _Kept, proof: object) -> bool:
        now = self._clock()
        fresh = now - kept.used < _IDLE and now - kept.born < _OLD
        return fresh and kept.proof == proof and kept.line.is_connected

    def _keep(self, place: _Place, kept: _Kept) -> None:
        with self._lock:
            waiting = self._waiting.setdefault(place, [])
            if len(waiting) < _MOST:
                waiting.append(kept)
                return
        kept.line.finish()
