"""What any text must be to the loader."""

from __future__ import annotations

from meshsec.errors import ConfigError, Problem
from meshsec.resources import parse

__all__ = ["judge"]


def judge(text: str) -> None:
    """Accepted, or refused with at least one place or file, in words that no terminal obeys."""
    problems: tuple[Problem, ...] = ()
    try:
        assert isinstance(parse(text, source="f"), list)
    except ConfigError as error:
        problems = error.problems or (Problem("an error without a problem"),)
    assert all(problem.source == "f" and problem.message and str(problem).isprintable() for problem in problems)
