"""What was decided, by whom, and what must be done about it.

A decision is a value: it holds no request, opens nothing and renders nothing. The adapters in
:mod:`meshsec.middleware` turn it into bytes. This module must not know how a decision is reached.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Final, Never, Self

from ._values import quick

__all__ = ["NO_EDITS", "Decision", "DryRun", "Edits", "Outcome", "Reason"]


class Outcome(Enum):
    """The ways a request can end here. ``status`` is the HTTP status that goes with each."""

    status: int

    ALLOW = "allow", 200  # the application's own status will replace it
    BAD_REQUEST = "bad_request", 400
    UNAUTHENTICATED = "unauthenticated", 401
    DENY = "deny", 403
    ANSWER = "answer", 200  # the mesh answers by itself; the application is not asked

    def __new__(cls, value: str, status: int) -> Self:
        member = object.__new__(cls)
        member._value_ = value
        member.status = status
        return member


class Reason(StrEnum):
    """Why; stable codes, part of the public API and listed in docs/reference/reasons.md."""

    # allowed
    ALLOW_RULE = "allow_rule"
    NO_ALLOW_POLICY = "no_allow_policy"
    # answered here
    RESOURCE_METADATA = "resource_metadata"
    # authorization
    DENY_RULE = "deny_rule"
    NO_ALLOW_RULE = "no_allow_rule"
    CHECK_DENIED = "check_denied"
    CHECK_FAILED = "check_failed"
    # the peer
    PEER_REQUIRED = "peer_required"
    PEER_EXPIRED = "peer_expired"
    PEER_DISTRUSTED = "peer_distrusted"
    FORWARDED_INVALID = "forwarded_invalid"
    TLS_NOT_EXPECTED = "tls_not_expected"
    PORT_UNKNOWN = "port_unknown"
    # the request's form
    TARGET_MALFORMED = "target_malformed"
    TARGET_CONTROL_CHARACTER = "target_control_character"
    TARGET_AMBIGUOUS = "target_ambiguous"
    TARGET_OUTSIDE_MOUNT = "target_outside_mount"
    HOST_MISSING = "host_missing"
    HOST_INVALID = "host_invalid"
    METHOD_INVALID = "method_invalid"
    HEADER_INVALID = "header_invalid"
    AUTHORIZATION_REPEATED = "authorization_repeated"
    # the token
    JWT_MISSING = "jwt_missing"
    JWT_MALFORMED = "jwt_malformed"
    JWT_TOO_LARGE = "jwt_too_large"
    JWT_ALGORITHM = "jwt_algorithm"
    JWT_CRITICAL_HEADER = "jwt_critical_header"
    JWT_CLAIM_TYPE = "jwt_claim_type"
    JWT_ISSUER = "jwt_issuer"
    JWT_NOT_YET_VALID = "jwt_not_yet_valid"
    JWT_EXPIRED = "jwt_expired"
    JWT_NO_EXPIRY = "jwt_no_expiry"
    JWT_AUDIENCE = "jwt_audience"
    JWT_UNKNOWN_KEY = "jwt_unknown_key"
    JWT_SIGNATURE = "jwt_signature"
    JWT_SEVERAL = "jwt_several"
    JWT_BOUND = "jwt_bound"
    ORIGIN_REQUIRED = "origin_required"
    KEYS_UNAVAILABLE = "keys_unavailable"
    # ourselves
    INTERNAL_ERROR = "internal_error"


@quick
@dataclass(frozen=True, slots=True)
class Edits:
    """What the adapter changes, computed by the core so that every adapter changes the same.

    Attributes:
        target: the request target (path and query, latin-1 text) the application must see; None leaves it alone.
        remove_headers: lower-case names; every line of each is removed from the request before anything is added.
        add_headers: name and value pairs added to the request.
        response_headers: name and value pairs added to the response.
        body: of what is answered here: a document, or an external authorizer's words in place of the message and its
            ``text/plain``.
    """

    target: str | None = field(default=None, repr=False)
    remove_headers: tuple[str, ...] = ()
    add_headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    response_headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes | None = field(default=None, repr=False)


NO_EDITS: Final = Edits()


_PASSING: Final = frozenset({Reason.ALLOW_RULE, Reason.NO_ALLOW_POLICY})


@dataclass(frozen=True, slots=True)
class DryRun:
    """What policies on trial (``istio.io/dry-run``) say of a request, on which they have no effect.

    Attributes:
        reason: DENY_RULE: a DENY policy on trial matches; ALLOW_RULE or NO_ALLOW_RULE: what the ALLOW policies on
            trial, alone, would say.
        policy: ``namespace/name`` of the first whose rule matches, if one does.
        rule: the rule's index in it.
    """

    reason: Reason
    policy: str | None = None
    rule: int | None = None

    @property
    def allowed(self) -> bool:
        """Whether they would let the request pass."""
        return self.reason in _PASSING


def _nothing_more() -> str:
    return ""


@quick
@dataclass(frozen=True, slots=True)
class Decision:
    """One request's verdict.

    Attributes:
        outcome: what happens to the request.
        reason: why, as a stable code.
        message: the text of the response's body, as Istio's proxy words it.
        policy: ``namespace/name`` of the AuthorizationPolicy that decided, where one did.
        rule: the index of the rule in that policy, counted from 0.
        status: the HTTP status; by default the outcome's.
        edits: what the adapter must change in the request or add to the response.
        audited: the AUDIT policies that match, as ``namespace/name``. Empty where the request came to no policy.
        dry_run: what policies on trial would have done: at most one entry for DENY and one for ALLOW.
    """

    outcome: Outcome
    reason: Reason
    message: str = ""
    policy: str | None = None
    rule: int | None = None
    status: int = 0
    edits: Edits = NO_EDITS
    audited: tuple[str, ...] = ()
    dry_run: tuple[DryRun, ...] = ()
    _details: Callable[[], str] = field(default=_nothing_more, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.status:
            object.__setattr__(self, "status", self.outcome.status)

    @property
    def allowed(self) -> bool:
        """True for exactly one outcome, ALLOW."""
        return self.outcome is Outcome.ALLOW

    def __bool__(self) -> Never:
        """Refuse: ``if decision`` would be true for a refusal; ask ``decision.allowed``."""
        raise TypeError("a Decision has no truth value: ask decision.allowed")

    def explain(self) -> str:
        """Say in plain words what was decided and why; the first line is the summary. Computed when asked for."""
        rule = "" if self.rule is None else f" rule {self.rule}"
        by = "" if self.policy is None else f" by {self.policy}{rule}"
        summary = f"{self.status} {self.outcome.name} ({self.reason}){by}"
        details = self._details()
        return f"{summary}: {details}" if details else summary
