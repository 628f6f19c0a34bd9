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
from ..decision import Decision, Edits, Outcome
from ._decisions import by_verdict, strictest

__all__ = ["authorize"]

_DENIED: Final = "RBAC: access denied"


def authorize(
    rules: CompiledAuthorization,
    connection: Connection,
    request: HttpRequest,
    facts: RequestFacts,
    token: TokenResult,
    bound: Bound | None = None,
) -> Decision:
    """Judge every reading of the path; the first refusal wins, so the strictest reading does."""
    verdict, attributes = _verdict(rules, connection, token.seen or facts, token.principal, bound)
    details: Callable[[], str] = partial(rules.explain, attributes)
    if not verdict.allowed:
        return by_verdict(verdict, Outcome.DENY, _DENIED, details)
    raw = facts.target.raw if token.query is None else _with_query(facts.target.path, token.query)
    if raw == request.target and not token.remove_headers and not token.add_headers:
        return by_verdict(verdict, Outcome.ALLOW, "", details)
    edits = Edits(None if raw == request.target else raw, token.remove_headers, token.add_headers)
    return by_verdict(verdict, Outcome.ALLOW, "", details, edits)


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
