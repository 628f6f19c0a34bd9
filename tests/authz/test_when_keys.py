"""authz: the keys of ``when`` that are no field: headers, claims, SNI."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.cases import ISTIO, MESH, both, compiled, matches, policy, request, when
from meshsec.errors import ConfigError
from meshsec.resources import AuthorizationPolicy, Condition, MeshConfig

ROLE: Final = "request.headers[x-role]"

# Value, lines of the header, whether it matches. Each line is looked at alone (CVE-2026-26308).
HEADERS: Final = [
    ("admin", ["admin"], True),
    ("admin", ["user"], False),
    ("admin", [], False),
    ("admin", ["user", "admin"], True),
    ("admin", ["admin", "user"], True),
    ("admin", ["user,admin"], False),
    ("user,admin", ["user", "admin"], False),
    ("user,admin", ["user,admin"], True),
    ("admin", ["  admin\t"], True),
    ("admin", ["Admin"], False),
    ("ad*", ["user", "adm"], True),
    ("*min", ["admin "], True),
    ("*", [""], True),
    ("*", ["x"], True),
    ("*", [], False),
]


@pytest.mark.parametrize(("value", "lines", "expected"), HEADERS)
@pytest.mark.parametrize("key", [ROLE, "request.headers[X-Role]"])
def test_headers(key: str, value: str, lines: list[str], expected: bool) -> None:
    """Line by line; a negation holds where no line matches, and where there is none."""
    asked = request(headers=[("X-ROLE", line) for line in lines])
    assert both(when(key, value), asked) is expected
    assert both(when(key, notValues=[value]), asked) is not expected


# Value, the joined header, whether an ALLOW matches, whether a DENY does.
JOINED: Final = [
    ("admin", "admin", True, True),
    ("admin", "user", False, False),
    ("admin", "user,admin", False, True),
    ("admin", "admin, user", False, True),
    ("admin", "admin,admin", False, True),
    ("user,admin", "user,admin", False, True),
    ("b,c", "a,b, c", False, True),
    ("b, c", "a,b,c", False, True),
    ("b,*", "a,b,c", False, True),
    ("a*", "ab,ac", True, True),
    ("a*", "ab,b", False, True),
    ("*", "a,b", True, True),
    ("*", "", True, True),
    ("b*", "ab,b", False, True),
    ("c", "a,b", False, False),
]


@pytest.mark.parametrize(("value", "line", "allow", "deny"), JOINED)
def test_joined_headers(value: str, line: str, allow: bool, deny: bool) -> None:
    """A line that may be several: a DENY matches if the whole or a piece does, an ALLOW only if all of them do."""
    asked = request(headers=[("x-role", line)], joined=True)
    assert matches(when(ROLE, value), asked, "ALLOW") is allow
    assert matches(when(ROLE, value), asked, "DENY") is deny
    assert matches(when(ROLE, notValues=[value]), asked, "ALLOW") is not deny
    assert matches(when(ROLE, notValues=[value]), asked, "DENY") is not allow


@pytest.mark.parametrize(("line", "allow"), [("xb,ac", False), ("ab,ab", True)])
def test_pieces_that_each_match_do_not_make_a_line_that_does(line: str, allow: bool) -> None:
    """What looks like several may have been one, comma and all: then only the whole counts."""
    asked = request(headers=[("x-role", line)], joined=True)
    assert matches(when(ROLE, "a*", "*b"), asked, "ALLOW") is allow
    assert matches(when(ROLE, "a*", "*b"), asked, "DENY")


LINES: Final = st.lists(st.text("ab, ", max_size=4), min_size=1, max_size=3)
VALUES: Final = st.lists(
    st.text("ab, *", min_size=1, max_size=3).filter(lambda text: text == text.strip()), min_size=1, max_size=4
)


@given(values=VALUES, lines=LINES, negated=st.booleans(), comma=st.sampled_from([",", ", "]))
@settings(max_examples=500)
def test_joined_is_never_laxer(values: list[str], lines: list[str], negated: bool, comma: str) -> None:
    """Whatever lines a server joined, the joined form is refused wherever the lines are."""
    rule = when(ROLE, notValues=values) if negated else when(ROLE, *values)
    apart = request(headers=[("x-role", line) for line in lines])
    joined = request(headers=[("x-role", comma.join(line.strip() for line in lines))], joined=True)
    assert matches(rule, apart, "ALLOW") or not matches(rule, joined, "ALLOW")
    assert matches(rule, joined, "DENY") or not matches(rule, apart, "DENY")


@pytest.mark.parametrize("config", [MESH, ISTIO])
def test_values_are_bytes(config: MeshConfig) -> None:
    """A policy's text is compared as UTF-8, as Envoy compares it; what a client sends is bytes as latin-1."""
    for value in ("\xe9", "\xe9*", "*\xe9"):
        assert both(when(ROLE, value), request(headers=[("x-role", "\xc3\xa9")]), config=config)
        assert not both(when(ROLE, value), request(headers=[("x-role", "\xe9")]), config=config)


def test_the_host_header() -> None:
    """The host in effect can be asked for as a header, case and all."""
    assert both(when("request.headers[Host]", "A.example"), request(host="A.example"))
    assert not both(when("request.headers[Host]", "a.example"), request(host="A.example"))


