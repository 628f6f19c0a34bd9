"""What was decided, by whom, and what must be done about it.

A decision is a value: it holds no request, opens nothing and renders nothing. The adapters in
:mod:`meshsec.middleware` turn it into bytes. This module must not know how a decision is reached.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Final, Never

__all__ = ["NO_EDITS", "Decision", "Edits", "Outcome", "Reason"]


class Outcome(Enum):
    """The four ways a request can end here. ``status`` is the HTTP status that goes with each."""

    ALLOW = "allow"
    BAD_REQUEST = "bad_request"
    UNAUTHENTICATED = "unauthenticated"
    DENY = "deny"

    @property
    def status(self) -> int:
        """200 (the application's own status will replace it), 400, 401 or 403."""
        return _STATUS[self]


_STATUS: Final = {Outcome.ALLOW: 200, Outcome.BAD_REQUEST: 400, Outcome.UNAUTHENTICATED: 401, Outcome.DENY: 403}


class Reason(StrEnum):
    """Why; stable codes, part of the public API and listed in docs/reference/reasons.md."""

    # allowed
    ALLOW_RULE = "allow_rule"
    NO_ALLOW_POLICY = "no_allow_policy"
    # authorization
    DENY_RULE = "deny_rule"
    NO_ALLOW_RULE = "no_allow_rule"
    # the peer
    PEER_REQUIRED = "peer_required"
    PEER_EXPIRED = "peer_expired"
    PEER_DISTRUSTED = "peer_distrusted"
    TLS_NOT_EXPECTED = "tls_not_expected"
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
    KEYS_UNAVAILABLE = "keys_unavailable"
    # ourselves
    INTERNAL_ERROR = "internal_error"


@dataclass(frozen=True, slots=True)
class Edits:
    """What the adapter changes, computed by the core so that every adapter changes the same.

    Attributes:
        target: the request target (path and query, latin-1 text) the application must see; None leaves it alone.
        remove_headers: lower-case names; every line of each is removed from the request before anything is added.
        add_headers: name and value pairs added to the request.
        response_headers: name and value pairs added to a refusal.
    """

    target: str | None = None
    remove_headers: tuple[str, ...] = ()
    add_headers: tuple[tuple[str, str], ...] = ()
    response_headers: tuple[tuple[str, str], ...] = ()


NO_EDITS: Final = Edits()


def _nothing_more() -> str:
    return ""


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
    """

    outcome: Outcome
    reason: Reason
    message: str = ""
    policy: str | None = None
    rule: int | None = None
    status: int = 0
    edits: Edits = NO_EDITS
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
