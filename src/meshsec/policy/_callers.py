"""Who calls, told apart from what is asked: a request of a known caller is judged by its line alone.

What is said here of a request is what judging all of it would say; where that cannot be told, all of it is to be
judged. Must not know: how callers are found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from ..attributes import Attributes, AuthContext, Connection, HttpRequest, RequestFacts
from ..authn import CompiledRequestAuthentication, KeySnapshot, TokenResult, is_preflight_head
from ..authz import CompiledAuthorization
from ..decision import Decision, Outcome
from ._authorize import authorize, edits_of
from ._decisions import by_verdict
from ._form import Form
from ._memo import Caller, DecisionMemo, Remembered, Standing, Wanted, find_token

__all__ = ["Callers"]


@dataclass(frozen=True, slots=True)
class Callers:
    """Gets to know callers, and judges what they ask for.

    Attributes:
        memo: where they are kept.
        form: how requests are read.
        tokens: RequestAuthentication.
        rules: AuthorizationPolicy.
    """

    memo: DecisionMemo
    form: Form
    tokens: CompiledRequestAuthentication
    rules: CompiledAuthorization

    def judge_line(self, wanted: Wanted, request: HttpRequest, now: float) -> Remembered | None:
        """Judge a request whose caller is known; remember what is allowed when it comes again.

        Args:
            wanted: the caller, and where the decision belongs.
            request: the head as it came from the wire; its header lines are not looked at, and need not be there.
            now: wall clock, POSIX seconds.

        Returns:
            What :meth:`WorkloadPolicy.judge` would say; None where it takes the whole request to say that.
        """
        caller = wanted.caller
        if wanted.memo is not self.memo or caller is None or not now < _end(caller.connection):
            return None
        return self._judge_plain(caller, wanted, request, now) or self._judge_any(caller, wanted, request, now)

    def _judge_plain(self, caller: Caller, wanted: Wanted, request: HttpRequest, now: float) -> Remembered | None:
        """What :meth:`_judge_any` says of a line that is nothing but a path, and is allowed; None of any other."""
        path = self.form.read_plain(request)
        standing = None if path is None else self._standing_in(caller, request.method, (path,), now)
        if path is None or standing is None:
            return None
        verdict = self.rules.evaluate_line(standing.known, request.method, path)
        if not verdict.allowed:
            return None
        details = partial(self.rules.explain_line, standing.known, request.method, path)
        decision = by_verdict(verdict, Outcome.ALLOW, "", details, standing.edits)
        decided = Remembered(decision, caller, standing, wanted.entries.era, None)
        wanted.add(decided)
        return decided

    def _judge_any(self, caller: Caller, wanted: Wanted, request: HttpRequest, now: float) -> Remembered | None:
        facts = self.form.read_line(caller.facts, request)
        if facts is None:
            return None
        if isinstance(facts, Decision):
            return Remembered(facts, caller, None, wanted.entries.era, None)
        if self.tokens.is_in_query(facts):
            return None
        standing = self._standing_in(caller, facts.method, facts.target.readings, now)
        if standing is None:
            return None
        decision = self._decide(caller, standing, request, facts)
        decided = Remembered(decision, caller, standing, wanted.entries.era, self.form.metadata_url)
        if decision.allowed:
            wanted.add(decided)
        return decided

    def _standing_in(self, caller: Caller, method: str, readings: Sequence[str], now: float) -> Standing | None:
        """What the caller's tokens come to where this is asked for; None where that is not known."""
        standing = caller.standings.get(self.tokens.situation(method, readings, preflight=caller.preflight))
        return None if standing is None or not standing.begins <= now < standing.until else standing

    def remember(
        self,
        wanted: Wanted,
        context: AuthContext,
        connection: Connection,
        request: HttpRequest,
        keys: KeySnapshot,
        now: float,
    ) -> None:
        """Remember who called, if that may be remembered of a request that was just let pass.

        The request is judged once more, of nothing but what its caller will be found by: where anything else had a
        part in the decision, nobody is remembered.

        Args:
            wanted: where it belongs.
            context: what :meth:`WorkloadPolicy.judge` said.
            connection: as it was judged.
            request: as it was judged.
            keys: the same snapshot.
            now: the same moment.
        """
        if wanted.memo is not self.memo or wanted.entries.keys is not keys or not context.decision.allowed:
            return
        if not request.target.startswith("/"):
            return  # it may name another host than the header lines, which are all that a caller is found by
        request = wanted.reduced(request)
        facts = self.form.read(request)
        if isinstance(facts, Decision):
            return
        standing = self._standing(connection, request, facts, keys, now)
        if standing is None:
            return
        known = facts.with_headers(standing.headers)
        caller = wanted.caller or Caller(connection, known, is_preflight_head(facts))
        situation = self.tokens.situation(facts.method, facts.target.readings, preflight=caller.preflight)
        # Whoever's decision something else had a part in is judged anew each time.
        decision = self._decide(caller, standing, request, known)
        if context == AuthContext(connection.peer, standing.token.principal, decision, None, self.form.metadata_url):
            caller.keep(situation, standing)
            wanted.meet(caller)

    def _standing(
        self, connection: Connection, request: HttpRequest, facts: RequestFacts, keys: KeySnapshot, now: float
    ) -> Standing | None:
        """What the tokens of a request come to, and how long; None where that may not be remembered."""
        window = self.tokens.window(facts, keys, now)
        token = None if window is None else self.tokens.authenticate(facts, keys, now=now, ask=False)
        if window is None or not isinstance(token, TokenResult) or token.error is not None:
            return None
        place = find_token(token.text, request.headers) if token.text else None
        if token.text and place is None:
            return None
        seen = (token.seen or facts).headers
        headers = MappingProxyType({name: lines for name, lines in seen.items() if name in self.rules.headers})
        kept = TokenResult(token.principal, None, token.remove_headers, token.add_headers)
        attributes = Attributes(connection, facts.with_headers(headers), facts.target.path, kept.principal)
        known, until = tuple(self.rules.read(attributes)), min(window[1], _end(connection))
        return Standing(kept, edits_of(kept), headers, known, place, window[0], until)

    def _decide(self, caller: Caller, standing: Standing, request: HttpRequest, facts: RequestFacts) -> Decision:
        """By the rules, of nothing but what is known."""
        token, connection = standing.token, caller.connection
        if facts.headers is not standing.headers:
            facts = facts.with_headers(standing.headers)
        return authorize(self.rules, connection, request, facts, token, edits=standing.edits)


def _end(connection: Connection) -> float:
    """When the peer's certificate does; POSIX seconds."""
    peer = connection.peer
    return math.inf if peer is None or peer.not_after is None else peer.not_after
