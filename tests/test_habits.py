"""The house's habits, as far as a program can check them."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from sweeping import sweep

ROOT: Final = Path(__file__).parents[1]
SOURCE: Final = ROOT / "src" / "meshsec"
FILES: Final = sorted(SOURCE.rglob("*.py"))
TESTS: Final = sorted((ROOT / "tests").rglob("test_*.py"))
LONGEST_FILE: Final = 400
LONGEST_FUNCTION: Final = 50

# The rooms that decide: they are handed the time, so that a decision can be repeated.
CORE: Final = (
    "attributes",
    "authn",
    "authz",
    "decision",
    "jose",
    "matching",
    "naming",
    "policy",
    "resources",
    "spiffe",
    "_values",
)
CLOCKS: Final = frozenset(
    {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    """How a file is called in a test's name."""
    return str(path.relative_to(ROOT))


@cache
def tree(path: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> Iterator[Function]:
    """Every function and method in a file; there is none inside an expression."""
    todo: list[ast.AST] = [tree(path)]
    while todo:
        node = todo.pop()
        if isinstance(node, Function):
            yield node
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            todo += getattr(node, block, ())


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a file, with the last two parts of the name that is called."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ".".join(ast.unparse(node.func).split(".")[-2:]), node


@sweep("path", FILES)
def test_a_file_has_a_docstring_and_is_short(path: Path) -> None:
    """A module says what belongs in it, and stays readable in one sitting."""
    assert ast.get_docstring(tree(path))
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE


@sweep("path", FILES)
def test_a_function_is_short(path: Path) -> None:
    """No function is longer than a screen."""
    long = [node.name for node in functions(path) if (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION]
    assert long == []


@sweep("path", FILES)
def test_nothing_depends_on_assert(path: Path) -> None:
    """``python -O`` must change nothing."""
    assert [node.lineno for node in ast.walk(tree(path)) if isinstance(node, ast.Assert)] == []


CORE_FILES: Final = [path for path in FILES if path.relative_to(SOURCE).with_suffix("").parts[0] in CORE]


@sweep("path", CORE_FILES)
def test_the_core_has_no_clock(path: Path) -> None:
    """The rooms that decide are told what time it is."""
    assert [node.lineno for called, node in calls(path) if called in CLOCKS] == []


@sweep("path", FILES)
def test_untrusted_text_is_matched_whole(path: Path) -> None:
    """``$`` also matches before a final newline: patterns go through fullmatch."""
    anchored = [
        node.lineno
        for called, node in calls(path)
        if called in {"re.match", "re.search"} and any("$" in ast.unparse(part) for part in node.args[:1])
    ]
    assert anchored == []


@sweep("path", TESTS)
def test_a_test_says_what_it_shows(path: Path) -> None:
    """Every test has a sentence."""
    tests = [node for node in functions(path) if node.name.startswith("test_")]
    assert [node.name for node in tests if not ast.get_docstring(node)] == []


def test_the_version_is_the_newest_in_the_changelog() -> None:
    """pyproject.toml and CHANGELOG.md tell of the same release."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\]", changelog, flags=re.MULTILINE)
    assert newest is not None
    assert newest[1] == project["version"]


def test_no_name_says_nothing() -> None:
    """No module is a drawer for whatever is left over."""
    empty = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "engine"}
    assert [name_of(path) for path in FILES if path.stem.lstrip("_") in empty] == []
