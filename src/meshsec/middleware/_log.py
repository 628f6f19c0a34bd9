"""One line per refusal, on the logger ``meshsec.access``: nothing in it that could be forged or must be hidden."""

from __future__ import annotations

import logging
from typing import Final

from ..attributes import AuthContext, Connection, HttpRequest
from ..decision import Decision, Reason

__all__ = ["log_refusal"]

_log: Final = logging.getLogger("meshsec.access")
_LONGEST: Final = 200
_BY_RULES: Final = frozenset({Reason.DENY_RULE, Reason.NO_ALLOW_RULE})


def _quoted(text: str) -> str:
    """ASCII only, no control characters, bounded: a request cannot write a second line or a terminal sequence."""
    return ascii(text if len(text) <= _LONGEST else text[:_LONGEST] + "...")


def _why(decision: Decision) -> str:
    """The whole explanation; but at INFO no rule is asked why it does not match, of which there may be thousands."""
    if decision.reason in _BY_RULES and not _log.isEnabledFor(logging.DEBUG):
        return decision.message
    return " | ".join(decision.explain().splitlines())


def log_refusal(context: AuthContext, connection: Connection, request: HttpRequest) -> None:
    """Log why a request was refused, at INFO. The query is left out: it may hold a token."""
    if not _log.isEnabledFor(logging.INFO):
        return
    decision = context.decision
    peer = context.peer or connection.peer
    request_id = next((value for name, value in request.headers if name.lower() == "x-request-id"), "-")
    _log.info(
        "%d %s reason=%s policy=%s rule=%s peer=%s source=%s method=%s path=%s request_id=%s: %s",
        decision.status,
        decision.outcome.name,
        decision.reason,
        decision.policy or "-",
        "-" if decision.rule is None else decision.rule,
        peer.id if peer else "-",
        connection.source_ip or "-",
        _quoted(request.method),
        _quoted(request.target.partition("?")[0]),
        _quoted(request_id),
        _why(decision),
    )
