"""Where a server offers no place for a class of ours, we put it in place of a name that the server looks up.

A newer release may look up another, or build its requests elsewhere: then nobody would notice that they have no peer
any more. So the shape of its code is checked before anything is served. This file must not know any server.
"""

from __future__ import annotations

import dis
from collections.abc import Callable, Collection, Iterator
from types import CodeType, FunctionType
from typing import Final

from ..errors import ConfigError

__all__ = ["check_keys", "check_looked_up", "check_replaceable", "check_scopes"]

_GLOBAL: Final = "LOAD_GLOBAL"
_LOADS: Final = (_GLOBAL, "LOAD_ATTR", "LOAD_METHOD")
_OF_EVERY_SCOPE: Final = "asgi"  # a key (ASGI 3.0, "HTTP & WebSocket"), and hardly a word for anything else

_Owner = type | Callable[..., object]


def check_looked_up(names: Collection[str], owner: _Owner, server: str) -> None:
    """Check that a server's function, or some method of its class, still looks these names up.

    Args:
        server: its name and version, for the error.

    Raises:
        ConfigError: ``server_unknown``; so do all functions of this file.
    """
    found = {name for code in _codes(owner) for _, name in _looked_up(code)}
    _check(server, "does not use {}", set(names) - found)


def check_replaceable(name: str, owner: _Owner, server: str) -> None:
    """Check that the server looks this name up in its module, each time, so that ours can stand in its place."""
    found = {operation for code in _codes(owner) for operation, used in _looked_up(code) if used == name}
    _check(server, "does not look {} up in its module", () if found == {_GLOBAL} else (name,))


def check_keys(keys: Collection[str], owner: _Owner, server: str) -> None:
    """Check that a server's function still writes these keys into a dictionary."""
    found = {text for code in _codes(owner) for text in _texts(code)}
    _check(server, "does not say {}", set(keys) - found)


def check_scopes(owner: type, state: str, server: str, builders: Collection[str] = ()) -> None:
    """Check that a server's class puts its connection's state into every ASGI scope that it builds.

    Args:
        state: the attribute from which it takes it.
        builders: the methods that build scopes, where ours stand in their place: these and no others.
    """
    found = {code.co_name: code for code in _codes(owner) if _OF_EVERY_SCOPE in _texts(code)}
    stateless = [
        name
        for name, code in found.items()
        if "state" not in _texts(code) or state not in {used for _, used in _looked_up(code)}
    ]
    _check(server, "puts no state into the scopes of {}", stateless if found else (owner.__name__,))
    _check(server, "builds its scopes in other methods: {}", found.keys() ^ set(builders) if builders else ())


def _check(server: str, reason: str, wrong: Collection[str]) -> None:
    if wrong:
        reason = reason.format(", ".join(sorted(wrong)))
        where = "where its connections are made, so that no request would have a peer"
        raise ConfigError(f"{server} is not known: it {reason} {where}", code="server_unknown")


def _codes(owner: _Owner) -> list[CodeType]:
    functions = vars(owner).values() if isinstance(owner, type) else [owner]
    return [function.__code__ for function in functions if isinstance(function, FunctionType)]


def _looked_up(code: CodeType) -> Iterator[tuple[str, str]]:
    """Names of modules and attributes, and how each is looked up; of the functions inside too."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in _LOADS:
            yield instruction.opname, instruction.argval
        elif isinstance(instruction.argval, CodeType):
            yield from _looked_up(instruction.argval)


def _texts(code: CodeType) -> set[str]:
    """The text that stands in it, such as the keys of dictionaries, which are one by one or all in a tuple."""
    found: set[object] = set()
    for constant in code.co_consts:
        found.update(constant if isinstance(constant, tuple) else (constant,))
    return {text for text in found if isinstance(text, str)}
