"""authz: the index and the plain loop say the same of every request."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from itertools import product
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.cases import ISTIO, MESH, compiled, operation, policy, request, without_host
from meshsec.attributes import Attributes
from meshsec.authz import CompiledAuthorization
from meshsec.authz._find import absent, finder
from meshsec.authz._index import RuleIndex
from meshsec.authz._match import Doubt
from meshsec.authz._patterns import Scope
from meshsec.authz._rows import find_row
from meshsec.authz._rules import PolicyRule
from meshsec.matching import IpBlock, Kind, PathTemplate, StringPattern, index_blocks, index_texts
from meshsec.resources import AuthorizationPolicy, MeshConfig

ALIASES: Final = MeshConfig(trust_domain="td", trust_domain_aliases=("cluster.local", "old-td"))
CONFIGS: Final = st.sampled_from([MESH, ISTIO, ALIASES])

# Small vocabularies, so that values and patterns meet; what is odd is in them.
PRINCIPALS: Final = ["cluster.local/ns/prod/sa/web", "td/ns/prod/sa/api", "*/sa/web", "td/*", "*", "other/ns/x/y"]
NAMESPACES: Final = ["prod", "p*", "*d", "*", "test", "*o*"]
ACCOUNTS: Final = ["web", "prod/web", "test/api"]
DOMAINS: Final = ["td", "cluster.local", "o*", "*l", "*"]
TOKENS: Final = ["i/s", "i/*", "*/s", "*", "*s", "i*", "j/t", "https://i/s*"]
BLOCKS: Final = ["10.0.0.0/8", "10.0.0.1", "10.0.0.0/31", "0.0.0.0/0", "::1", "::/0", "::/127", "192.0.2.0/24"]
PORTS: Final = ["80", "8080", "443"]
HOSTS: Final = ["h", "h:80", "H*", "*.example", "*", "a.example.", "a.example"]
METHODS: Final = ["GET", "P*", "*T", "*", "DELETE"]
PATHS: Final = [
    "/", "/a", "/a*", "/a/*", "*/b", "*", "/a/b", "/a:b*", "/a%3Ab", "/{*}", "/a/{*}", "/{*}/b", "/a/{**}",
    "/{**}/b", "/{*}/{*}", "/a/{*}/c/{**}", "/a/{**}/c", "/{**}", "/a/{*}/", "/a/b/c/d*", "*c/d",
    "/a/", "/a/b//", "*/", "*b/", "/{*}/{**}", "/a%2F", "/a/{**}/", "/{**}/b/",
]  # fmt: skip
TEXTS: Final = ["a", "b", "a*", "*b", "*", "a,b", "*, b", "a ,*", "ab", "x y"]
KEYS: Final = {
    "request.headers[x]": TEXTS,
    "request.headers[y]": TEXTS,
    "request.auth.claims[g]": TEXTS,
    "request.auth.claims[o][p]": TEXTS,
    "request.auth.principal": TOKENS,
    "request.auth.audiences": TEXTS,
    "request.auth.presenter": TEXTS,
    "source.ip": BLOCKS,
    "remote.ip": BLOCKS,
    "source.namespace": NAMESPACES,
    "source.principal": PRINCIPALS,
    "source.serviceAccount": ACCOUNTS,
    "source.trustDomain": DOMAINS,
    "destination.ip": BLOCKS,
    "destination.port": PORTS,
    "connection.sni": ["a", "b", "a*", "*b", "*", "ab"],
}
SOURCES: Final = {
    "principals": PRINCIPALS,
    "requestPrincipals": TOKENS,
    "namespaces": NAMESPACES,
    "trustDomains": DOMAINS,
    "ipBlocks": BLOCKS,
    "remoteIpBlocks": BLOCKS,
}
ACCOUNT_SOURCES: Final = {"serviceAccounts": ACCOUNTS, "ipBlocks": BLOCKS}  # not beside principals and namespaces
OPERATIONS: Final = {"hosts": HOSTS, "ports": PORTS, "methods": METHODS, "paths": PATHS}


# Strategies are made once: making them costs more than drawing from them does.
FORMS: Final = st.sampled_from(["plain", "negated", "both"])
ACTIONS: Final = st.sampled_from(["ALLOW", "ALLOW", "DENY", "AUDIT"])
COUNTS: Final = st.integers(1, 4)


@cache
def some(*values: str) -> st.SearchStrategy[list[str]]:
    """One to three of them."""
    return st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True)


def filled(draw: Callable[..., Any], name: str, negated: str, values: list[str]) -> dict[str, list[str]]:
    """A field, its negation, or both."""
    form = draw(FORMS)
    fields = {"plain": (name,), "negated": (negated,), "both": (name, negated)}[form]
    return {field: draw(some(*values)) for field in fields}


@st.composite
def entry(draw: Callable[..., Any], table: dict[str, list[str]]) -> dict[str, Any]:
    """A source or an operation: some fields, some of them negated."""
    found: dict[str, Any] = {}
    for name in draw(some(*table)):
        found |= filled(draw, name, f"not{name[0].upper()}{name[1:]}", table[name])
    return found


FROM: Final = st.lists(st.one_of(entry(SOURCES), entry(SOURCES), entry(ACCOUNT_SOURCES)), max_size=3)
TO: Final = st.lists(entry(OPERATIONS), max_size=3)


@st.composite
def condition(draw: Callable[..., Any], key: str) -> dict[str, Any]:
    """One ``when``."""
    return {"key": key, **filled(draw, "values", "notValues", KEYS[key])}


CONDITIONS: Final = {key: condition(key) for key in KEYS}


@st.composite
def rule(draw: Callable[..., Any], keys: list[str]) -> dict[str, Any]:
    """Up to three of each part."""
    parts = {
        "from": [{"source": item} for item in draw(FROM)],
        "to": [{"operation": item} for item in draw(TO)],
        "when": draw(st.lists(st.one_of([CONDITIONS[key] for key in keys]), max_size=3)),
    }
    return {name: part for name, part in parts.items() if part}


@st.composite
def policies(draw: Callable[..., Any]) -> list[AuthorizationPolicy]:
    """Up to four, of every action; few keys, so that one attribute is asked for more than once."""
    found = []
    rules = rule(draw(some(*KEYS)))
    few, one = st.lists(rules, max_size=4), st.lists(rules, min_size=1, max_size=4)
    for index in range(draw(COUNTS)):
        action = draw(ACTIONS)
        found.append(policy(*draw(few if action == "ALLOW" else one), action=action, name=f"p{index}"))
    return found


# What a request may be, by parameter of authz.cases.request.
VALUES: Final[dict[str, list[Any]]] = {
    "peer": [
        None, "spiffe://cluster.local/ns/prod/sa/web", "spiffe://td/ns/prod/sa/api", "spiffe://other/ns/x/y",
        "spiffe://old-td/x/ns/test/y/sa/api", "spiffe://td",
    ],
    "claims": [
        None, {}, {"iss": "i", "sub": "s", "g": ["a", "b", 3]}, {"iss": "i", "sub": "t", "aud": "a", "azp": "ab"},
        {"iss": "j", "sub": "t", "o": {"p": "a"}}, {"iss": "i", "g": 3, "aud": ["x", "ab"]}, {"iss": "", "sub": ""},
    ],
    "target": [
        "/", "/a", "/a/", "/a/b", "/a/b/c", "/a/b/c/d", "/a:b", "/a%3Ab", "/a%3ab", "/%61", "/a/[x]", "/a//b", "/b",
        "/a/x/c/", "/a/x/c/y", "/a%2Fb", "/a/%C3%A4", "/{*}", "/x?a=/b", "/a//", "/a/b/", "/%61/", "/a:b/", "/a%2F",
        "//",
    ],
    "path": [None, None, None, "*", "/a/\u00e4", "/a/\udcff", "a", "/a\u2028b"],
    "method": ["GET", "POST", "PUT"],
    "host": ["h", "h:80", "H", "a.example", "a.example.:80", "[::1]:80", "h."],
    "source_ip": [None, "10.0.0.1", "10.0.0.2", "192.0.2.1", "::1", "::2", "garbage"],
    "destination_ip": [None, "10.0.0.1", "::1"],
    "destination_port": [None, 80, 8080],
    "sni": [None, "a", "ab"],
}  # fmt: skip
LINES: Final = ["", "a", "b", "a,b", "a, b", ",a", "ab ,b,", "b,x y", "a,bb", "xb,ax"]
REQUESTS: Final = st.builds(
    request,
    headers=st.lists(
        st.tuples(st.sampled_from("xy"), st.sampled_from(LINES))
        | st.tuples(st.just("x-forwarded-for"), st.sampled_from(["10.0.0.1", "192.0.2.1", "::1", "garbage"])),
        max_size=3,
    ),
    joined=st.booleans(),
    **{name: st.sampled_from(values) for name, values in VALUES.items()},
)


class Loop:
    """Rules asked one after the other, as they are written: what the index must agree with."""

    def __init__(self, rules: Sequence[PolicyRule], _rows: object) -> None:
        self.rules = rules

    def first(self, values: Sequence[Any]) -> PolicyRule | None:
        """The first that matches."""
        return next((rule for rule in self.rules if rule.matches(values)), None)

    def policies(self, values: Sequence[Any]) -> tuple[str, ...]:
        """The policies of all that match."""
        return tuple(dict.fromkeys(rule.policy for rule in self.rules if rule.matches(values)))


def looped(authorization: CompiledAuthorization) -> CompiledAuthorization:
    """The same policies without an index."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RuleIndex, "of", Loop)
        return CompiledAuthorization.of((*authorization.policies, *authorization.trials), authorization.rows)


