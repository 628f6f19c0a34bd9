"""What a YAML scalar without quotes is read as: text, a number, a truth value, or neither for sure.

YAML 1.1 (Kubernetes' and PyYAML's) and 1.2 disagree on ``yes``, ``0o17``, ``1e3`` or ``12:30``. What any of them
would not read as text is never text here; what they do not all read alike is :class:`Unquoted`, which no field takes.
This file must not know documents or fields.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeAlias

__all__ = ["Scalar", "Unquoted", "read_plain"]


@dataclass(frozen=True, slots=True)
class Unquoted:
    """A scalar without quotes that YAML does not read as text.

    Attributes:
        text: as written.
        reads_as: what YAML takes it for, with its article.
    """

    text: str
    reads_as: str


Scalar: TypeAlias = str | int | float | bool | Unquoted

_WORDS: Final[dict[str, bool | Unquoted]] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **{word: Unquoted(word, "nothing") for word in ("", "~", "null", "Null", "NULL")},
    **{
        spelling: Unquoted(spelling, "a truth value")
        for word in ("yes", "no", "on", "off", "y", "n")
        for spelling in (word, word.capitalize(), word.upper())
    },
    "<<": Unquoted("<<", "a merge key"),
    "=": Unquoted("=", "a default value"),
}

# Every character that a number or a timestamp can begin with.
_MAY_BEGIN_NUMBER: Final = frozenset("+-.0123456789")
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_DECIMAL: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,17})\.[0-9]{1,18}")
_NUMBERS: Final = re.compile(
    r"""[-+]?(?:
        0[box][0-9a-fA-F_]*                        # binary, octal, hexadecimal
        | [0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?   # 12:30:45, to base 60
        | (?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9_]+)(?:[eE][-+]?[0-9]+)?
        | \.(?:inf|Inf|INF|nan|NaN|NAN)
    )""",
    re.VERBOSE,
)
_TIMESTAMP: Final = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt ].*)?", re.DOTALL)


def read_plain(text: str) -> Scalar:
    """Read a scalar that was written without quotes."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _MAY_BEGIN_NUMBER:
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text):
        return float(text)
    if _NUMBERS.fullmatch(text):
        return Unquoted(text, "a number")
    if _TIMESTAMP.fullmatch(text):
        return Unquoted(text, "a date")
    return text
