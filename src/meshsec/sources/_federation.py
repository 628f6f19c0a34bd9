"""The bundles of foreign trust domains, kept fresh: from files, from bundle endpoints, from our own Workload API.

SPIFFE Federation, sections 4 to 6: an endpoint is asked as often as its bundle says, and after a failure not sooner;
an older bundle never replaces a newer one; each counts for its own trust domain and is merged with nobody's. Must not
know: how an identity is had, requests.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom
from threading import Thread
from typing import Any, Final, Protocol

from ..errors import ConfigError, MeshsecError
from ..jose import KeySet
from ..resources import TrustBundle
from ..spiffe import BundleDocument, TrustDomain, X509Bundle, read_bundle
from ._bundle_endpoint import TIMEOUT, fetch_bundle
from ._identity import Identity

__all__ = ["Federation"]

SOONEST: Final = 10.0  # whatever a hint says
LATEST: Final = 86_400.0
DEFAULT_REFRESH: Final = 300

_log: Final = logging.getLogger("meshsec.identity")
_random: Final = SystemRandom()

_Known = Mapping[TrustDomain, X509Bundle]
_Clock = Callable[[], float]


class _Origin(Protocol):
    """One foreign trust domain's bundle."""

    def look(self, identity: Identity, known: _Known) -> X509Bundle | None:
        """The bundle now; never waits, and raises nothing. ``known``: everybody's at the last look."""
        ...

    def status(self) -> dict[str, Any]: ...


class Federation:
    """All of ``trustBundles``.

    Args:
        relations: foreign trust domain to where its bundle comes from.
        clock: seconds that only grow.

    Raises:
        ConfigError: a file cannot be used.
    """

    def __init__(self, relations: Mapping[str, TrustBundle | str], *, clock: _Clock = time.monotonic) -> None:
        self._origins: dict[TrustDomain, _Origin] = {
            TrustDomain(name): _origin(TrustDomain(name), TrustBundle.of(relation), clock)
            for name, relation in relations.items()
        }
        self._known: dict[TrustDomain, X509Bundle] = {}
        self._ignored: frozenset[TrustDomain] = frozenset()

    def look(self, identity: Identity) -> tuple[X509Bundle, ...]:
        """The foreign bundles as they are now. Begins to fetch what is due; waits for nothing and raises nothing."""
        before = {**self._known, identity.bundle.trust_domain: identity.bundle}
        found = {domain: origin.look(identity, before) for domain, origin in self._origins.items()}
        self._known = {domain: bundle for domain, bundle in found.items() if bundle is not None}
        self._mention({bundle.trust_domain for bundle in identity.federated} - self._origins.keys())
        return tuple(self._known.values())

    def status(self) -> list[dict[str, Any]]:
        """Each trust domain: where its bundle comes from, how old it is, what last failed."""
        return [{"trust_domain": str(domain), **origin.status()} for domain, origin in self._origins.items()]

    def _mention(self, ignored: set[TrustDomain]) -> None:
        if ignored != self._ignored:
            self._ignored = frozenset(ignored)
            for domain in sorted(ignored):
                _log.info("the federated bundle of %s does not count: trustBundles does not name it", domain)


def _origin(domain: TrustDomain, relation: TrustBundle, clock: _Clock) -> _Origin:
    if relation.workload_api:
        return _Agent(domain)
    if relation.endpoint:
        return _Endpoint(domain, relation, clock, _read_file(domain, relation.bundle) if relation.bundle else None)
    return _File(domain, relation.bundle or "")


