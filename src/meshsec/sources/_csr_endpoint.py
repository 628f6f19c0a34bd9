"""An authority's endpoint as a function: method, path and body in, status and JSON out.

Whoever calls it authenticates the requester first and says who that is; nothing of this comes from the CSR. This file
must not know sockets, TLS or tokens.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from ..ca import AuthorityFolder
from ..errors import AuthenticationError, IssuanceError, MeshsecError
from ..spiffe import SpiffeId
from ._csr_wire import ISSUE, ROOTS, write_answer

__all__ = ["CsrAnswer", "CsrEndpoint", "Requester", "account_of"]

_log: Final = logging.getLogger("meshsec.ca")
# Whose fault it is; every other reason is the authority's own, and passes.
_STATUSES: Final = {
    "request_malformed": 400,
    "request_signature": 400,
    "key_unsupported": 400,
    "account_unknown": 403,
}
_ACCOUNT: Final = ("system", "serviceaccount")


@dataclass(frozen=True, slots=True)
class Requester:
    """Who asks, authenticated.

    Attributes:
        id: the only identity that will be issued.
        evidence: how that is known, for the record.
    """

    id: SpiffeId
    evidence: str


@dataclass(frozen=True, slots=True)
class CsrAnswer:
    """What goes back: JSON."""

    status: int
    body: bytes = field(repr=False)


class CsrEndpoint:
    """Issues to whoever was authenticated as an account that exists.

    Args:
        authority: signs, and records everything that it signs.
        accounts: the identities that may be issued, asked at every request.
        ttl: of what is issued, seconds.
    """

    def __init__(
        self, authority: AuthorityFolder, accounts: Callable[[], Collection[SpiffeId]], *, ttl: float
    ) -> None:
        self._authority = authority
        self._accounts = accounts
        self._ttl = ttl
        self._lock = threading.Lock()  # a folder's handle is for one thread

    def answer(self, method: str, path: str, body: bytes, authenticate: Callable[[], Requester]) -> CsrAnswer:
        """``POST /v1/svid`` with a CSR (PEM) issues, ``GET /v1/roots`` says whom to trust; raises nothing.

        Args:
            authenticate: says who asks, or raises AuthenticationError; only asked where it matters.
        """
        try:
            if (method, path) == ("GET", ROOTS):
                return CsrAnswer(200, self._roots())
            if (method, path) != ("POST", ISSUE):
                return _refused(404, "not_found", f"there are POST {ISSUE} and GET {ROOTS}")
            return CsrAnswer(200, self._issue(body, authenticate()))
        except AuthenticationError as error:
            _log.info("a request for a certificate is not authenticated: %s", error)
            return _refused(401, "unauthenticated", "the requester could not be authenticated")
        except (MeshsecError, OSError) as error:
            return _failed(error)

    def _roots(self) -> bytes:
        with self._lock:
            return write_answer(self._authority.authority.bundle.to_pem(), self._authority.crl())

    def _issue(self, request: bytes, requester: Requester) -> bytes:
        if requester.id not in self._accounts():
            raise IssuanceError(f"there is no account for {requester.id}", code="account_unknown")
        with self._lock:
            authority = self._authority.authority
            chain = authority.issue_from_csr(request, requester.id, ttl=self._ttl, requester=requester.evidence)
            crl = self._authority.crl()
        return write_answer(authority.bundle.to_pem(), crl, chain)


def account_of(subject: str, trust_domain: str) -> SpiffeId:
    """The identity of a token's ``sub``, ``system:serviceaccount:<namespace>:<name>``.

    Raises:
        AuthenticationError: it is another kind of subject.
    """
    parts = subject.split(":")
    try:
        if len(parts) == 4 and tuple(parts[:2]) == _ACCOUNT:
            return SpiffeId.for_service_account(trust_domain, parts[2], parts[3])
    except MeshsecError:
        pass
    raise AuthenticationError("the token is not a service account's", code="not_an_account")


def _failed(error: Exception) -> CsrAnswer:
    if isinstance(error, IssuanceError) and error.code in _STATUSES:
        _log.info("a request for a certificate is refused: %s", error)
        return _refused(_STATUSES[error.code], error.code, str(error))
    _log.warning("a request for a certificate failed: %s", error)
    return _refused(503, "unavailable", "the authority cannot issue at present")


def _refused(status: int, code: str, message: str) -> CsrAnswer:
    return CsrAnswer(status, json.dumps({"code": code, "message": message}).encode())
