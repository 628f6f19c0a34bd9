"""The arrows between the rooms, as data; the picture in docs/explanation/architecture.md is drawn from them.

``python tests/test_architecture.py`` prints the picture, to be pasted when the table has changed.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from sweeping import sweep

ROOT: Final = Path(__file__).parents[1]
SOURCE: Final = ROOT / "src" / "meshsec"
PICTURE: Final = ROOT / "docs" / "explanation" / "architecture.md"

# Each room and the rooms it may import; it may also import whatever those may. Every room may import errors.
ARROWS: Final[dict[str, tuple[str, ...]]] = {
    "cli": ("testing", "frameworks", "servers", "clients"),  # explain signs a stand-in's token with testing
    "testing": ("frameworks", "servers", "clients"),
    "frameworks": ("mesh",),
    "servers": ("mesh",),
    "clients": ("mesh",),
    "mesh": ("middleware", "sources", "naming"),
    "middleware": ("policy",),
    "sources": ("policy", "authn", "resources", "naming", "ca", "tls"),
    "policy": ("authn", "authz"),
    "authn": ("attributes", "_generations"),
    "authz": ("attributes",),
    "attributes": ("matching", "spiffe", "resources", "decision"),
    "naming": ("resources",),
    "resources": ("matching", "spiffe"),
    "tls": ("spiffe",),
    "ca": ("spiffe", "jose"),
    "spiffe": ("jose",),
    "jose": ("errors",),
    "matching": ("errors",),
    "decision": ("_values",),
    "_values": (),
    "_generations": (),
    "errors": (),
}

# The front door (meshsec/__init__.py) re-exports from everything a mesh is made of, and from nothing above it.
FRONT_DOOR: Final = "mesh"

# Third-party packages by room, and by file where one file alone may. Servers, clients and frameworks are extras.
PACKAGES: Final[dict[str, frozenset[str]]] = {
    "spiffe": frozenset({"cryptography"}),
    "ca": frozenset({"cryptography"}),
    "tls": frozenset({"cryptography"}),
    "jose": frozenset({"cryptography", "joserfc"}),
    "matching._regex": frozenset({"re2"}),
    "resources": frozenset({"pydantic", "pydantic_core", "yaml"}),
    "sources._line": frozenset({"urllib3"}),
    "sources._workload_api_call": frozenset({"h2"}),
    "middleware": frozenset({"starlette", "werkzeug"}),
    "servers": frozenset(
        {"starlette", "werkzeug", "uvicorn", "uvicorn_worker", "gunicorn", "hypercorn", "cheroot", "uvloop"}
    ),
    "servers.grpcio": frozenset({"grpc"}),
    "servers.grpclib": frozenset({"grpclib"}),
    "frameworks": frozenset({"starlette", "werkzeug", "fastapi", "flask", "asgiref"}),
    "clients": frozenset({"httpx", "httpx2", "requests", "urllib3", "aiohttp", "yarl"}),
    "clients.grpclib": frozenset({"grpclib", "multidict"}),
    "testing": frozenset({"pytest"}),
    "cli": frozenset({"click", "rich", "yaml"}),  # a request may be described in a file
}

_STANDARD: Final = sys.stdlib_module_names | {"_typeshed"}


def picture() -> str:
    """The table as a Mermaid chart."""
    lines = [f"    {room} --> {' & '.join(targets)}" for room, targets in ARROWS.items() if targets]
    return "\n".join(["```mermaid", "flowchart TD", *lines, "```"])


@cache
def reach(room: str) -> frozenset[str]:
    """Every room that ``room`` may import."""
    return frozenset({room, "errors"}).union(*(reach(target) for target in ARROWS[room]))


def modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name without ``meshsec``; the front door is the empty name."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES: Final = modules()


@cache
def imports(name: str, *, at_run_time: bool = False) -> tuple[str, ...]:
    """The absolute names that a module imports, at its top or inside a function."""
    package = ["meshsec", *name.split(".")] if name else ["meshsec"]
    if MODULES[name].name != "__init__.py":
        package.pop()
    found: list[str] = []
    for node in _nodes(MODULES[name], at_run_time):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            parts = [*base, *(node.module or "").split(".")] if node.module else base
            # "from . import x" names a room, "from .room import x" does not need to know what x is
            found += [".".join([*parts, alias.name]) for alias in node.names]
    return tuple(found)


def _nodes(path: Path, at_run_time: bool) -> Iterator[ast.AST]:
    """A file's syntax tree; at run time without what stands under ``if TYPE_CHECKING:``, types bring nothing in."""
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"), filename=str(path))]
    while todo:
        node = todo.pop()
        if at_run_time and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            todo += node.orelse
        else:
            yield node
            todo += ast.iter_child_nodes(node)


def room_of(name: str) -> str:
    """The room a module stands in."""
    return name.partition(".")[0]


def imported_rooms(name: str) -> set[str]:
    """The rooms that a module reaches into."""
    inside = [target.split(".") for target in imports(name) if target.split(".")[0] == "meshsec"]
    return {parts[1] for parts in inside if len(parts) > 1 and parts[1] in ARROWS}


def test_every_room_is_in_the_table() -> None:
    """No room exists without its arrows, and no arrow without its room."""
    rooms = {room_of(name) for name in MODULES} - {"", "__main__"}
    assert rooms == set(ARROWS)
    assert {target for targets in ARROWS.values() for target in targets} <= set(ARROWS)


@sweep("name", sorted(MODULES))
def test_a_module_imports_only_what_its_room_may(name: str) -> None:
    """Every import between rooms follows an arrow of the table."""
    room = {"": FRONT_DOOR, "__main__": "cli"}.get(room_of(name), room_of(name))
    assert imported_rooms(name) <= reach(room)


def test_the_arrows_have_no_cycle() -> None:
    """Following the arrows never comes back."""
    for room, targets in ARROWS.items():
        assert all(room not in reach(target) for target in targets), room


def test_authentication_and_authorization_never_see_each_other() -> None:
    """They meet in policy only."""
    assert "authz" not in reach("authn")
    assert "authn" not in reach("authz")


def test_modules_of_one_room_import_each_other_without_a_cycle() -> None:
    """Inside a room the private files form a line, not a knot."""
    graph = {name: {target for target in MODULES if target and _names(name, target)} - {name} for name in MODULES}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above, name])
        if name not in done:
            for target in graph[name]:
                visit(target, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def _names(name: str, target: str) -> bool:
    """Whether one module imports another file of its own room (a package's ``__init__`` excepted, it imports all)."""
    if room_of(name) != room_of(target) or "." not in name or "." not in target:
        return False
    full = f"meshsec.{target}"
    return any(found == full or found.startswith(full + ".") for found in imports(name))


@sweep("name", sorted(MODULES))
def test_third_party_packages_stay_in_their_rooms(name: str) -> None:
    """A package that one room wraps is imported by that room alone."""
    outside = {target.partition(".")[0] for target in imports(name, at_run_time=True)}
    allowed = PACKAGES.get(room_of(name), frozenset()) | PACKAGES.get(name, frozenset())
    assert outside - _STANDARD - {"meshsec"} <= allowed


def test_the_picture_in_the_documentation_is_the_table() -> None:
    """The architecture page shows the arrows that this file enforces."""
    assert picture() in PICTURE.read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.stdout.write(picture() + "\n")
