"""The key sets of every issuer, kept fresh in the background and published as one immutable snapshot.

Requests read the snapshot and do not wait, but for the few that may wait for one fetch. Whatever happens, a source is
fetched by one thread at a time, an attempt (not a success) starts its cooldown, and only a good set replaces a good
set. This file must not know tokens.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any, Final

from ..authn import KeySnapshot, KeySource, NeedKeys, jwt_svid_keys
from ..errors import KeysUnavailableError
from ..jose import KeySet
from ..resources import IssuerConfig, KeysConfig
from ._fetch import Fetch, discover, fetch, good_body, max_age
from ._issuer import IssuerFetch
from ._key_files import KeyFiles
from ._shelf import LONGEST_KID, Flight, Shelf

__all__ = ["KeyStore"]

_log: Final = logging.getLogger("meshsec.keys")

_TICK: Final = 1.0
_COLD_WAITERS: Final = 16
_UNKNOWN_KEY_WAITERS: Final = 4


class KeyStore:
    """Key sets by source.

    Args:
        sources: what to keep.
        config: how often, how long, how patiently.
        issuers: what is different for some of them.
        clock: seconds that only grow; the wall clock's say ends with what an earlier process kept.
        fetch: fetches one URL, for issuers without authorities, token and proxy of their own.
        files: where good sets are kept for the next process; None: nowhere.

    :meth:`start` begins to refresh in the background; without it sets are fetched when requests ask. It may be shared
    by threads and event loops, and survives a fork: the child starts its own threads.
    """

    def __init__(
        self,
        sources: Iterable[KeySource],
        config: KeysConfig | None = None,
        *,
        issuers: Mapping[str, IssuerConfig] | None = None,
        clock: Callable[[], float] = time.monotonic,
        fetch: Fetch = fetch,
        files: KeyFiles | None = None,
    ) -> None:
        self._config = config or KeysConfig()
        self._issuers = issuers or {}
        self._clock = clock
        self._fetch = fetch
        self._files = files or (KeyFiles(self._config.cache) if self._config.cache else None)
        self._lock = threading.Lock()
        self._running = False
        self._stop: threading.Event | None = None
        self._shelves = {source: self._shelf(source) for source in sources}
        self._published: tuple[KeySnapshot, float] = (MappingProxyType({}), -math.inf)
        _stores.add(self)

    # ---------------------------------------------------------------- for requests

    def snapshot(self) -> KeySnapshot:
        """What is at hand now. One look at the clock; the lock is taken only when time alone changed something."""
        snapshot, until = self._published
        if self._clock() < until:
            return snapshot
        with self._lock:
            return self._publish()

    def wait(self, question: NeedKeys, timeout: float | None = None) -> None:
        """Wait in this thread until what was asked for is fetched, well or badly.

        Args:
            question: what the policy lacks. A fetch begins if none is in flight and the cooldown is over.
            timeout: seconds; by default what one fetch may take.

        Returns at once where nothing is in flight, or where enough others wait already.
        """
        with self._joined(question) as flights:
            futures.wait([flight.landed for flight in flights], self._patience(question, timeout))

    async def wait_async(self, question: NeedKeys, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """As :meth:`wait`, without blocking the event loop."""
        with self._joined(question) as flights:
            waiting = [asyncio.wrap_future(flight.landed) for flight in flights]
            try:
                if waiting:
                    await asyncio.wait(waiting, timeout=self._patience(question, timeout))
            finally:
                for one in waiting:
                    one.cancel()

    def _patience(self, question: NeedKeys, timeout: float | None) -> float:
        if timeout is not None:
            return timeout
        shelves = filter(None, map(self._shelves.get, question.sources))
        return max((shelf.budget for shelf in shelves), default=0.0)

    @contextmanager
    def _joined(self, question: NeedKeys) -> Iterator[list[Flight]]:
        """The flights that the caller may wait for; its seats are freed when it leaves."""
        with self._lock:
            now = self._clock()
            kids = question.unverified_kids
            flights = [flight for source in question.sources if (flight := self._board(source, kids, now))]
        try:
            yield flights
        finally:
            with self._lock:
                for flight in flights:
                    flight.waiters -= 1

    def _board(self, source: KeySource, kids: Collection[str], now: float) -> Flight | None:
        shelf = self._shelves.get(source)
        if shelf is None or shelf.lacks(kids, now):
            return None
        if shelf.may_be_asked(now):
            self._launch(shelf, now)
        seats = _COLD_WAITERS if shelf.state(now).keys is None else _UNKNOWN_KEY_WAITERS
        if shelf.flight is None or shelf.flight.waiters >= seats:
            return None
        shelf.flight.waiters += 1
        shelf.flight.kids.update(kid for kid in kids if len(kid) <= LONGEST_KID)
        return shelf.flight

    # ---------------------------------------------------------------- in the background

    def replace(self, sources: Iterable[KeySource]) -> None:
        """Keep these from now on. What was fetched of them stays; who waits for another is not disturbed."""
        wanted = {source: source.timeout for source in sources}
        new = {source: self._shelf(source) for source in wanted if source not in self._shelves}
        with self._lock:
            if wanted != {source: shelf.source.timeout for source, shelf in self._shelves.items()}:
                kept = self._shelves
                self._shelves = {source: kept.get(source) or new[source] for source in wanted}
                for source, shelf in self._shelves.items():
                    shelf.source = source  # equal, but for the time that its fetches may take
                self._publish()
            running = self._running
        if running:
            with suppress(RuntimeError):  # where no thread can begin now, the next call tries again
                self.start()
            self.refresh_due()

    def _shelf(self, source: KeySource) -> Shelf:
        config = self._config.of(self._issuers.get(source.issuer))
        found = self._files.read(source, max_age=config.max_stale) if self._files else None
        return Shelf.of(source, config, found.keys, self._clock() - found.age) if found else Shelf.of(source, config)

    def start(self) -> None:
        """Fetch what is due, and refresh it from now on in a thread of our own. Harmless when it runs already.

        Raises:
            RuntimeError: no thread can begin; the next call tries again.
        """
        with self._lock:
            self._running = True
            if self._stop is not None or not self._shelves:
                return
            stop = threading.Event()
            threading.Thread(target=self._live, args=(stop,), name="meshsec-keys", daemon=True).start()
            self._stop = stop
        self.refresh_due()

    def close(self) -> None:
        """Stop refreshing, and let nobody wait any longer. What was fetched stays."""
        with self._lock:
            self._running = False
            if self._stop is not None:
                self._stop.set()
                self._stop = None
            for shelf in self._shelves.values():
                flight, shelf.flight = shelf.flight, None
                if flight is not None:
                    flight.landed.set_result(None)
            self._publish()

    def refresh_due(self) -> None:
        """Begin to fetch every set whose time has come. Does not wait for any."""
        with self._lock:
            now = self._clock()
            for shelf in self._shelves.values():
                if shelf.is_due(now):
                    self._launch(shelf, now)

    def status(self) -> list[dict[str, Any]]:
        """Each source: how many keys, how old (seconds), what last failed. Plain data without key material."""
        with self._lock:
            now = self._clock()
            return [
                {
                    "issuer": source.issuer,
                    "jwks_uri": source.jwks_uri,
                    "keys": len(shelf.state(now).keys or ()),
                    "age": None if shelf.keys is None else now - shelf.loaded_at,
                    "fetching": shelf.flight is not None,
                    "failures": shelf.failures,
                    "last_error": shelf.last_error,
                }
                for source, shelf in self._shelves.items()
            ]

    def _live(self, stop: threading.Event) -> None:
        while not stop.wait(_TICK):
            self.refresh_due()

    def _publish(self) -> KeySnapshot:
        """With the lock held."""
        now = self._clock()
        snapshot = MappingProxyType({source: shelf.state(now) for source, shelf in self._shelves.items()})
        until = min((shelf.next_change(now) for shelf in self._shelves.values()), default=math.inf)
        self._published = (snapshot, until)
        return snapshot

    def _launch(self, shelf: Shelf, now: float) -> None:
        """With the lock held. A thread for each fetch: none can hold up another, and none has to survive a fork."""
        flight = shelf.take_off(now)
        self._publish()
        try:
            threading.Thread(target=self._fly, args=(shelf, flight), name="meshsec-fetch", daemon=True).start()
        except RuntimeError as error:
            self._land(shelf, str(error))
            flight.landed.set_result(None)

    def _fly(self, shelf: Shelf, flight: Flight) -> None:
        found: tuple[KeySet, float] | str
        try:
            found = self._load(shelf)
        except KeysUnavailableError as error:
            found = str(error)
        except Exception:  # noqa: BLE001
            # Whatever it was, it is a failed fetch and not the end of this source.
            _log.exception("fetching the keys of %s broke", shelf.source.issuer)
            found = "unexpected error"
        with self._lock:
            if shelf.flight is not flight:
                return  # closed meanwhile
            self._land(shelf, found)
        flight.landed.set_result(None)
        if self._files and not isinstance(found, str):
            self._files.write(shelf.source, found[0])

    def _land(self, shelf: Shelf, found: tuple[KeySet, float] | str) -> None:
        """With the lock held."""
        now = self._clock()
        if not isinstance(found, str):
            if shelf.failures:
                _log.info("the keys of %s are back", shelf.source.issuer)
            shelf.succeeded(found[0], now, found[1])
        else:
            if not shelf.failures:
                _log.warning("the keys of %s cannot be had: %s", shelf.source.issuer, found)
            shelf.failed(found, now)
        self._publish()

    def _load(self, shelf: Shelf) -> tuple[KeySet, float]:
        """The set, and for how many seconds it is good. Discovery and the set itself share one budget."""
        source, deadline = shelf.source, self._clock() + shelf.budget
        own = self._issuers.get(source.issuer) or IssuerConfig()
        proxy = shelf.config.proxy
        special = proxy or own.ca_file or own.token_file
        fetch = IssuerFetch(source, own, proxy, shelf.config.proxy_ca_file) if special else self._fetch
        url = source.jwks_uri or discover(source.issuer, timeout=shelf.budget, fetch=fetch, place=own.discovery)
        left = deadline - self._clock()
        if left <= 0:
            raise KeysUnavailableError(f"finding the key set of {source.issuer} took too long")
        answer = fetch(url, timeout=left)
        body = good_body(url, answer)
        if not own.jwt_svid:
            return KeySet.parse(body), max_age(answer)
        keys, hint = jwt_svid_keys(source.issuer, body)
        return keys, min(float(hint), max_age(answer))

    def _after_fork(self) -> None:
        """In the child, where no thread of ours lives and a lock may be held for ever."""
        self._lock = threading.Lock()
        self._running = False
        self._stop = None
        now = self._clock()
        for shelf in self._shelves.values():
            shelf.forked(now)
        self._publish()


_stores: Final[weakref.WeakSet[KeyStore]] = weakref.WeakSet()


def _after_fork() -> None:
    for store in list(_stores):
        store._after_fork()


os.register_at_fork(after_in_child=_after_fork)
