"""The public names, pinned: a name that appears or vanishes shows in a review as one line of public_api.txt.

``python tests/test_public_api.py`` writes that file anew.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from sweeping import sweep

HERE: Final = Path(__file__).parent
SOURCE: Final = HERE.parent / "src" / "meshsec"
SNAPSHOT: Final = HERE / "public_api.txt"


def public_modules() -> dict[str, Path]:
    """Every module that a user may import, by dotted name."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not any(part.startswith("_") for part in parts):
            found[".".join(("meshsec", *parts))] = path
    return found


MODULES: Final = public_modules()


def assignments(path: Path) -> Iterator[tuple[str, ast.expr | None]]:
    """The names that a module assigns at its top, and what it assigns to them."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            yield from ((to.id, node.value) for to in node.targets if isinstance(to, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node.value


def declared(path: Path) -> list[str]:
    """``__all__`` as it is written, in its order."""
    found = dict(assignments(path)).get("__all__")
    assert found is not None, f"{path} has no __all__"
    return list(ast.literal_eval(found))


def defined(path: Path) -> set[str]:
    """The public names that a module defines or, being a package, takes out of its own files."""
    names = {name for name, _ in assignments(path)}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom) and node.level and path.name == "__init__.py":
            names.update(alias.asname or alias.name for alias in node.names)
    return {name for name in names if not name.startswith("_")}


def order(name: str) -> tuple[int, list[tuple[int, int, str]]]:
    """Constants, then classes, then functions; numbers inside a name count as numbers."""
    kind = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return kind, [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.split(r"(\d+)", name)]


def snapshot() -> str:
    """One line for each public name."""
    return "".join(f"{module}.{name}\n" for module, path in MODULES.items() for name in declared(path))


@pytest.mark.parametrize("module", MODULES)
def test_all_names_the_public_names(module: str) -> None:
    """``__all__`` holds every public name that the module defines, and nothing that is not there."""
    names = declared(MODULES[module])
    assert defined(MODULES[module]) <= set(names)
    loaded = importlib.import_module(module)
    assert [name for name in names if not hasattr(loaded, name)] == []


@sweep("path", sorted(SOURCE.rglob("*.py")))
def test_all_is_sorted(path: Path) -> None:
    """``__all__`` is in one order everywhere, without repetition."""
    names = declared(path)
    assert names == sorted(set(names), key=order)


def test_the_public_names_are_those_of_the_snapshot() -> None:
    """A changed public name is a decision: write the snapshot anew with ``python tests/test_public_api.py``."""
    assert snapshot().splitlines() == SNAPSHOT.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    sys.stdout.write(f"{SNAPSHOT.name}: {SNAPSHOT.write_text(snapshot(), encoding='utf-8')} characters\n")
