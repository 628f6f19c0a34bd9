"""Every account has a valid identity at any moment: what is missing, damaged, superseded or old is replaced.

A sweep compares what is stored with what should be; nothing has to be remembered from one to the next, so the process
may die at any instruction. Whatever fails is reported and tried again in the next sweep, while the rest goes on. This
file must not know how identities are issued or stored.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from typing import Any, Final, Protocol

from ..errors import IssuanceError, MeshsecError
from ..spiffe import SpiffeId, X509Svid
from ._authority import CertificateAuthority
from ._judge import Standard
from ._lifetime import DEFAULT_TTL
from ._stores import SvidStore

__all__ = ["Issuing", "Rotator", "Sweep"]

GRACE: Final = 0.5
JITTER: Final = 0.01
INTERVAL: Final = 5.0
CHUNK: Final = 500  # identities recorded by one write to the disk
WORKERS: Final = 8  # writers at once: each waits for the disk
REQUESTER: Final = "rotator"

_log: Final = logging.getLogger("meshsec.ca")


class Issuing(Protocol):
    """What the rotator needs of an :class:`AuthorityFolder`."""

    @property
    def authority(self) -> CertificateAuthority:
        """The authority as it is now."""
        ...

    def batch(self) -> AbstractContextManager[CertificateAuthority]:
        """Issue many, recorded together when the block ends."""
        ...

    def revoked_serials(self) -> frozenset[str]:
        """Serial numbers, in hexadecimal."""
        ...

    def crl(self) -> bytes:
        """The PEM lists to publish; empty where nothing that is still valid is revoked."""
        ...

    def maintain(self) -> None:
        """What the authority itself needs now and then."""
        ...


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one sweep did.

    Attributes:
        accounts: how many there are.
        issued: why a new identity was stored, by account.
        published: who got new roots or a new CRL beside the old certificate.
        failed: what went wrong, by account; the empty name stands for the whole.
    """

    accounts: int
    issued: dict[str, str]
    published: tuple[str, ...]
    failed: dict[str, str]


@dataclass(slots=True)
class _Known:
    """What was found good the last time, and need not be read again until it is due or has changed."""

    stamp: Hashable
    not_before: float
    renewal: float
    not_after: float

    def serves(self, stamp: Hashable, now: float) -> bool:
        return stamp is not None and stamp == self.stamp and self.not_before <= now < self.renewal


@dataclass(slots=True)
class _Work:
    """One sweep's findings."""

    standard: Standard
    now: float
    failed: dict[str, str]
    issue: dict[SpiffeId, str] = field(default_factory=dict)
    publish: dict[SpiffeId, X509Svid] = field(default_factory=dict)
    stored: set[SpiffeId] = field(default_factory=set)

    def result(self, accounts: int) -> Sweep:
        issued = {str(item): reason for item, reason in self.issue.items() if item in self.stored}
        published = tuple(str(item) for item in self.publish if item in self.stored)
        return Sweep(accounts, issued, published, self.failed)