# Key, value, claims that match, claims that do not.
CLAIMS: Final[list[tuple[str, str, dict[str, Any], dict[str, Any] | None]]] = [
    ("claims[a]", "x", {"a": "x"}, {"a": "y"}),
    ("claims[a]", "x", {"a": ["y", "x"]}, {"a": ["y"]}),
    ("claims[a]", "x", {"a": "x"}, {}),
    ("claims[a]", "x", {"a": "x"}, None),
    ("claims[a]", "*", {"a": "x"}, {"a": ""}),
    ("claims[a]", "*", {"a": ["x"]}, {"a": []}),
    ("claims[a]", "*", {"a": ["", "x"]}, {"a": [""]}),
    ("claims[a]", "x*", {"a": "xy"}, {"a": "yx"}),
    ("claims[a]", "*x", {"a": ["yx"]}, {"a": ["xy"]}),
    ("claims[a]", "1", {"a": "1"}, {"a": 1}),
    ("claims[a]", "*", {"a": "1"}, {"a": 1}),
    ("claims[a]", "true", {"a": "true"}, {"a": True}),
    ("claims[a]", "*", {"a": "null"}, {"a": None}),
    ("claims[a]", "1.5", {"a": ["1.5"]}, {"a": [1.5, 1, True, None]}),
    ("claims[a]", "x", {"a": ["x", 1]}, {"a": [["x"]]}),
    ("claims[a]", "*", {"a": "x"}, {"a": {"b": "x"}}),
    ("claims[a]", "x", {"a": "x"}, {"A": "x"}),
    ("claims[a][b]", "x", {"a": {"b": "x"}}, {"a": {"b": "y"}}),
    ("claims[a][b]", "x", {"a": {"b": ["x"]}}, {"a": [{"b": "x"}]}),
    ("claims[a][b]", "x", {"a": {"b": "x"}}, {"a": "x"}),
    ("claims[a][b][c]", "x", {"a": {"b": {"c": "x"}}}, {"a": {"b": "x"}}),
    ("claims[a.b]", "x", {"a.b": "x"}, {"a": {"b": "x"}}),
    ("claims[a[b]c]", "x", {"a[b]c": "x"}, {"a": {"b": {"c": "x"}}}),
    ("audiences", "x", {"aud": "x"}, {"aud": "y"}),
    ("audiences", "x", {"aud": ["y", "x"]}, {"aud": ["y"]}),
    ("presenter", "x", {"azp": "x"}, {"azp": "y"}),
    ("presenter", "x", {"azp": ["x"]}, {"aud": "x"}),
]


@pytest.mark.parametrize(("key", "value", "good", "bad"), CLAIMS)
def test_claims(key: str, value: str, good: dict[str, Any], bad: dict[str, Any] | None) -> None:
    """A text that matches, or a list with one; numbers and truth values never."""
    for claims, expected in ((good, True), (bad, False)):
        asked = request(claims=claims)
        assert both(when(f"request.auth.{key}", value), asked) is expected
        assert both(when(f"request.auth.{key}", notValues=[value]), asked) is not expected


@pytest.mark.parametrize(
    ("value", "sni", "expected"),
    [("a.b", "a.b", True), ("a.b", "A.b", True), ("*.b", "a.b", True),
     ("a*", "b", False), ("*", "a", True), ("*", None, False), ("*", "", False),
     ("outbound_.80_._.h", "outbound_.80_._.h", True)],
)  # fmt: skip
def test_sni(value: str, sni: str | None, expected: bool) -> None:
    """Lower case, whatever the client sent, as Envoy has it; on plaintext it is the empty text."""
    assert both(when("connection.sni", value), request(sni=sni)) is expected
    assert both(when("connection.sni", notValues=[value]), request(sni=sni)) is not expected


def test_values_and_not_values() -> None:
    """Any of the values, and none of the others."""
    rule = when(ROLE, "a*", notValues=["ab"])
    assert both(rule, request(headers=[("x-role", "ac")]))
    assert not both(rule, request(headers=[("x-role", "ab")]))
    assert not both(rule, request(headers=[("x-role", "ac"), ("x-role", "ab")]))
    assert not both(rule, request())


@pytest.mark.parametrize(
    "key", ["destination.labels", "source.serviceaccount", "request.headers", "request.headers[", "x", "", "sni"]
)
def test_unknown_keys(key: str) -> None:
    """Should one get past the loader, it is refused here: Istio would drop the rule, a DENY too."""
    good = policy(when("source.ip", "10.0.0.1"), action="DENY")
    condition = Condition.model_construct(key=key, values=("x",), not_values=())
    rule = good.spec.rules[0].model_copy(update={"when": (condition,)}) if good.spec.rules else None
    bad: AuthorizationPolicy = good.model_copy(update={"spec": good.spec.model_copy(update={"rules": (rule,)})})
    with pytest.raises(ConfigError, match="unknown attribute") as caught:
        compiled(bad, bad)
    assert [problem.resource for problem in caught.value.problems] == ["AuthorizationPolicy prod/p"] * 2
