"""Requests that were allowed a moment ago, so that the next one like it need not be judged again.

Like it is a request from which nothing tells the earlier one apart that a decision depends on: the same facts of the
connection, the same request line and mount, the same header names in the same order, and the same values of those
headers that say the host, hold a token or that a rule looks at. The other values are only looked through for control
characters, so that a new ``x-request-id`` with every request does no harm.

A memo belongs to one policy, and what it holds to one snapshot of the keys; both are compared by identity. An entry
holds as long as the tokens and the peer's certificate that it was made of. Of what may hold a token there is only a
digest in it, which means nothing to another process. This file must not know how a request is judged.
"""

from __future__ import annotations

import marshal
import secrets
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from operator import itemgetter
from typing import Any, Final

from ..attributes import AuthContext, Connection, HttpRequest, are_clean_values
from ..authn import KeySnapshot, secret_digest

__all__ = ["DecisionMemo", "Remembered", "RequestLine", "Wanted", "find_token"]

_MOST: Final = 1024  # of each generation; an entry takes about 2 KiB
_MOST_SHAPES: Final = 256  # of each generation
_LONGEST_LINE: Final = 2048  # characters of a request line, and of all header names, that are worth their place
_LONGEST_VALUES: Final = 4096  # bytes of the values that may hold a token, and characters of the others that count
_PATIENCE: Final = 256  # requests in a row that were not found
_EVERY: Final = 8  # where none is ever found, only one of so many is looked for
_PLAIN: Final = 2  # marshal's last version without references: equal values give equal bytes, and others never do

RequestLine = tuple[str | bytes | None, ...]
"""Whatever else a request is read from: method, target, scheme, mount, as the server hands them over."""

_salt: Final = secrets.token_bytes(32)


