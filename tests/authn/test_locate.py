"""Where tokens stand in a request, and how one is taken out of a query."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshsec.authn._locate import Location, Place, locations, without_parameters
from meshsec.resources import JWTRule
from tokens import request_facts

ISSUER = "https://issuer.example"


def find(facts: Any, **rule: Any) -> list[str]:
    """Every token that a rule with these locations finds."""
    places = locations(JWTRule(issuer=ISSUER, **rule))
    return [token for place in places for token in place.find(facts)]


def test_authorization_and_access_token_are_looked_at_only_without_other_locations() -> None:
    """As in Istio: naming any location takes the defaults away."""
    facts = request_facts("/?access_token=q", ("authorization", "Bearer h"), ("x-token", "x"))
    assert find(facts) == ["h", "q"]
    assert find(facts, from_headers=[{"name": "X-Token"}]) == ["x"]
    assert find(facts, from_params=["other"]) == []
    assert find(facts, from_cookies=["other"]) == []


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        ("Bearer a.b.c", ["a.b.c"]),
        ("Bearer   a.b.c", ["a.b.c"]),
        ("Bearer a.b.c \t", ["a.b.c"]),
        ("Bearer a.b.c, Bearer d.e.f", ["a.b.c, Bearer d.e.f"]),
        ("bearer a.b.c", []),
        ("BEARER a.b.c", []),
        ("Bearer", []),
        ("Bearer ", []),
        ("Bearera.b.c", []),
        ("Basic Og==", []),
        ("a.b.c", []),
        ("", []),
        ("Foo Bearer a.b.c", ["Foo Bearer a.b.c"]),
        ("Basic Og==, Bearer a.b.c", ["Basic Og==, Bearer a.b.c"]),
        ("Bearer Bearer a.b.c", ["Bearer a.b.c"]),
    ],
)
def test_bearer_stands_at_the_beginning(value: str, tokens: list[str]) -> None:
    """Elsewhere in the value it makes the whole value a token, and no token looks like that."""
    assert find(request_facts("/", ("authorization", value))) == tokens


def test_without_a_prefix_every_line_is_a_token() -> None:
    """An empty line too: it is a token, and a bad one."""
    facts = request_facts("/", ("x-a", "one"), ("X-A", ""), ("x-b", "two"))
    assert find(facts, from_headers=[{"name": "x-a"}]) == ["one", ""]


def test_a_prefix_may_be_anything() -> None:
    """With or without a space at its end."""
    facts = request_facts("/", ("x-a", "Token=abc"), ("x-a", "Other=abc"))
    assert find(facts, from_headers=[{"name": "x-a", "prefix": "Token="}]) == ["abc"]


@pytest.mark.parametrize(
    ("query", "tokens"),
    [
        ("access_token=a.b.c", ["a.b.c"]),
        ("x=1&access_token=a.b.c&y=2", ["a.b.c"]),
        ("access_token=a%2Eb%2ec", ["a.b.c"]),
        ("access%5Ftoken=abc", ["abc"]),
        ("access_token=", [""]),
        ("access_token", [""]),
        ("access_token=a=b", ["a=b"]),
        ("access_token=a+b+", ["a+b+"]),
        ("access_token=a&access_token=b", ["a", "b"]),
        ("access_token=a&access%5ftoken=b", ["a", "b"]),
        ("Access_Token=a", []),
        ("xaccess_token=a", []),
        ("access_token%00=a", []),
        ("", []),
    ],
)
def test_query_parameters(query: str, tokens: list[str]) -> None:
    """Form-decoded names and values; every occurrence counts."""
    assert find(request_facts(f"/?{query}")) == tokens


@pytest.mark.parametrize("spelling", ["my+token", "my%20token", "m%79+token", "my%2btoken", "my token"])
def test_a_parameters_name_may_have_a_space(spelling: str) -> None:
    """A plus sign is one, in a name; an application that decodes it finds the token that we found."""
    facts = replace(request_facts("/"), target=replace(request_facts("/").target, query=f"a&{spelling}=t"))
    found = find(facts, from_params=["my token"])
    assert found == [value for name, value in parse_qsl(f"a&{spelling}=t") if name == "my token"]
    assert bool(found) == ("%2b" not in spelling)


@pytest.mark.parametrize(
    ("cookie", "tokens"),
    [
        ("jwt=abc", ["abc"]),
        ("a=1; jwt=abc; b=2", ["abc"]),
        ("a=1;jwt=abc", ["abc"]),
        ('jwt="abc"', ["abc"]),
        ('jwt="', ['"']),
        ('jwt=""', [""]),
        ("jwt=", [""]),
        ("jwt=a=b", ["a=b"]),
        ("jwt", []),
        ("JWT=abc", []),
        ("xjwt=abc", []),
        ("jwt=a; jwt=b", ["a", "b"]),
        ("a=1;   jwt=abc", ["abc"]),
        ("jwt= abc", [" abc"]),
        ("jwt=abc ;a=1", ["abc "]),
        ("jwt =abc", ["jwt =abc"]),
        ("a=1;\tjwt\t=abc", ["\tjwt\t=abc"]),
    ],
)
def test_cookies(cookie: str, tokens: list[str]) -> None:
    """Exact names, surrounding quotes removed, every occurrence counts; white space makes it a bad token."""
    assert find(request_facts("/", ("cookie", cookie)), from_cookies=["jwt"]) == tokens


@pytest.mark.parametrize(
    ("cookie", "tokens"), [(" jwt=abc; jwt=x", ["abc"]), ("jwt =abc", []), ("a=1;\tjwt=abc", []), ("jwt= a", [" a"])]
)
def test_cookies_as_istio_reads_them(cookie: str, tokens: list[str]) -> None:
    """The first of the very name; only spaces in front of it are overlooked."""
    (place,) = locations(JWTRule(issuer=ISSUER, from_cookies=["jwt"]))
    assert place.find_as_istio(request_facts("/", ("cookie", cookie))) == tokens


def test_cookies_of_several_lines_are_all_seen() -> None:
    """As lines (HTTP/2 may split them), and joined with commas by a gateway interface."""
    assert find(request_facts("/", ("cookie", "a=1"), ("cookie", "jwt=b")), from_cookies=["jwt"]) == ["b"]
    assert find(request_facts("/", ("cookie", "a=1,jwt=b"), joined=True), from_cookies=["jwt"]) == ["b"]
    assert find(request_facts("/", ("cookie", "a=1,jwt=b")), from_cookies=["jwt"]) == []


def test_the_same_place_is_looked_at_once() -> None:
    """A place that is named twice in a rule gives one token."""
    rule = JWTRule(issuer=ISSUER, from_params=["t", "t"])
    assert locations(rule) == (Location(Place.PARAMETER, "t"),)


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("t=1", ""),
        ("t=1&x=2", "x=2"),
        ("x=2&t=1", "x=2"),
        ("x=%2f&t=1&&y=a+b&z", "x=%2f&&y=a+b&z"),
        ("%74=1&T=2", "T=2"),
        ("t&t=&x=t", "x=t"),
        ("x=1;t=2", "x=1;t=2"),
    ],
)
def test_removing_a_parameter_keeps_every_other_byte(query: str, kept: str) -> None:
    """Escapes, empty pieces and order stay as they are."""
    assert without_parameters(query, {"t"}) == kept


@given(st.text(alphabet="ab&=%2f+;t", max_size=30))
def test_after_removal_nobody_finds_the_parameter(query: str) -> None:
    """Another parser sees all the others, in order, and none of that name."""
    before = parse_qsl(query, keep_blank_values=True)
    after = parse_qsl(without_parameters(query, {"t"}), keep_blank_values=True)
    assert after == [pair for pair in before if pair[0] != "t"]
