"""Where in a request tokens stand, and how one is taken out of a query.

A token counts where a rule says so and nowhere else; what Istio's proxy would dig out of the middle of a value is
handed on whole, so that it fails as malformed. This file must not know rules, keys or claims.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import unquote, unquote_plus

from ..attributes import RequestFacts
from ..resources import JWTRule

__all__ = ["Location", "Place", "locations", "without_parameters"]

_SPACE: Final = " \t"


class Place(StrEnum):
    """The part of a request that holds a token."""

    HEADER = "header"
    PARAMETER = "parameter"
    COOKIE = "cookie"


_HEADER: Final = Place.HEADER
_PARAMETER: Final = Place.PARAMETER


@dataclass(frozen=True, slots=True)
class Location:
    """One place where a rule looks for a token.

    Attributes:
        place: the kind of place.
        name: of the header (lower case), parameter or cookie.
        prefix: what a header's value must begin with; empty: the whole value is the token.
    """

    place: Place
    name: str
    prefix: str = ""

    def find(self, facts: RequestFacts) -> list[str]:
        """Every token here, one for each header line, parameter or cookie of the name; an empty one counts."""
        # Not by a table: what an enumeration's member hashes to is asked of Python code, several times a request.
        place = self.place
        if place is _HEADER:
            return _in_headers(self, facts) if self.name in facts.headers else []
        if place is _PARAMETER:
            query = facts.target.query
            possible = query and (self.name in query or "%" in query or "+" in query)
            return list(_in_query(self, facts)) if possible else []
        return list(_in_cookies(self, facts))

    def __hash__(self) -> int:
        return hash(self.name)

    def find_as_istio(self, facts: RequestFacts) -> list[str]:
        """The tokens that Istio's proxy would find: behind a prefix anywhere, of parameters and cookies the first."""
        if self.place is Place.HEADER:
            return [_behind(self.prefix, value) for value in facts.headers.get(self.name, ()) if self.prefix in value]
        if self.place is Place.COOKIE:
            return [_unquoted(value) for name, value in _cookies(facts) if name == self.name][:1]
        return self.find(facts)[:1]

    @property
    def rank(self) -> tuple[int, str]:
        """Its turn among the places of one rule, for Istio's proxy, which begins with the last."""
        return _RANKS[self.place], self.name + self.prefix


_DEFAULT: Final = (
    Location(Place.HEADER, "authorization", "Bearer "),
    Location(Place.PARAMETER, "access_token"),
)


def locations(rule: JWTRule) -> tuple[Location, ...]:
    """A rule's places; Authorization and ``access_token`` only where it names none at all."""
    headers = (Location(Place.HEADER, header.name.lower(), header.prefix) for header in rule.from_headers)
    parameters = (Location(Place.PARAMETER, name) for name in rule.from_params)
    cookies = (Location(Place.COOKIE, name) for name in rule.from_cookies)
    return tuple(dict.fromkeys((*headers, *parameters, *cookies))) or _DEFAULT


def without_parameters(query: str, names: Collection[str]) -> str:
    """A query without these parameters, however their names are encoded; every other byte stays."""
    return "&".join(piece for piece in query.split("&") if _parameter(piece)[0] not in names)


def _in_headers(location: Location, facts: RequestFacts) -> list[str]:
    prefix = location.prefix
    return [
        value[len(prefix) :].lstrip(_SPACE) if value.startswith(prefix) else value
        for value in facts.headers[location.name]
        if prefix in value
    ]


def _in_query(location: Location, facts: RequestFacts) -> Iterator[str]:
    query = facts.target.query
    for piece in query.split("&") if query else ():
        name, value = _parameter(piece)
        if name == location.name:
            yield unquote(value)  # a plus sign is no space that a lenient reading could overlook


def _in_cookies(location: Location, facts: RequestFacts) -> Iterator[str]:
    for name, value in _cookies(facts):
        if name == location.name:
            yield _unquoted(value)
        elif name.strip(_SPACE) == location.name:
            yield f"{name}={value}"  # an application may take it for the cookie


def _cookies(facts: RequestFacts) -> Iterator[tuple[str, str]]:
    """Name and value as Istio's proxy reads them: only spaces in front of a name are overlooked."""
    for line in facts.headers.get("cookie", ()):
        # A server that joins repeated lines does it with a comma, which no cookie of ours holds.
        pieces = line.replace(",", ";") if facts.joined_headers else line
        for piece in pieces.split(";"):
            name, equals, value = piece.partition("=")
            if equals:
                yield name.lstrip(" "), value


_RANKS: Final = {Place.HEADER: 0, Place.PARAMETER: 1, Place.COOKIE: 2}
_OUTSIDE_TOKEN: Final = re.compile(r"[^A-Za-z0-9_.-]*")


def _behind(prefix: str, value: str) -> str:
    """What stands behind the prefix, after anything that no token begins with; where nothing is left, all of it."""
    if not prefix:
        return value
    rest = value[value.index(prefix) + len(prefix) :]
    return _OUTSIDE_TOKEN.sub("", rest, count=1) or value


def _parameter(piece: str) -> tuple[str, str]:
    name, _, value = piece.partition("=")
    return unquote_plus(name), value


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