@given(items=policies(), asked=st.lists(REQUESTS, min_size=1, max_size=12), config=CONFIGS)
@settings(max_examples=150, deadline=None)
def test_the_index_agrees_with_the_loop(
    items: list[AuthorizationPolicy], asked: list[Attributes], config: MeshConfig
) -> None:
    """Verdict, policy, rule and what is audited, for every field, action, negation and doubt."""
    index = compiled(*items, config=config)
    loop = looped(index)
    for each in asked:
        assert index.evaluate(each) == loop.evaluate(each)


@given(items=policies(), first=REQUESTS, asked=st.lists(REQUESTS, min_size=1, max_size=12), config=CONFIGS)
@settings(max_examples=150, deadline=None)
def test_a_line_is_judged_as_the_whole_request_is(
    items: list[AuthorizationPolicy], first: Attributes, asked: list[Attributes], config: MeshConfig
) -> None:
    """Of a request whose method and path alone differ from those of one whose values are known."""
    index = compiled(*items, config=config)
    known = tuple(index.read(first))
    for each in asked:
        whole = replace(first, path=each.path, facts=replace(first.facts, method=each.facts.method))
        line = each.facts.method, each.path
        assert index.evaluate_line(known, *line) == index.evaluate(whole)
        assert index.explain_line(known, *line) == index.explain(whole)