@dataclass(slots=True, eq=False)
class Remembered:
    """A decision that holds for whoever finds it.

    Attributes:
        context: what was decided, and who called; without the token.
        token_at: the header line where the token stands, and from where to where; None where there is none.
        begins: the first moment at which it holds.
        until: the first at which it does no longer.
        prepared: whatever an adapter makes of it, to make it once.
    """

    context: AuthContext
    token_at: tuple[int, int, int] | None
    begins: float
    until: float
    prepared: Any = field(default=None, repr=False)

    def told(self, values: Sequence[Any]) -> AuthContext:
        """The context of a request that was found by these values, with its token."""
        if self.token_at is None:
            return self.context
        line, start, stop = self.token_at
        text = values[line][start:stop]
        context = self.context
        token = text.decode("latin-1") if isinstance(text, bytes) else text
        return AuthContext(context.peer, context.principal, context.decision, token, context.metadata_url)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request that came before and was not remembered: its decision has a place.

    Attributes:
        memo: whose place it is.
        key: the place.
        counting: for each header line, whether its value counts.
    """

    memo: DecisionMemo
    key: _Key = field(repr=False)
    counting: tuple[bool, ...] = field(repr=False)

    def reduced(self, request: HttpRequest) -> HttpRequest:
        """The request, of its header values only those that count."""
        lines = zip(request.headers, self.counting, strict=True)
        return replace(request, headers=tuple([(name, value if counts else "") for (name, value), counts in lines]))


_Key = tuple[Hashable, ...]
_Values = Sequence[Any]


@dataclass(frozen=True, slots=True)
class _Shape:
    """The header names of a request, in their order, and what becomes of the values behind them.

    Attributes:
        mark: the names, in short.
        counting: for each line, whether its value counts.
        secret: those that may hold a token, as bytes that no other such values have.
        plain: the others that count.
        rest: those that do not, joined.
    """

    mark: bytes
    counting: tuple[bool, ...]
    secret: Callable[[_Values], bytes]
    plain: Callable[[_Values], _Values]
    rest: Callable[[_Values], bytes]

    @classmethod
    def of(cls, names: tuple[Any, ...], plain: Collection[str], secret: Collection[str]) -> _Shape:
        encode: Callable[[Any], bytes] = _as_it_is if isinstance(names[0], bytes) else _encoded
        lower = [name.decode("latin-1").lower() if isinstance(name, bytes) else name.lower() for name in names]
        secrets_at = [index for index, name in enumerate(lower) if name in secret]
        plain_at = [index for index, name in enumerate(lower) if name in plain and name not in secret]
        counted = {*secrets_at, *plain_at}
        counting = tuple(index in counted for index in range(len(names)))
        rest = _picker([index for index, counts in enumerate(counting) if not counts])
        empty: Any = names[0][:0]
        return cls(
            sha256(_salt + marshal.dumps(names, _PLAIN)).digest(),
            counting,
            _secret(secrets_at, encode),
            _picker(plain_at),
            lambda values: encode(empty.join(rest(values))),
        )


@dataclass(slots=True, eq=False)
class _Entries:
    """What was decided with one snapshot of the keys. When the young generation is full, the old one is forgotten."""

    keys: KeySnapshot
    young: dict[_Key, Remembered] = field(default_factory=dict)
    old: Mapping[_Key, Remembered] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)

    def find_old(self, key: _Key) -> Remembered | None:
        """One that has not been asked for since it was old, and is young again for it."""
        entry = self.old.get(key)
        if entry is not None:
            self.keep(key, entry)
        return entry

    def keep(self, key: _Key, entry: Remembered) -> None:
        if len(self.young) >= _MOST:
            self.old, self.young = self.young, {}
        self.young[key] = entry

    def is_new(self, key: _Key) -> bool:
        """Whether it is asked for the first time, as far as anybody remembers."""
        mark = hash(key)
        if mark in self.seen:
            return False
        if len(self.seen) >= 4 * _MOST:
            self.seen = set()
        self.seen.add(mark)
        return True


class DecisionMemo:
    """What one policy allowed. Safe to share between threads.

    Only what was allowed gets in, and only when it comes a second time, so that requests that come once, or may not
    pass, push nothing out. Where nothing is ever found, it is seldom looked for.

    Args:
        plain: the headers whose values count, lower case.
        secret: those that may hold a token, too.
    """

    def __init__(self, plain: Collection[str], secret: Collection[str]) -> None:
        self.plain, self.secret = frozenset(plain), frozenset(secret)
        self._shapes: dict[tuple[Any, ...], _Shape] = {}
        self._old_shapes: Mapping[tuple[Any, ...], _Shape] = {}
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
        if missed > _PATIENCE and missed % _EVERY:
            return None
        if not names:
            return None
        shape = self._shapes.get(names) or self._shape(names)
        if not are_clean_values(shape.rest(values)):
            return None
        secret = shape.secret(values)
        key = (secret_digest(secret), connection.fingerprint, shape.mark, shape.plain(values), line)
        entries = self._entries
        if entries.keys is not keys:
            entries = self._entries = _Entries(keys)
        entry = entries.young.get(key) or entries.find_old(key)
        if entry is not None and entry.begins <= now < entry.until:
            self._missed = 0
            return entry
        if len(secret) > _LONGEST_VALUES or _length(line) > _LONGEST_LINE or _length(key[3]) > _LONGEST_VALUES:
            return None
        return None if entries.is_new(key) else Wanted(self, key, shape.counting)

    def add(self, wanted: Wanted, entry: Remembered, keys: KeySnapshot) -> None:
        """Remember a decision that was made with these keys, of nothing but :meth:`Wanted.reduced`."""
        entries = self._entries
        if entries.keys is keys:
            entries.keep(wanted.key, entry)

    def _shape(self, names: tuple[Any, ...]) -> _Shape:
        shape = self._old_shapes.get(names) or _Shape.of(names, self.plain, self.secret)
        if _length(names) <= _LONGEST_LINE:
            if len(self._shapes) >= _MOST_SHAPES:
                self._old_shapes, self._shapes = self._shapes, {}
            self._shapes[names] = shape
        return shape


def find_token(token: str, lines: Iterable[tuple[str, str]]) -> tuple[int, int, int] | None:
    """The first place in header values where a text stands."""
    for line, (_, value) in enumerate(lines):
        start = value.find(token)
        if start >= 0:
            return line, start, start + len(token)
    return None


def _length(parts: Iterable[Any]) -> int:
    return sum(len(part) for part in parts if part)


def _picker(indexes: Sequence[int]) -> Callable[[_Values], _Values]:
    """Some of the values, in their order, always as a tuple."""
    if len(indexes) > 1:
        return itemgetter(*indexes)
    start, stop = (indexes[0], indexes[0] + 1) if indexes else (0, 0)
    return lambda values: values[start:stop]


def _secret(indexes: Sequence[int], encode: Callable[[Any], bytes]) -> Callable[[_Values], bytes]:
    """The one value there is, as nearly always; of several, bytes that tell where one ends."""
    if not indexes:
        return lambda _: b""
    if len(indexes) == 1:
        (only,) = indexes
        return lambda values: encode(values[only])
    several = itemgetter(*indexes)
    return lambda values: marshal.dumps(tuple(map(encode, several(values))), _PLAIN)


def _as_it_is(value: bytes) -> bytes:
    return value


def _encoded(value: str) -> bytes:
    return value.encode("latin-1")
