"""What is said of a request, once it is known what becomes of it. Must not know: how that is found out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from ..attributes import Refusal, RequestFacts
from ..authn import LegacyRefusal
from ..authz import Verdict
from ..decision import NO_EDITS, Decision, DryRun, Edits, Outcome, Reason
from ..errors import TokenError
from ._metadata import ResourceMetadata

__all__ = [
    "bad_request",
    "by_verdict",
    "legacy_refusal",
    "peer_refusal",
    "strictest",
    "token_refusal",
]

_CLOSE: Final = Edits(response_headers=(("connection", "close"),))
_PEER_FAILED: Final = "Peer authentication failed."
_REALM_PATH: Final = 256  # characters of the path that a challenge repeats, as Istio's proxy does


def strictest(trials: Iterable[tuple[DryRun, ...]]) -> tuple[DryRun, ...]:
    """One entry for DENY and one for ALLOW, as far as there are any: a refusal before an admission."""
    found = sorted((trial for entries in trials for trial in entries), key=lambda trial: trial.allowed)
    by_action = {trial.reason is Reason.DENY_RULE: trial for trial in reversed(found)}
    return tuple(by_action[key] for key in (True, False) if key in by_action)


def by_verdict(
    verdict: Verdict, outcome: Outcome, message: str, details: Callable[[], str], edits: Edits = NO_EDITS
) -> Decision:
    # By position, which is quicker: this is on the way of every request.
    return Decision(
        outcome,
        verdict.reason,
        message,
        verdict.policy,
        verdict.rule,
        outcome.status,
        edits,
        verdict.audited,
        verdict.dry_run,
        details,
    )


def bad_request(refusal: Refusal) -> Decision:
    return Decision(
        Outcome.BAD_REQUEST, refusal.reason, "Bad Request", edits=_CLOSE, _details=lambda: refusal.message
    )


def peer_refusal(reason: Reason, why: str) -> Decision:
    return Decision(Outcome.UNAUTHENTICATED, reason, _PEER_FAILED, edits=_CLOSE, _details=lambda: why)


def legacy_refusal(refusal: LegacyRefusal, facts: RequestFacts, metadata: ResourceMetadata | None) -> Decision:
    """401 as Istio 1.4 answered, which knew no challenge: one only where it says whose token is wanted."""
    edits = NO_EDITS if metadata is None or refusal.is_of_peer else _challenge(refusal.reason, facts, metadata)
    return Decision(
        Outcome.UNAUTHENTICATED, refusal.reason, refusal.message, edits=edits, _details=lambda: refusal.why
    )


def token_refusal(error: TokenError, facts: RequestFacts, metadata: ResourceMetadata | None) -> Decision:
    """401 with a challenge; a wrong audience is 403, as in Istio."""
    reason = Reason(error.code)
    outcome = Outcome.DENY if reason is Reason.JWT_AUDIENCE else Outcome.UNAUTHENTICATED
    message = str(error)
    return Decision(outcome, reason, message, edits=_challenge(reason, facts, metadata), _details=lambda: message)


def _challenge(reason: Reason, facts: RequestFacts, metadata: ResourceMetadata | None) -> Edits:
    """RFC 6750 section 3, RFC 9728 section 5.1."""
    # The query stays out of the realm: it may hold the token.
    path = facts.target.path[:_REALM_PATH].replace("\\", "%5C").replace('"', "%22")
    challenge = f'Bearer realm="{facts.scheme}://{facts.host or ""}{path}"'
    if reason not in (Reason.JWT_MISSING, Reason.ORIGIN_REQUIRED):
        challenge += ', error="invalid_token"'
    if metadata is not None:
        challenge += f', resource_metadata="{metadata.url}"'
    return Edits(response_headers=(("www-authenticate", challenge),))