KEYS_OF_OPERATIONS: Final = {"hosts": HOSTS, "methods": METHODS, "paths": PATHS}
SCOPE: Final = Scope("prod", ("td", "cluster.local"))


VARIED: Final = [
    without_host(request()),
    *(request(**{name: value}) for name, values in VALUES.items() for value in values),
    *(
        request(headers=[("x", line) for line in lines], joined=joined)
        for lines in ((), *((line,) for line in LINES), ("a", "b"), ("a,b", "x y"))
        for joined in (False, True)
    ),
]


@pytest.mark.parametrize("istio", [False, True])
@pytest.mark.parametrize("matches", [False, True])
@pytest.mark.parametrize("key", [*KEYS, *KEYS_OF_OPERATIONS])
def test_one_look_agrees_with_many_predicates(key: str, matches: bool, istio: bool) -> None:
    """For each attribute, what is found for a value is every condition whose predicate holds, and no other."""
    row, doubt = find_row(key), Doubt(matches, istio)
    texts = (KEYS | KEYS_OF_OPERATIONS)[key]
    groups = [tuple(row.parse(text, SCOPE)) for text in texts]
    groups += [first + second for first in groups for second in groups]
    parts = [(group, 1 << bit) for bit, group in enumerate(groups)]
    find, missing = finder(row.test)(parts, doubt), absent(row.test, parts, doubt)
    predicates = [(row.test(group, doubt), bit) for group, bit in parts]
    for asked in VARIED:
        value = row.read(asked)
        expected = sum(bit for holds, bit in predicates if holds(value))
        assert (missing if value is None else find(value)) == expected


@pytest.mark.parametrize("negated", [False, True])
def test_one_attribute_twice(negated: bool) -> None:
    """Two conditions on one attribute must both hold, in whichever part of the rule they stand."""
    field, key = ("notIpBlocks", "notValues") if negated else ("ipBlocks", "values")
    twice = {
        "from": [{"source": {field: ["10.0.0.0/31"]}}],
        "when": [{"key": "source.ip", key: ["10.0.0.1", "10.0.0.3"]}, {"key": "source.ip", key: ["10.0.0.1", "::1"]}],
    }
    index = compiled(policy(twice))
    for ip in ("10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3", "::1"):
        allowed = ip == "10.0.0.2" if negated else ip == "10.0.0.1"
        asked = request(source_ip=ip)
        assert index.evaluate(asked).allowed is looped(index).evaluate(asked).allowed is allowed


