"""From an authenticated request to its decision: every reading of its path is judged by the rules.

Must not know: how a token or a peer was verified.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from ..attributes import Attributes, Bound, Connection, HttpRequest, RequestFacts, RequestPrincipal
from ..authn import TokenResult
from ..authz import CompiledAuthorization, Verdict
from ..decision import NO_EDITS, Decision, Edits, Outcome
from ._decisions import by_verdict, strictest

__all__ = ["authorize", "edits_of"]

_DENIED: Final = "RBAC: access denied"


def authorize(
    rules: CompiledAuthorization,
    connection: Connection,
    request: HttpRequest,
    facts: RequestFacts,
    token: TokenResult,
    bound: Bound | None = None,
    *,
    edits: Edits | None = None,
) -> Decision:
    """Judge every reading of the path; the first refusal wins, so the strictest reading does.

    Args:
        edits: what :func:`edits_of` said of this token before.
    """
    verdict, attributes = _verdict(rules, connection, token.seen or facts, token.principal, bound)
    details: Callable[[], str] = partial(rules.explain, attributes)
    if not verdict.allowed:
        return by_verdict(verdict, Outcome.DENY, _DENIED, details)
    raw = facts.target.raw if token.query is None else _with_query(facts.target.path, token.query)
    edits = edits_of(token) if edits is None else edits
    if raw != request.target:
        edits = Edits(raw, edits.remove_headers, edits.add_headers)
    return by_verdict(verdict, Outcome.ALLOW, "", details, edits)


def edits_of(token: TokenResult) -> Edits:
    """What tokens change about a request, but for its target."""
    if not token.remove_headers and not token.add_headers:
        return NO_EDITS
    return Edits(None, token.remove_headers, token.add_headers)


def _verdict(
    rules: CompiledAuthorization,
    connection: Connection,
    facts: RequestFacts,
    principal: RequestPrincipal | None,
    bound: Bound | None,
) -> tuple[Verdict, Attributes]:
    readings = facts.target.readings
    if len(readings) == 1:
        attributes = Attributes(connection, facts, readings[0], principal, bound)
        return rules.evaluate(attributes), attributes
    found: list[tuple[Verdict, Attributes]] = []
    for path in readings:
        attributes = Attributes(connection, facts, path, principal, bound)
        found.append((rules.evaluate(attributes), attributes))
        if not found[-1][0].allowed:
            return found[-1]
    # Of several readings that all pass, the first is told, with what any of them was marked with.
    verdict, attributes = found[0]
    audited = dict.fromkeys(name for other, _ in found for name in other.audited)
    return replace(
        verdict, audited=tuple(audited), dry_run=strictest(other.dry_run for other, _ in found)
    ), attributes


def _with_query(path: str, query: str) -> str:
    return f"{path}?{query}" if query else path
