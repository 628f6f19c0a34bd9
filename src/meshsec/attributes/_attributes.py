"""Everything a policy can speak of, for one reading of one request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from .._values import quick
from ._facts import Connection, RequestPrincipal
from ._request import RequestFacts

__all__ = ["Attributes", "Bound", "freeze_claims"]


@dataclass(frozen=True, slots=True)
class Bound:
    """What a legacy Policy makes of ``request.auth``, where today's kinds read the token.

    Attributes:
        principal: ``request.auth.principal``, one text: the peer without its scheme, or ``iss/sub``; empty: nobody.
        audience: ``request.auth.audiences``: the token's first; empty: none.
    """

    principal: str = ""
    audience: str = ""


@quick
@dataclass(frozen=True, slots=True)
class Attributes:
    """The input of authorization.

    Attributes:
        connection: what the transport knows; its peer was verified.
        facts: the request, its form in order.
        path: the one of ``facts.target.readings`` that is judged.
        principal: the end user, if a token was verified.
        bound: what a legacy Policy binds; None where none applies.
    """

    connection: Connection
    facts: RequestFacts
    path: str
    principal: RequestPrincipal | None
    bound: Bound | None = None


def freeze_claims(value: Any) -> Any:
    """A read-only deep copy of parsed JSON: objects become mapping proxies, arrays tuples.

    Raises:
        TypeError: the value holds something that JSON does not have.
    """
    if isinstance(value, Mapping):
        return MappingProxyType({key: freeze_claims(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple([freeze_claims(item) for item in value])
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"claims hold JSON values only, not {type(value).__name__}")