def test_a_rule_with_very_many_clauses() -> None:
    """Ten sources with ten operations are asked themselves, and the rules around them are still told apart."""
    many = {
        "from": [{"source": {"ipBlocks": [f"10.0.0.{index}"]}} for index in range(10)],
        "to": [{"operation": {"paths": [f"/p{index}"]}} for index in range(10)],
        "when": [{"key": "request.headers[x]", "values": ["a"]}],
    }
    for action in ("ALLOW", "AUDIT"):
        index = compiled(policy(operation(paths=["/p1"]), many, operation(paths=["/p9"], hosts=["h"]), action=action))
        loop = looped(index)
        for path, ip, header in product(("/p0", "/p1", "/p9"), ("10.0.0.9", "10.1.1.1"), ("a", "b")):
            asked = request(target=path, source_ip=ip, headers=[("x", header)])
            assert index.evaluate(asked) == loop.evaluate(asked)


@given(
    blocks=st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)), min_size=1, max_size=30),
    addresses=st.lists(st.integers(0, 2**32 - 1), max_size=20),
)
def test_blocks_within_blocks(blocks: list[tuple[int, int]], addresses: list[int]) -> None:
    """The index of address blocks agrees with asking each block, at their ends too."""
    parsed = [IpBlock.parse(f"{IPv4Address(number)}/{length}") for number, length in blocks]
    find = index_blocks((block, 1 << bit) for bit, block in enumerate(parsed))
    ends = [block.network + step for block in parsed for step in (-1, 0, 2**32 - 1 - block.mask, 2**32 - block.mask)]
    for number in (*addresses, *(end for end in ends if 0 <= end < 2**32)):
        address = IPv4Address(number)
        assert find(address) == sum(1 << bit for bit, block in enumerate(parsed) if block.contains(address))
    assert find(IPv6Address("::1")) == 0


EDGES: Final = st.text("a\0\x7f\xff\ud800\uffff\U0010ffff", max_size=3)


@given(
    patterns=st.lists(st.builds(StringPattern, st.sampled_from(list(Kind)), EDGES), min_size=1, max_size=20),
    value=EDGES,
)
@settings(max_examples=200)
def test_texts_at_the_edges_of_the_alphabet(patterns: list[StringPattern], value: str) -> None:
    """Ranges of text end rightly where the last character has no successor."""
    find = index_texts((pattern, 1 << bit) for bit, pattern in enumerate(patterns))
    assert find(value) == sum(1 << bit for bit, pattern in enumerate(patterns) if pattern.matches(value))


@given(
    templates=st.lists(
        st.lists(st.sampled_from(["a", "b", "{*}"]), min_size=1, max_size=3).flatmap(
            lambda head: st.sampled_from(["", "/", "/{**}", "/{**}/a", "/{**}/b/a"]).map(
                lambda tail: "/" + "/".join(head) + tail
            )
        ),
        min_size=1,
        max_size=20,
    ),
    path=st.lists(st.sampled_from(["a", "b", "", "[", "c"]), max_size=6).map("/".join),
    strict=st.booleans(),
)
@settings(max_examples=200)
def test_templates(templates: list[str], path: str, strict: bool) -> None:
    """The index of templates agrees with asking each template."""
    parsed = [PathTemplate.parse(text) for text in templates if "{" in text]
    find = index_texts(((template, 1 << bit) for bit, template in enumerate(parsed)), strict=strict)
    expected = (1 << bit for bit, template in enumerate(parsed) if template.matches(path, strict=strict))
    assert find(path) == sum(expected)


def test_no_request_is_slow_among_many_rules() -> None:
    """A request takes as many steps among many rules as with one, whatever it asks for."""
    one, many = (
        compiled(policy(*(operation(paths=[f"/p{n}", f"/q{n}/*"], methods=["GET"]) for n in range(count))))
        for count in (1, 512)
    )
    for path in ("/p0", "/p511", "/none"):
        assert calls(many, path) == calls(one, path)


def calls(authorization: CompiledAuthorization, path: str) -> int:
    """How many functions run for a request that no rule lets in."""
    asked, counted = request(target=path, method="POST"), 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal counted
        counted += event in {"call", "c_call"}

    authorization.evaluate(asked)
    sys.setprofile(count)
    try:
        authorization.evaluate(asked)
    finally:
        sys.setprofile(None)
    return counted
