"""Where a server offers no place for a class of ours, we put it in place of a name that the server looks up.

A newer release may look up another: then nobody would notice that requests have no peer any more. So it is checked
before anything is served. This file must not know any server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import CodeType, FunctionType

from ..errors import ConfigError

__all__ = ["check_looked_up"]


def check_looked_up(names: tuple[str, ...], owner: type | Callable[..., object], server: str) -> None:
    """Check that a server's function, or some method of its class, still looks these names up.

    Args:
        server: its name and version, for the error.

    Raises:
        ConfigError: ``server_unknown``.
    """
    functions = vars(owner).values() if isinstance(owner, type) else [owner]
    codes = [function.__code__ for function in functions if isinstance(function, FunctionType)]
    found = {name for code in codes for name in _looked_up(code)}
    missing = ", ".join(name for name in names if name not in found)
    if missing:
        reason = f"it does not use {missing} where its connections are made, so that no request would have a peer"
        raise ConfigError(f"{server} is not known: {reason}", code="server_unknown")


def _looked_up(code: CodeType) -> Iterator[str]:
    """Names of modules and attributes, of the functions inside too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _looked_up(constant)
