"""The facts about a connection and a request, as the adapters hand them in and as the application gets them back.

Frozen values, nothing else: no fact here is judged, and nothing here knows a policy or a server.
"""

from __future__ import annotations

import marshal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Self

from .._values import quick
from ..decision import Decision, Reason
from ..spiffe import SpiffeId

__all__ = ["AuthContext", "Connection", "HttpRequest", "PeerIdentity", "RequestPrincipal"]

# No references between equal objects: the same values give the same bytes, and different ones never do.
_PLAIN_MARSHAL: Final = 2
_NO_CLAIMS: Final[Mapping[str, Any]] = MappingProxyType({})


@quick
@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """Who is at the other end of a mutual TLS connection: Istio's ``source.principal``.

    Holding one says that its certificate was verified; build it yourself only in tests and explanations.

    Attributes:
        id: the SPIFFE ID of the verified X.509-SVID.
        certificate_sha256: SHA-256 of the leaf's DER (32 bytes), for certificate-bound tokens (RFC 8705).
        not_after: the end of the leaf's validity, POSIX seconds; None where there was no certificate.
    """

    id: SpiffeId
    certificate_sha256: bytes | None = None
    not_after: float | None = None

    @classmethod
    def of(cls, spiffe_id: str) -> Self:
        """An identity without a certificate, from text: for tests and explanations. Raises SpiffeIdError."""
        return cls(SpiffeId.parse(spiffe_id))


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """What the transport knows. None always means *not known*, never *anyone*.

    Attributes:
        source_ip: address of the directly connected peer, as text; never taken from a header.
        destination_ip: our own address on this connection.
        destination_port: the port this workload listens on.
        peer: the verified peer, or None on plaintext.
        sni: the TLS server name; None on plaintext or where none was sent.
        tls: whether the connection is TLS; None where that is not known.
        unix: whether it came over a unix socket, whose access rights say who can have sent it.
        remote_ip: the original client's address, where trusted proxies told it; None: the directly connected peer.
        rejected: why the evidence that this connection began with no longer holds; its requests are refused.
    """

    source_ip: str | None = None
    destination_ip: str | None = None
    destination_port: int | None = None
    peer: PeerIdentity | None = None
    sni: str | None = None
    tls: bool | None = None
    rejected: Reason | None = None
    unix: bool = False
    remote_ip: str | None = None
    _fingerprint: bytes | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def fingerprint(self) -> bytes:
        """All of it in bytes, made once: the same for two connections only if each of their facts is.

        Raises:
            ValueError: a fact is not of the type that is said above.
        """
        if self._fingerprint is None:
            object.__setattr__(self, "_fingerprint", marshal.dumps(self._facts(), _PLAIN_MARSHAL))
        return self._fingerprint or self.fingerprint

    def _facts(self) -> tuple[Any, ...]:
        peer, rejected = self.peer, self.rejected
        return (
            self.source_ip,
            self.destination_ip,
            self.destination_port,
            None if peer is None else (str(peer.id), peer.certificate_sha256, peer.not_after),
            self.sni,
            self.tls,
            None if rejected is None else rejected.value,
            self.unix,
            self.remote_ip,
        )


@quick
@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One HTTP request's head. All text is bytes decoded as latin-1.

    Attributes:
        method: as received; methods are case-sensitive (RFC 9110 section 9.1).
        target: the **raw** request target: path and query, still percent-encoded.
        host: the Host header or ``:authority``, port included if the client sent one; None where none came.
        headers: (name, value) lines in the order they came; names in any case; the Host line may be among them.
        scheme: ``http``, ``https``, ``ws`` or ``wss``: the connection's, not a header's.
        joined_headers: True where the server already joined repeated lines with a comma (WSGI).
        mount: the decoded prefix under which the application is mounted; a path that leaves it is refused.
    """

    method: str
    target: str = field(repr=False)
    host: str | None = None
    headers: Sequence[tuple[str, str]] = field(default=(), repr=False)
    scheme: str = "http"
    joined_headers: bool = False
    mount: str = ""

    def with_headers(self, headers: Sequence[tuple[str, str]]) -> HttpRequest:
        """The same with other header lines; quicker than ``dataclasses.replace``."""
        method, target, host, scheme = self.method, self.target, self.host, self.scheme
        return HttpRequest(method, target, host, headers, scheme, self.joined_headers, self.mount)


@quick
@dataclass(frozen=True, slots=True)
class RequestPrincipal:
    """The end user, from a verified JSON Web Token: Istio's ``request.auth.principal``.

    Attributes:
        issuer: the ``iss`` claim; empty where a rule allows none.
        subject: the ``sub`` claim; empty where the token has none.
        claims: every claim, read-only all the way down (mappings and tuples).
    """

    issuer: str
    subject: str
    claims: Mapping[str, Any] = field(default_factory=lambda: _NO_CLAIMS, repr=False)

    @property
    def name(self) -> str:
        """``iss/sub``, as Istio writes it."""
        return f"{self.issuer}/{self.subject}"


@quick
@dataclass(frozen=True, slots=True)
class AuthContext:
    """What the application finds in ``scope["meshsec"]`` or ``environ["meshsec"]``.

    Attributes:
        peer: the verified workload at the other end.
        principal: the end user.
        decision: what became of the request.
        token: the principal's token, which was verified, as it came; for calls on the user's behalf.
        metadata_url: where OAuth clients learn whose tokens are taken here (RFC 9728), for challenges of the
            application's own; None: nowhere.
    """

    peer: PeerIdentity | None
    principal: RequestPrincipal | None
    decision: Decision
    token: str | None = field(default=None, repr=False, compare=False)
    metadata_url: str | None = None
