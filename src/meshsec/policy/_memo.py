"""Callers and decisions of a moment ago, so that the next request like theirs need not be judged again.

A *caller* is all that the connection and the header lines say: the same facts of the connection, the same header
names in the same order, and the same values of those headers that say the host, hold a token or that a rule looks at.
The other values are only looked through for control characters, so that a new ``x-request-id`` with every request
does no harm. Of a caller who is known, only the request line is judged; of a line that was allowed before, nothing.

A memo belongs to one policy, and what it holds to one snapshot of the keys; both are compared by identity. An entry
holds as long as the tokens and the peer's certificate that it was made of. Of what may hold a token there is only a
digest in it, which means nothing to another process. This file must not know how a request is judged.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any, Final

from .._generations import Generations
from .._values import quick
from ..attributes import AuthContext, Connection, HttpRequest, RequestFacts, are_clean_lines
from ..authn import KeySnapshot, TokenResult, secret_digest
from ..decision import Decision, Edits

__all__ = ["Caller", "DecisionMemo", "Remembered", "RequestLine", "Standing", "Wanted", "find_token"]

_MOST: Final = 1024  # of each generation; an entry takes about 2 KiB
_MOST_SHAPES: Final = 256  # of each generation
_MOST_STANDINGS: Final = 8  # of one caller
_LONGEST_LINE: Final = 2048  # characters of a request line, and of all header names, that are worth their place
_LONGEST_VALUES: Final = 8192  # of the values that count
_PATIENCE: Final = 256  # requests in a row whose caller was not found
_EVERY: Final = 8  # where none is ever found, only one of so many is looked for
_PLAIN: Final = 2  # marshal's last version without references: equal values give equal bytes, and others never do

RequestLine = tuple[str | bytes | None, ...]
"""Whatever else a request is read from: method, target, scheme, mount, as the server hands them over."""

TokenAt = tuple[int, int, int]
"""The header line where a token stands, and from where to where."""


@dataclass(slots=True, eq=False)
class Standing:
    """What a caller's tokens came to.

    Attributes:
        token: the end user.
        edits: what the tokens change.
        headers: as the rules see them, and only those that they look at.
        known: what the rules read of the first request.
        token_at: where the principal's token stands.
        begins: the first moment at which all this holds.
        until: the first at which it does no longer.
        prepared: whatever an adapter makes of the edits, to make it once.
    """

    token: TokenResult
    edits: Edits = field(repr=False)
    headers: Mapping[str, tuple[str, ...]] = field(repr=False)
    known: Sequence[Any] = field(repr=False)
    token_at: TokenAt | None
    begins: float
    until: float
    prepared: Any = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Caller:
    """What can be said of a request before its line is read.

    Attributes:
        connection: as it was judged.
        facts: of the first request; with the headers that rules look at, as they see them.
        preflight: whether the headers are those of a CORS preflight.
        standings: by what a request line has to do with the tokens.
    """

    connection: Connection
    facts: RequestFacts
    preflight: bool
    standings: dict[tuple[bool, ...], Standing] = field(default_factory=dict)

    def keep(self, situation: tuple[bool, ...], standing: Standing) -> None:
        """In place of what was known there."""
        if situation in self.standings or len(self.standings) < _MOST_STANDINGS:
            self.standings[situation] = standing


@dataclass(slots=True, eq=False)
class Remembered:
    """A decision about a request of a known caller, which holds for all that are found to be like it.

    Attributes:
        decision: what was decided.
        caller: who called.
        standing: what their tokens came to; None where nobody asked for that, and nothing is to be remembered.
        era: with what else it was found out; a mark alone, so that who keeps this does not keep all of that.
        metadata_url: as the context says it.
        prepared: whatever an adapter makes of it, to make it once.
    """

    decision: Decision
    caller: Caller
    standing: Standing | None
    era: object = field(repr=False)
    metadata_url: str | None
    prepared: Any = field(default=None, repr=False)

    def told(self, values: Sequence[Any]) -> AuthContext:
        """The context of a request that was found by these values, with its token."""
        standing, peer = self.standing, self.caller.connection.peer
        if standing is None:
            return AuthContext(peer, None, self.decision)
        token = None
        if standing.token_at is not None:
            line, start, stop = standing.token_at
            text = values[line][start:stop]
            token = text.decode("latin-1") if isinstance(text, bytes) else text
        return AuthContext(peer, standing.token.principal, self.decision, token, self.metadata_url)

    def holds(self, now: float) -> bool:
        """Whether the tokens that it was made of do."""
        standing = self.standing
        return standing is not None and standing.begins <= now < standing.until


@quick
@dataclass(frozen=True, slots=True)
class Wanted:
    """A request whose caller came before, or is known: what is found out about it has a place.

    Attributes:
        memo: whose place it is.
        key: the caller's.
        line: the request line.
        counting: for each header line, whether its value counts.
        caller: None: not known yet.
        entries: where all of this is found.
    """

    memo: DecisionMemo
    key: _Key = field(repr=False)
    line: RequestLine = field(repr=False)
    counting: tuple[bool, ...] = field(repr=False)
    caller: Caller | None
    entries: _Entries = field(repr=False)

    def meet(self, caller: Caller) -> None:
        """Know a caller, who was judged with the same keys, by nothing but :meth:`reduced`."""
        self.entries.callers.keep(self.key, caller)

    def add(self, decided: Remembered) -> None:
        """Remember what was decided by the request line of a known caller, if it was asked for before."""
        place = (self.caller, self.line)
        if not self.entries.decisions.is_new(place) and _length(self.line) <= _LONGEST_LINE:
            self.entries.decisions.keep(place, decided)

    def reduced(self, request: HttpRequest) -> HttpRequest:
        """The request, of its header values only those that count."""
        lines = zip(request.headers, self.counting, strict=True)
        return replace(request, headers=tuple([(name, value if counts else "") for (name, value), counts in lines]))


_Key = tuple[Hashable, ...]
_Values = Sequence[Any]


@dataclass(frozen=True, slots=True, eq=False)
class _Shape:
    """The header names of a request, in their order, and what becomes of the values behind them.

    Attributes:
        counting: for each line, whether its value counts.
        secret: of the values those that may hold a token: one, or several; None where there is none.
        digest: what stands for them.
        plain: the others that count; None where there are none.
        rest: those that do not; None where there are none.
        are_clean: whether the rest may be in a request at all.
    """

    counting: tuple[bool, ...]
    secret: Callable[[_Values], Any] | None
    digest: Callable[[Any], Hashable]
    plain: Callable[[_Values], _Values] | None
    rest: Callable[[_Values], _Values] | None
    are_clean: Callable[[_Values], bool]

    @classmethod
    def of(cls, names: tuple[Any, ...], plain: Collection[str], secret: Collection[str]) -> _Shape:
        text = isinstance(names[0], str)
        lower = [name.lower() if text else name.decode("latin-1").lower() for name in names]
        secrets_at = [index for index, name in enumerate(lower) if name in secret]
        plain_at = [index for index, name in enumerate(lower) if name in plain and name not in secret]
        counted = {*secrets_at, *plain_at}
        counting = tuple(index in counted for index in range(len(names)))
        return cls(
            counting,
            itemgetter(*secrets_at) if secrets_at else None,
            _digest_of_several if len(secrets_at) > 1 else _digest_of_text if text else secret_digest,
            _several(plain_at),
            _several([index for index, counts in enumerate(counting) if not counts]),
            _are_clean_texts if text else are_clean_lines,
        )

    def length(self, values: _Values) -> int:
        """Of the values that count."""
        return sum(len(value) for value, counts in zip(values, self.counting, strict=True) if counts)


@dataclass(frozen=True, slots=True, eq=False)
class _Entries:
    """What was found out with one snapshot of the keys, and what tells it from the rest."""

    keys: KeySnapshot
    era: object = field(default_factory=object)
    callers: Generations[_Key, Caller] = field(default_factory=lambda: Generations(_MOST))
    decisions: Generations[_Key, Remembered] = field(default_factory=lambda: Generations(_MOST))


class DecisionMemo:
    """Whom one policy knows, and what it allowed. Safe to share between threads.

    Only what was allowed gets in, and only when it comes a second time, so that requests that come once, or may not
    pass, push nothing out. Where nobody is ever found, it is seldom looked for.

    Args:
        plain: the headers whose values count, lower case.
        secret: those that may hold a token, too.
    """

    def __init__(self, plain: Collection[str], secret: Collection[str]) -> None:
        self.plain, self.secret = frozenset(plain), frozenset(secret)
        self._shapes: Generations[tuple[Any, ...], _Shape] = Generations(_MOST_SHAPES)
        self._entries = _Entries({})
        self._missed = 0

    def recall(
        self,
        connection: Connection,
        line: RequestLine,
        names: tuple[Any, ...],
        values: _Values,
        keys: KeySnapshot,
        now: float,
    ) -> Remembered | Wanted | None:
        """Look a request up.

        Args:
            connection: what the transport knows.
            line: what the request is read from besides its headers.
            names: of its header lines, in the order they came; all of them bytes, or all of them text.
            values: of the same lines.
            keys: the key sets at hand.
            now: wall clock, POSIX seconds.

        Returns:
            What was decided; or where the decision belongs, once it is made anew; or None: judge it, and that is all.

        Raises:
            TypeError, ValueError: something is neither text nor bytes.
        """
        missed = self._missed = self._missed + 1
        if not names or (missed > _PATIENCE and missed % _EVERY):
            return None
        shape = self._shapes.young.get(names) or self._shape(names)
        secret, plain, rest = shape.secret, shape.plain, shape.rest
        if rest is not None and not shape.are_clean(rest(values)):
            return None
        token = None if secret is None else shape.digest(secret(values))
        key = (token, connection.fingerprint, shape, None if plain is None else plain(values))
        entries = self._entries
        if entries.keys is not keys:
            entries = self._entries = _Entries(keys)
        caller = entries.callers.young.get(key) or entries.callers.find(key)
        if caller is None:
            return self._new(key, line, shape, values, entries)
        self._missed = 0
        place = (caller, line)
        found = entries.decisions.young.get(place) or entries.decisions.find(place)
        if found is not None and found.holds(now):
            return found
        return Wanted(self, key, line, shape.counting, caller, entries)

    def holds(self, found: Remembered, keys: KeySnapshot, now: float) -> bool:
        """Whether a request that is the same in all would be told the same once more."""
        entries = self._entries
        return found.era is entries.era and entries.keys is keys and found.holds(now)

    def _new(self, key: _Key, line: RequestLine, shape: _Shape, values: _Values, entries: _Entries) -> Wanted | None:
        long = shape.length(values) > _LONGEST_VALUES
        return None if long or entries.callers.is_new(key) else Wanted(self, key, line, shape.counting, None, entries)

    def _shape(self, names: tuple[Any, ...]) -> _Shape:
        shape = self._shapes.find(names)
        if shape is None:
            shape = _Shape.of(names, self.plain, self.secret)
            if _length(names) <= _LONGEST_LINE:
                self._shapes.keep(names, shape)
        return shape


def find_token(token: str, lines: Iterable[tuple[str, str]]) -> TokenAt | None:
    """The first place in header values where a text stands."""
    for line, (_, value) in enumerate(lines):
        start = value.find(token)
        if start >= 0:
            return line, start, start + len(token)
    return None


def _length(parts: Iterable[Any]) -> int:
    return sum(len(part) for part in parts if part)


def _several(indexes: Sequence[int]) -> Callable[[_Values], _Values] | None:
    """Some of the values as a tuple; where there is but one, it is there twice, so that no code of ours is needed."""
    return itemgetter(*indexes, *indexes[:1]) if indexes else None


def _are_clean_texts(values: _Values) -> bool:
    return are_clean_lines(["".join(values).encode("latin-1")])


def _digest_of_text(value: str) -> Hashable:
    return secret_digest(value.encode("latin-1"))


def _digest_of_several(values: tuple[Any, ...]) -> Hashable:
    """Of bytes that tell where one value ends and the next begins."""
    return secret_digest(marshal.dumps(values, _PLAIN))
