"""Values that are made quickly are what dataclasses make of the same fields."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from typing import Any

import pytest

from meshsec._values import quick
from meshsec.attributes import Connection
from meshsec.decision import Decision, Outcome, Reason


@dataclass(frozen=True, slots=True)
class Plain:
    """As Python makes it."""

    one: int
    two: str = "2"
    three: list[int] | None = field(default=None, repr=False, compare=False, kw_only=True)
    hidden: int = field(default=7, init=False, repr=False)
    made: list[int] = field(default_factory=list)


@quick
@dataclass(frozen=True, slots=True)
class Quick:
    """The same fields."""

    one: int
    two: str = "2"
    three: list[int] | None = field(default=None, repr=False, compare=False, kw_only=True)
    hidden: int = field(default=7, init=False, repr=False)
    made: list[int] = field(default_factory=list)


# What somebody does with a class, or with one of its values.
USES: dict[str, Callable[[Any], Any]] = {
    "values": lambda kind: [(one.one, one.two, one.three, one.hidden) for one in (kind(1), kind(1, "b", three=[3]))],
    "made each time": lambda kind: (kind(1).made, kind(1).made is kind(1).made, kind(1, made=[2]).made),
    "by name": lambda kind: (kind(one=1, two="b").two, kind(two="c", one=1).two),
    "too few": lambda kind: kind(),
    "too many": lambda kind: kind(1, "2", [], None),
    "unknown": lambda kind: kind(1, four=4),
    "not to be given": lambda kind: kind(1, hidden=8),
    "changed": lambda kind: setattr(kind(1), "one", 2),
    "taken away": lambda kind: delattr(kind(1), "one"),
    "something new": lambda kind: setattr(kind(1), "five", 5),
    "dictionary": lambda kind: hasattr(kind(1), "__dict__"),
    "equal": lambda kind: (kind(1) == kind(1, three=[1]), kind(1) == kind(2), kind(1) == 1),
    "hash": lambda kind: hash(kind(1)),
    "repr": lambda kind: repr(kind(1)).partition("(")[2],
    "replace": lambda kind: replace(kind(1), two="x").two,
    "copy": lambda kind: (copy.copy(kind(1)) == kind(1), copy.deepcopy(kind(1, three=[1])).three),
    "pickle": lambda kind: pickle.loads(pickle.dumps(kind(1, "b"))) == kind(1, "b"),
    "match": lambda kind: kind.__match_args__,
    "signature": lambda kind: str(inspect.signature(kind)),
    "fields": lambda kind: [one.name for one in fields(kind)],
    "class": lambda kind: type(kind(1)) is kind,
}


def outcome(use: Callable[[Any], Any], kind: type[Any]) -> Any:
    """What comes of it, or which error."""
    try:
        return use(kind)
    except (TypeError, AttributeError, FrozenInstanceError) as error:
        return type(error)


@pytest.mark.parametrize("use", USES)
def test_a_quick_value_is_an_ordinary_one(use: str) -> None:
    """Made, changed, compared, copied, shown: as the dataclass without it."""
    assert outcome(USES[use], Quick) == outcome(USES[use], Plain)


def test_values_that_finish_themselves_do() -> None:
    """A status that is not given is the outcome's; what is found out later has its place."""
    assert Decision(Outcome.DENY, Reason.DENY_RULE).status == 403
    connection = Connection(source_ip="10.0.0.7")
    assert connection.fingerprint == replace(connection).fingerprint


def test_a_field_that_is_not_simply_set_is_refused() -> None:
    """What is neither given nor known in advance would stay empty."""

    @dataclass(frozen=True, slots=True)
    class Odd:
        later: int = field(init=False)

    with pytest.raises(TypeError, match=r"Odd\.later is not simply set"):
        quick(Odd)