def _read_file(domain: TrustDomain, path: str) -> BundleDocument:
    """Raises ConfigError."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"the bundle of {domain} cannot be read: {error}", code="bundle_invalid") from None
    return _parse(domain, data, path)


def _parse(domain: TrustDomain, data: bytes, path: str) -> BundleDocument:
    if data.lstrip().startswith(b"{"):
        return read_bundle(domain, data)
    return BundleDocument(X509Bundle.from_pem(domain, data, source=path), KeySet(()), None, DEFAULT_REFRESH)


@dataclass(slots=True, eq=False)
class _Agent:
    domain: TrustDomain
    found: bool = False

    def look(self, identity: Identity, known: _Known) -> X509Bundle | None:  # noqa: ARG002
        given = next((bundle for bundle in identity.federated if bundle.trust_domain == self.domain), None)
        self.found = given is not None
        return given

    def status(self) -> dict[str, Any]:
        failure = None if self.found else "our identity's source gives no bundle of it"
        return {"origin": "workload API", "age": None, "failure": failure}


class _File:
    """Looked at anew each time; a bad one never replaces a good one.

    What has changed counts when it is found the same a second time: until then somebody may still be writing, and the
    first half of several authorities is a bundle, too.
    """

    def __init__(self, domain: TrustDomain, path: str) -> None:
        self._domain = domain
        self._path = path
        self._bundle = _read_file(domain, path).x509
        self._seen: bytes | None = None
        self._data: bytes | None = None
        self._failure: str | None = None

    def look(self, identity: Identity, known: _Known) -> X509Bundle | None:  # noqa: ARG002
        try:
            data = Path(self._path).read_bytes()
            seen, self._seen = self._seen, data
            if data == seen and data != self._data:
                self._bundle, self._data = _parse(self._domain, data, self._path).x509, data
            if data == self._data:
                self._failure = None
        except (OSError, MeshsecError) as error:
            self._failure = _tell(self._domain, str(error), self._failure)
        return self._bundle

    def status(self) -> dict[str, Any]:
        return {"origin": self._path, "age": None, "failure": self._failure}


@dataclass(slots=True, eq=False)
class _Endpoint:
    """Asked in a thread for each fetch, so that none has to survive a fork."""

    domain: TrustDomain
    relation: TrustBundle
    clock: _Clock
    document: BundleDocument | None
    fetched_at: float | None = None
    due_at: float = -math.inf
    failure: str | None = None
    process: int = field(default_factory=os.getpid)

    def look(self, identity: Identity, known: _Known) -> X509Bundle | None:  # noqa: ARG002
        moment = self.clock()
        forked, self.process = self.process != os.getpid(), os.getpid()
        if moment >= self.due_at or (forked and self.fetched_at is None):  # whose first fetch stayed with the parent
            self._begin(moment, self._voucher(known))
        return self.document.x509 if self.document else None

    def _begin(self, moment: float, voucher: X509Bundle | None) -> None:
        server = self.relation.spiffe_id
        if server and voucher is None:
            self.failure = _tell(self.domain, f"nothing is known yet that vouches for {server}", self.failure)
            return
        # Whatever comes of it, the next one is due an interval later; a fetch never lasts that long.
        self.due_at = moment + self._interval()
        try:
            Thread(target=self.refresh, args=(voucher,), name="meshsec-bundle", daemon=True).start()
        except RuntimeError as error:  # as many threads as there may be
            self.failure = _tell(self.domain, str(error), self.failure)

    def refresh(self, voucher: X509Bundle | None) -> None:
        """Fetch once. Raises nothing."""
        try:
            self._take(fetch_bundle(self.domain, self.relation, voucher))
        except MeshsecError as error:
            self.failure = _tell(self.domain, str(error), self.failure)
        except Exception:  # noqa: BLE001 - whatever it was, it is a failed fetch and not the end of the relation
            _log.exception("fetching the bundle of %s broke", self.domain)
            self.failure = "unexpected error"

    def status(self) -> dict[str, Any]:
        age = None if self.fetched_at is None else self.clock() - self.fetched_at
        return {"origin": self.relation.endpoint, "age": age, "failure": self.failure}

    def _voucher(self, known: _Known) -> X509Bundle | None:
        """Whose authorities vouch for the server: always the latest ones of the trust domain that it is in."""
        if self.relation.spiffe_id is None:
            return None
        server = TrustDomain(self.relation.spiffe_id.split("/")[2])
        if server == self.domain:
            return self.document.x509 if self.document else None
        return known.get(server)

    def _take(self, fetched: BundleDocument) -> None:
        held = self.document
        if held and held.sequence is not None and fetched.sequence is not None and fetched.sequence < held.sequence:
            older = f"its endpoint has number {fetched.sequence}, older than {held.sequence}"
            self.failure = _tell(self.domain, older, self.failure)
            return
        if self.failure:
            _log.info("the bundle of %s can be had again", self.domain)
        self.document, self.failure, self.fetched_at = fetched, None, self.clock()
        self.due_at = self.fetched_at + self._interval()

    def _interval(self) -> float:
        hint = self.document.refresh_hint if self.document else DEFAULT_REFRESH
        return max(min(max(hint, SOONEST), LATEST) * _random.uniform(0.9, 1.0), TIMEOUT)


def _tell(domain: TrustDomain, reason: str, last: str | None) -> str:
    """Each reason is logged once, as long as it lasts."""
    if reason != last:
        _log.warning("the bundle of %s: %s (what was known goes on)", domain, reason)
    return reason