class Rotator:
    """Keeps an identity in the store for every account.

    Args:
        source: an :class:`AuthorityFolder`, or an authority in memory.
        store: where identities are kept.
        accounts: who must have one; asked at every sweep. An account that is gone is not renewed, and its identity
            stays where it is until it expires.
        ttl: of what is issued, seconds.
        grace: the part of its life with which an identity is renewed.
        jitter: by how much that part differs from one identity to the next, up or down.
        dns_names: for every identity; for callers that know no SPIFFE.
        clock: tells the time, POSIX seconds.
        progress: told how many of how many are stored, while a sweep stores them.
    """

    def __init__(
        self,
        source: Issuing | CertificateAuthority,
        store: SvidStore,
        accounts: Callable[[], Collection[SpiffeId]],
        *,
        ttl: float = DEFAULT_TTL,
        grace: float = GRACE,
        jitter: float = JITTER,
        dns_names: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        self._source = _InMemory(source) if isinstance(source, CertificateAuthority) else source
        self._store = store
        self._ask_accounts = accounts
        self._accounts: tuple[SpiffeId, ...] = ()
        self._ttl, self._grace, self._jitter = ttl, grace, jitter
        self._dns_names = tuple(dns_names)
        self._clock = clock
        self._progress = progress
        self._standard: Standard | None = None
        self._known: dict[SpiffeId, _Known] = {}
        # Issued but not yet stored: tried again before anything new is issued.
        self._pending: dict[SpiffeId, X509Svid] = {}
        self._failed: dict[str, str] = {}

    def sweep(self) -> Sweep:
        """Look at every account once, and put right what is wrong. Raises nothing that the next sweep may mend."""
        failed: dict[str, str] = {}
        self._maintain(failed)
        self._refresh_accounts(failed)
        work = None
        try:
            work = self._examine(failed)
            self._put_right(work)
        except (MeshsecError, OSError, RuntimeError) as error:  # RuntimeError: no thread can begin now
            failed[""] = _words(error)
        self._report(failed)
        accounts = len(self._accounts)
        return work.result(accounts) if work else Sweep(accounts, {}, (), failed)

    def run(self, stop: threading.Event, *, interval: float = INTERVAL) -> None:
        """Sweep every ``interval`` seconds until ``stop`` is set."""
        while not stop.is_set():
            self.sweep()
            stop.wait(interval)

    def status(self) -> dict[str, Any]:
        """How many identities are in order, when the next is due and the first ends, and what last failed."""
        known = self._known.values()
        return {
            "accounts": len(self._accounts),
            "good": len(known),
            "nextRenewal": min((item.renewal for item in known), default=None),
            "firstExpiry": min((item.not_after for item in known), default=None),
            "failed": dict(self._failed),
        }

    def _maintain(self, failed: dict[str, str]) -> None:
        try:
            self._source.maintain()
        except (MeshsecError, OSError) as error:
            failed["authority"] = _words(error)

    def _refresh_accounts(self, failed: dict[str, str]) -> None:
        """The accounts as they are now; a list that cannot be read takes nobody's identity away."""
        try:
            self._accounts = tuple(self._ask_accounts())
        except (MeshsecError, OSError) as error:
            failed["accounts"] = _words(error)
        for spiffe_id in (self._known.keys() | self._pending.keys()) - set(self._accounts):
            self._known.pop(spiffe_id, None)
            self._pending.pop(spiffe_id, None)

    def _examine(self, failed: dict[str, str]) -> _Work:
        state = self._source.authority.state
        crl, revoked = self._revocations(failed)
        standard = Standard.of(state.signer, state.bundle, crl, revoked, grace=self._grace, jitter=self._jitter)
        if standard != self._standard:
            self._known.clear()
            self._standard = standard
        work = _Work(standard, self._clock(), failed)
        for spiffe_id in self._accounts:
            try:
                self._examine_one(spiffe_id, work)
            except (MeshsecError, OSError) as error:
                work.failed[str(spiffe_id)] = _words(error)
        return work

    def _revocations(self, failed: dict[str, str]) -> tuple[bytes, frozenset[str]]:
        """What is revoked now; lists that cannot be read must not keep anybody from being renewed."""
        try:
            return self._source.crl(), self._source.revoked_serials()
        except (MeshsecError, OSError) as error:
            failed["revocations"] = _words(error)
            return (self._standard.crl, self._standard.revoked) if self._standard else (b"", frozenset())

    def _examine_one(self, spiffe_id: SpiffeId, work: _Work) -> None:
        stamp = self._store.stamp(spiffe_id)
        known = self._known.get(spiffe_id)
        if known and known.serves(stamp, work.now):
            return
        self._known.pop(spiffe_id, None)
        try:
            stored = self._store.read(spiffe_id)
        except FileNotFoundError:
            work.issue[spiffe_id] = "it is missing"
            return
        except (MeshsecError, OSError) as error:
            work.issue[spiffe_id] = f"it cannot be read: {_words(error)}"
            return
        if flaw := work.standard.flaw(spiffe_id, stored.svid, work.now):
            work.issue[spiffe_id] = flaw
        elif stored != work.standard.complete(stored.svid):
            work.publish[spiffe_id] = stored.svid
        else:
            self._remember(spiffe_id, stored.svid, stamp)

    def _put_right(self, work: _Work) -> None:
        wanted = [*work.publish, *work.issue]
        if not wanted:
            return
        with ThreadPoolExecutor(min(WORKERS, len(wanted))) as writers:
            for start in range(0, len(wanted), CHUNK):
                chunk = wanted[start : start + CHUNK]
                svids = {item: work.publish[item] for item in chunk if item in work.publish}
                svids |= self._issue([item for item in chunk if item in work.issue], work)
                failures = writers.map(self._write, svids, svids.values(), repeat(work.standard))
                for spiffe_id, failure in zip(svids, failures, strict=True):
                    if failure:
                        work.failed[str(spiffe_id)] = failure
                    else:
                        work.stored.add(spiffe_id)
                self._progress(start + len(chunk), len(wanted))

    def _issue(self, wanted: list[SpiffeId], work: _Work) -> dict[SpiffeId, X509Svid]:
        """SVIDs for all of them, those that wait to be stored before new ones; durable in the record on return."""
        ready = {item: svid for item in wanted if (svid := self._waiting(item, work))}
        missing = [item for item in wanted if item not in ready]
        if missing:
            with self._source.batch() as authority:
                fresh = dict(self._issue_each(missing, authority, work))
            self._pending.update(fresh)
            ready |= fresh
        return ready

    def _issue_each(
        self, wanted: list[SpiffeId], authority: CertificateAuthority, work: _Work
    ) -> Iterator[tuple[SpiffeId, X509Svid]]:
        issue = partial(
            authority.issue_x509_svid, ttl=self._ttl, dns_names=self._dns_names, requester=REQUESTER, now=work.now
        )
        for spiffe_id in wanted:
            try:
                yield spiffe_id, issue(spiffe_id)
            except IssuanceError as error:
                work.failed[str(spiffe_id)] = _words(error)

    def _waiting(self, spiffe_id: SpiffeId, work: _Work) -> X509Svid | None:
        svid = self._pending.get(spiffe_id)
        return svid if svid and not work.standard.flaw(spiffe_id, svid, work.now) else None

    def _write(self, spiffe_id: SpiffeId, svid: X509Svid, standard: Standard) -> str | None:
        """Store one; what went wrong, or None."""
        try:
            self._store.write(spiffe_id, standard.complete(svid))
            stamp = self._store.stamp(spiffe_id)
        except (MeshsecError, OSError) as error:
            return _words(error)
        self._pending.pop(spiffe_id, None)
        self._remember(spiffe_id, svid, stamp)
        return None

    def _remember(self, spiffe_id: SpiffeId, svid: X509Svid, stamp: Hashable) -> None:
        renewal = self._standard.renewal(svid) if self._standard else 0.0
        self._known[spiffe_id] = _Known(stamp, svid.not_before, renewal, svid.not_after)

    def _report(self, failed: dict[str, str]) -> None:
        """Log what has changed: a fault that lasts is one line, not one for each sweep."""
        for name, reason in failed.items():
            if self._failed.get(name) != reason:
                _log.warning("%s: %s (what is stored keeps serving)", name or "sweep", reason)
        for name in self._failed.keys() - failed.keys():
            _log.info("%s: in order again", name or "sweep")
        self._failed = failed


class _InMemory:
    """An authority without a record or revocations."""

    def __init__(self, authority: CertificateAuthority) -> None:
        self.authority = authority

    @contextmanager
    def batch(self) -> Iterator[CertificateAuthority]:
        yield self.authority

    def revoked_serials(self) -> frozenset[str]:
        return frozenset()

    def crl(self) -> bytes:
        return b""

    def maintain(self) -> None:
        """Nothing is kept that could grow old."""


def _words(error: Exception) -> str:
    return f"{error.code}: {error}" if isinstance(error, MeshsecError) else str(error)
