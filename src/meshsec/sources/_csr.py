"""An identity that an authority elsewhere signs: the key is made here and never leaves.

The first certificate is had by a token; the next ones by the present certificate, where the authority listens for
that. This file must not know how the authority decides.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from ..ca import new_request, renewal_time
from ..errors import IssuanceError, KeysUnavailableError, MeshsecError, SvidError
from ..spiffe import SpiffeId, X509BundleSet, X509Svid, verify_x509_svid
from ..tls import StaticMaterial, authorize_id, client_context
from ._csr_wire import ISSUE, ROOTS, Trusted, endpoint_id, read_answer, read_chain
from ._fetch import PLAIN_GET, Asking, fetch
from ._identity import Identity
from ._issuer import read_token

__all__ = ["CsrIdentity", "CsrServer"]

GRACE: Final = 0.5  # Istio's share of a life that is left when it is renewed, and its jitter
JITTER: Final = 0.01
REFRESH: Final = 300.0  # a rotation waits 15 minutes for readers of the bundle: three times this
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
_CODE: Final = re.compile(r"[a-z_]{1,40}")

_log: Final = logging.getLogger("meshsec.identity")


@dataclass(frozen=True, slots=True, kw_only=True)
class CsrServer:
    """Where the authority is, and what it is asked with.

    Attributes:
        url: takes tokens; https, without a path, nor a slash at its end.
        token_file: holds the service account's token; read anew each time.
        root_cert: a PEM file with the authorities that vouch for ``url``'s host name; None: the system's.
        renewal: takes present certificates; None: everything is had by token.
        timeout: of one request, seconds.
    """

    url: str
    token_file: Path
    root_cert: Path | None = None
    renewal: str | None = None
    timeout: float = 5.0


class CsrIdentity:
    """An identity source that asks an authority's endpoint (``meshsec ca run --listen-token``).

    A failure is raised again until the next attempt is due, with longer and longer pauses; the keeper of the identity
    goes on with the last good one meanwhile.

    Args:
        server: where to ask.
        spiffe_id: the identity that is expected; any other answer is refused.
        clock: seconds that only grow.
    """

    def __init__(
        self, server: CsrServer, spiffe_id: SpiffeId, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._server = server
        self._id = spiffe_id
        self._clock = clock
        self._held: Identity | None = None
        self._failure: Exception | None = None
        self._failures = 0
        self._earliest = -math.inf  # nothing is asked before
        self._look = -math.inf  # whom to trust is asked then at the latest

    @property
    def origin(self) -> str:
        return self._server.url

    def read(self, now: float) -> Identity:
        """The present identity, renewed if it is time. Raises MeshsecError or OSError."""
        if self._clock() < self._earliest and self._failure:
            raise self._failure.with_traceback(None)
        if self._held and not self._failure and not self._must_ask(self._held, now):
            return self._held
        try:
            self._held = self._renewed(self._held, now)
        except (MeshsecError, OSError) as error:
            self._failure = error
            self._earliest = self._clock() + min(FIRST_PAUSE * 2**self._failures, LONGEST_PAUSE)
            self._failures = min(self._failures + 1, 16)
            raise
        self._failure, self._failures = None, 0
        self._look = self._clock() + REFRESH
        # A clock that is half a life ahead finds each new certificate due at once.
        self._earliest = self._clock() + min(LONGEST_PAUSE, (self._held.svid.not_after - now) / 10)
        return self._held

    def _must_ask(self, held: Identity, now: float) -> bool:
        moment = self._clock()
        return moment >= self._earliest and (moment >= self._look or _is_due(held, now))

    def _renewed(self, held: Identity | None, now: float) -> Identity:
        """Whom to trust now, with the certificate that is held or, if it is time, a new one."""
        if held is None or _is_due(held, now):
            return self._issued(held, now)
        source = self._server.url + ROOTS
        trusted = self._trusted(_ask(source, self._server.timeout, self._plainly()), source)
        kept = Identity(held.svid, trusted.bundle, trusted.revoked)
        return kept if _holds(kept, now) else self._issued(kept, now)

    def _issued(self, held: Identity | None, now: float) -> Identity:
        if self._server.renewal and held and _holds(held, now):
            try:
                return self._signed(self._server.renewal + ISSUE, _as_ourselves(held, self._server.renewal), now)
            except (MeshsecError, OSError) as error:
                _log.info("%s: %s; the token will have to do", self._server.renewal, error)
        token = ("authorization", f"Bearer {read_token(str(self._server.token_file))}")
        plainly = self._plainly()
        return self._signed(self._server.url + ISSUE, replace(plainly, headers=(*plainly.headers, token)), now)

    def _signed(self, source: str, asking: Asking, now: float) -> Identity:
        """Have a fresh key signed. Raises SvidError for an answer that is not what was asked for."""
        request, key = new_request()
        headers = (*asking.headers, ("content-type", "application/x-pem-file"))
        answer = _ask(source, self._server.timeout, replace(asking, method="POST", headers=headers, body=request))
        trusted = self._trusted(answer, source)
        identity = Identity(X509Svid(read_chain(answer, source), key), trusted.bundle, trusted.revoked)
        if identity.svid.id != self._id:
            found = f"{source} issued {identity.svid.id}"
            raise SvidError(f"{found}, this workload is {self._id}: whose token is it?", code="wrong_identity")
        verify_x509_svid(identity.svid.chain, trusted.bundle, now=now, role="client")
        return identity

    def _trusted(self, answer: dict[str, Any], source: str) -> Trusted:
        return Trusted.of(self._id.trust_domain, answer, source)

    def _plainly(self) -> Asking:
        """With the host's name checked: against the file's authorities and those that were learned since."""
        if self._server.root_cert is None:
            return PLAIN_GET
        learned = self._held.bundle.to_pem() if self._held else b""
        try:
            return replace(PLAIN_GET, ca_data=(self._server.root_cert.read_bytes() + b"\n" + learned).decode("ascii"))
        except (OSError, ValueError) as error:
            reason = f"no authorities can be read from {self._server.root_cert}: {type(error).__name__}"
            raise KeysUnavailableError(reason) from None


def _as_ourselves(held: Identity, url: str) -> Asking:
    """Mutual TLS: the present certificate, shown to nobody but the authority."""
    material = StaticMaterial(held.svid, X509BundleSet([held.bundle]))
    material.replace(revoked=held.revoked)
    context = client_context(material, authorize=authorize_id(endpoint_id(held.svid.id.trust_domain)))
    return replace(PLAIN_GET, context=context, server_hostname=urlsplit(url).hostname)


def _is_due(identity: Identity, now: float) -> bool:
    """Time to renew, or nobody who trusts what we trust would believe it."""
    return now >= renewal_time(identity.svid, grace=GRACE, jitter=JITTER) or not _holds(identity, now)


def _holds(identity: Identity, now: float) -> bool:
    try:
        identity.check(now)
    except SvidError:
        return False
    return True


def _ask(source: str, timeout: float, asking: Asking) -> dict[str, Any]:
    """Raises IssuanceError where the authority refuses, with its own word for it; KeysUnavailableError."""
    try:
        result = fetch(source, timeout=timeout, asking=asking)
    except RuntimeError as error:  # as many threads as there may be, and one has to keep the time
        raise KeysUnavailableError(f"{source} cannot be asked: {error}") from None
    if result.status == 200:
        return read_answer(result.body, source)
    try:
        code = str(read_answer(result.body, source).get("code"))
    except SvidError:
        code = ""
    word = f" {code}" if _CODE.fullmatch(code) else ""
    raise IssuanceError(f"{source} refused: status {result.status}{word}", code="csr_refused")
