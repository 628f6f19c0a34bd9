"""One token, found somewhere, against the rules that may accept it; and whether other keys may change the verdict.

This file must not know requests, nor how many tokens there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .._values import quick
from ..decision import Reason
from ..errors import TokenError
from ._keys import KeySnapshot, KeySource, Refused
from ._locate import Location
from ._rule import Rule
from ._token import UnverifiedToken, VerifiedToken, read_token

__all__ = ["Accepted", "judge", "judge_text", "missing"]


@quick
@dataclass(frozen=True, slots=True)
class Accepted:
    """A token that held against one of the rules that see it."""

    rule: Rule
    location: Location
    token: VerifiedToken
    text: str = field(repr=False)


def judge_text(
    text: str, location: Location, rules: Sequence[Rule], snapshot: KeySnapshot, now: float
) -> Accepted | Refused:
    """A token as it stands in a request, against the rules that read this place; those it held for are cached."""
    for rule in rules:
        cache = rule.state(snapshot).cache
        if cache is not None:
            known = cache.find(text, rule.profile, now)
            # Only the first of the rules for a token is ever remembered, and whose turn it is depends on the path.
            if known and (
                len(rules) == 1 or rule is _responsible(rules, known.principal.issuer, known.principal.subject)[0]
            ):
                return Accepted(rule, location, known, text)
    try:
        token = read_token(text)
    except TokenError as error:
        return Refused(error)
    responsible = _responsible(rules, token.unverified_issuer, token.unverified_subject)
    found = judge(token, location, responsible, snapshot, now)
    if isinstance(found, Accepted) and found.rule is responsible[0]:
        cache = found.rule.state(snapshot).cache
        if cache is not None:
            cache.add(text, found.rule.profile, found.token)
    return found


def _responsible(rules: Sequence[Rule], issuer: str | None, subject: str) -> Sequence[Rule]:
    """The rules for an issuer; those that require a token here come alone, where there are any."""
    if len(rules) == 1:  # the usual number
        return rules if rules[0].profile.is_for(issuer, subject) else ()
    mine = [rule for rule in rules if rule.profile.is_for(issuer, subject)]
    if len(mine) < 2:
        return mine
    return [rule for rule in mine if rule.trigger] or mine


def judge(
    token: UnverifiedToken, location: Location, rules: Sequence[Rule], snapshot: KeySnapshot, now: float
) -> Accepted | Refused:
    """The first rule that accepts the token, as in Istio; of several refusals the last is told."""
    error: TokenError | None = None
    askable: list[KeySource] = []
    for rule in rules:
        state = rule.state(snapshot)
        try:
            if state.keys is None:
                raise TokenError("Jwks remote fetch is failed", code=Reason.KEYS_UNAVAILABLE)
            return Accepted(rule, location, token.verify(rule.profile, state.keys, now), token.text)
        except TokenError as refusal:
            error = refusal
            if state.fetchable and rule.source and _is_about_keys(refusal, token):
                askable.append(rule.source)
    error = error or TokenError("Jwt issuer is not configured", code=Reason.JWT_ISSUER)
    return Refused(error, tuple(askable), token.unverified_kid)


def missing() -> TokenError:
    """No token where one must be."""
    return TokenError("Jwt is missing", code=Reason.JWT_MISSING)


def _is_about_keys(error: TokenError, token: UnverifiedToken) -> bool:
    """Whether other keys may change the verdict: a token that names no key may be signed by one we have not seen."""
    if error.code == Reason.JWT_SIGNATURE:
        return not token.unverified_kid
    return error.code in (Reason.KEYS_UNAVAILABLE, Reason.JWT_UNKNOWN_KEY)
