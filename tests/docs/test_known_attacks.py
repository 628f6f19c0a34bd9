"""The list of known attacks is true: every row names tests, and every test that is named exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "explanation" / "known-attacks.md"
LINES: Final = PAGE.read_text(encoding="utf-8").splitlines()
ROWS: Final = [line for line in LINES if re.match(r"\| (?!(Known from|What (it|the)) )", line)]


@cache
def functions(file: str) -> frozenset[str]:
    """The tests in a file below tests/."""
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(
        node.name for node in ast.walk(tree) if isinstance(node, kinds) and node.name.startswith("test_")
    )


def test_there_is_a_list() -> None:
    """Enough of it to be one."""
    assert len(ROWS) > 50


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split(" | ")[0][2:42])
def test_every_row_names_tests_that_exist(row: str) -> None:
    """As ``file.py::test_name``, below tests/."""
    cited = re.findall(r"`([\w/]+\.py)::(test_\w+)`", row.split(" | ")[-1])
    assert cited
    assert len(cited) == row.split(" | ")[-1].count("`") // 2
    for file, name in cited:
        assert name in functions(file), f"{file} has no {name}"
