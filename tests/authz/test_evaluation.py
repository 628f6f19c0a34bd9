"""authz: how policies, rules and their parts add up."""

from __future__ import annotations

from itertools import product
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.cases import ISTIO, WEB, compiled, matches, operation, policy, request, source, when
from meshsec.attributes import Attributes
from meshsec.authz import CompiledAuthorization, Verdict
from meshsec.decision import Reason
from meshsec.errors import ConfigError
from meshsec.resources import Action, AuthorizationPolicy, MeshConfig

GET: Final = operation(methods=["GET"])
POST: Final = operation(methods=["POST"])
ALL: Final[dict[str, Any]] = {}
ASKED: Final = request(peer=WEB, target="/a")

# The table of empty things, and of actions together: policies, and the verdict on a GET.
POLICIES: Final = [
    ([], Verdict(Reason.NO_ALLOW_POLICY)),
    ([policy()], Verdict(Reason.NO_ALLOW_RULE)),
    ([policy(rules=[])], Verdict(Reason.NO_ALLOW_RULE)),
    ([policy(ALL)], Verdict(Reason.ALLOW_RULE, "prod/p", 0)),
    ([policy(ALL, action="DENY")], Verdict(Reason.DENY_RULE, "prod/p", 0)),
    ([policy(ALL, action="AUDIT")], Verdict(Reason.NO_ALLOW_POLICY, audited=("prod/p",))),
    ([policy(action="AUDIT")], Verdict(Reason.NO_ALLOW_POLICY)),
    ([policy(POST, action="DENY")], Verdict(Reason.NO_ALLOW_POLICY)),
    ([policy(GET)], Verdict(Reason.ALLOW_RULE, "prod/p", 0)),
    ([policy(POST)], Verdict(Reason.NO_ALLOW_RULE)),
    ([policy(POST, GET)], Verdict(Reason.ALLOW_RULE, "prod/p", 1)),
    ([policy(POST), policy(GET, name="q")], Verdict(Reason.ALLOW_RULE, "prod/q", 0)),
    ([policy(GET, name="q"), policy(GET, name="b")], Verdict(Reason.ALLOW_RULE, "prod/b", 0)),
    ([policy(ALL), policy(GET, action="DENY", name="d")], Verdict(Reason.DENY_RULE, "prod/d", 0)),
    ([policy(ALL), policy(POST, action="DENY", name="d")], Verdict(Reason.ALLOW_RULE, "prod/p", 0)),
    ([policy(POST, namespace="istio-system")], Verdict(Reason.NO_ALLOW_RULE)),
    ([policy(POST, namespace="istio-system"), policy(GET)], Verdict(Reason.ALLOW_RULE, "prod/p", 0)),
    (
        [policy(GET, action="AUDIT", name="a"), policy(GET, action="DENY", name="d"), policy(ALL)],
        Verdict(Reason.DENY_RULE, "prod/d", 0, ("prod/a",)),
    ),
]


@pytest.mark.parametrize(("policies", "expected"), POLICIES)
def test_policies(policies: list[AuthorizationPolicy], expected: Verdict) -> None:
    """AUDIT marks, DENY wins, an ALLOW policy anywhere turns on default-deny; the order of the files is nothing."""
    assert compiled(*policies).evaluate(ASKED) == expected
    assert compiled(*reversed(policies)).evaluate(ASKED) == expected
    allowed = expected.reason in {Reason.NO_ALLOW_POLICY, Reason.ALLOW_RULE}
    assert expected.allowed is allowed


@pytest.mark.parametrize(
    ("value", "enforced"),
    [("true", False), ("1", False), ("T", False), ("false", True), ("0", True), ("yes", True), ("", True)],
)
def test_dry_run(value: str, enforced: bool) -> None:
    """A dry-run policy enforces nothing and turns on nothing; what is no truth value enforces, as in Istio."""
    for item in (policy(action="ALLOW"), policy(ALL, action="DENY")):
        metadata = item.metadata.model_copy(update={"annotations": {"istio.io/dry-run": value}})
        verdict = compiled(item.model_copy(update={"metadata": metadata})).evaluate(ASKED)
        assert verdict.allowed is not enforced


def test_custom_does_not_get_here() -> None:
    """Should one get past the loader, it is refused."""
    item = policy(ALL)
    spec = item.spec.model_copy(update={"action": Action.CUSTOM})
    with pytest.raises(ConfigError, match="CUSTOM"):
        compiled(item.model_copy(update={"spec": spec}))


def test_from_to_when() -> None:
    """Any ``from`` with any ``to``, and every ``when``."""
    rule = {
        "from": [{"source": {"namespaces": ["prod"]}}, {"source": {"namespaces": ["test"]}}],
        "to": [{"operation": {"methods": ["GET"]}}, {"operation": {"paths": ["/open"]}}],
        "when": [{"key": "request.headers[a]", "values": ["1", "2"]}, {"key": "connection.sni", "values": ["s"]}],
    }
    for namespace, method, path, header, sni in product(
        ("prod", "test", "other"), ("GET", "POST"), ("/open", "/x"), ("1", "2", "3"), ("s", "t")
    ):
        asked = request(
            peer=f"spiffe://cluster.local/ns/{namespace}/sa/x",
            method=method,
            target=path,
            headers=[("a", header)],
            sni=sni,
        )
        expected = namespace != "other" and (method == "GET" or path == "/open") and header != "3" and sni == "s"
        assert matches(rule, asked, "ALLOW") is expected
        assert matches(rule, asked, "DENY") is expected


def test_fields_of_one_entry() -> None:
    """Fields are ANDed, a field and its negation too."""
    rule = source(namespaces=["p*"], notNamespaces=["prod"], ipBlocks=["10.0.0.0/8"])
    peer = "spiffe://cluster.local/ns/{}/sa/x"
    assert matches(rule, request(peer=peer.format("pre")))
    assert not matches(rule, request(peer=peer.format("prod")))
    assert not matches(rule, request(peer=peer.format("pre"), source_ip="192.0.2.1"))
    assert not matches(rule, request())


@pytest.mark.parametrize("kind", ["PREFIX", "SUFFIX", "EXACT", "PRESENT"])
def test_names_are_literal(kind: str) -> None:
    """Characters that mean something in regular expressions mean nothing here (CVE-2026-39350)."""
    forms = {"PREFIX": "a.b*", "SUFFIX": "*a.b", "EXACT": "a.b", "PRESENT": "*"}
    rule = when("request.headers[x]", forms[kind])
    assert matches(rule, request(headers=[("x", "a.b")]))
    assert matches(rule, request(headers=[("x", "aXb")])) is (kind == "PRESENT")


# A model of one attribute that shares no code with the rooms: text, value of the policy, answer.
def naive(value: str, text: str) -> bool:
    """Istio's value forms."""
    if value == "*":
        return True
    if value[0] == "*":
        return text[len(text) - len(value) + 1 :] == value[1:] and len(text) >= len(value) - 1
    if value[-1] == "*":
        return text[: len(value) - 1] == value[:-1]
    return text == value


NAMES: Final = st.text("ab.", min_size=1, max_size=3)
VALUES: Final = st.lists(st.text("ab.*", min_size=1, max_size=4), min_size=1, max_size=3)


@given(
    rules=st.lists(st.tuples(st.lists(st.tuples(VALUES, VALUES), max_size=2), VALUES), max_size=3),
    action=st.sampled_from(["ALLOW", "DENY"]),
    first=NAMES,
    second=NAMES,
    istio=st.booleans(),
)
@settings(max_examples=300)
def test_rules_agree_with_a_naive_model(
    rules: list[tuple[list[tuple[list[str], list[str]]], list[str]]],
    action: str,
    first: str,
    second: str,
    istio: bool,
) -> None:
    """Rules over two headers, with alternatives and negations, against plain loops."""
    if action == "DENY" and not rules:
        return
    conditions = [
        {
            "when": [
                *({"key": "request.headers[x]", "values": yes, "notValues": no} for yes, no in pairs),
                {"key": "request.headers[y]", "values": last},
            ]
        }
        for pairs, last in rules
    ]

    def holds(pairs: list[tuple[list[str], list[str]]], last: list[str]) -> bool:
        return all(
            any(naive(value, first) for value in yes) and not any(naive(value, first) for value in no)
            for yes, no in pairs
        ) and any(naive(value, second) for value in last)

    expected = any(holds(*rule) for rule in rules) is (action == "ALLOW")
    config = ISTIO if istio else MeshConfig()
    asked = request(headers=[("x", first), ("y", second)])
    found = compiled(policy(*conditions, action=action), config=config).evaluate(asked)
    assert found.allowed is expected


RULES: Final = [
    source(principals=["cluster.local/ns/prod/sa/web"]),
    source(notPrincipals=["*/sa/web"]),
    source(namespaces=["p*"]),
    source(notNamespaces=["*a", "test"]),
    source(serviceAccounts=["prod/web"]),
    source(trustDomains=["cluster.local"]),
    source(requestPrincipals=["i/*"]),
    source(notRequestPrincipals=["*"]),
    source(ipBlocks=["10.0.0.0/8"]),
    source(notIpBlocks=["10.0.0.0/8"]),
    operation(hosts=["h"]),
    operation(notHosts=["h"]),
    operation(paths=["/a*"]),
    operation(notPaths=["/a/{*}"]),
    operation(methods=["GET"]),
    operation(ports=["8080"]),
    operation(notPorts=["80"]),
    when("request.headers[x]", "1"),
    when("request.auth.claims[g]", notValues=["adm*"]),
    when("connection.sni", "*"),
]
REQUESTS: Final = st.builds(
    request,
    peer=st.sampled_from([None, WEB, "spiffe://other/ns/test/sa/x", "spiffe://cluster.local/ns/prod/x/sa/web/y"]),
    claims=st.sampled_from([None, {}, {"iss": "i", "sub": "s", "g": ["admin"]}, {"iss": "i", "g": 3}]),
    target=st.sampled_from(["/", "/a", "/a/%3A", "/a/[x]", "//a", "/b?x"]),
    method=st.sampled_from(["GET", "POST"]),
    host=st.sampled_from(["h", "h:80", "h.", "[::1]:80"]),
    headers=st.sampled_from([[], [("x", "1")], [("x", "1,2")], [("x", "1"), ("x", "2")]]),
    joined=st.booleans(),
    source_ip=st.sampled_from([None, "10.0.0.1", "::1", "garbage"]),
    destination_port=st.sampled_from([None, 80, 8080]),
    sni=st.sampled_from([None, "s"]),
)


@given(
    rule=st.lists(st.sampled_from(RULES), min_size=1, max_size=3),
    asked=REQUESTS,
    action=st.sampled_from(["ALLOW", "DENY", "AUDIT"]),
)
@settings(max_examples=400)
def test_safe_is_never_laxer_than_istio(rule: list[dict[str, Any]], asked: Attributes, action: str) -> None:
    """Whatever is allowed by default is allowed under ``compatibility: istio``; and each verdict can be explained."""
    merged: dict[str, Any] = {key: value for part in rule for key, value in part.items()}
    item = policy(merged, action=action)
    safe, istio = compiled(item), compiled(item, config=ISTIO)
    assert istio.evaluate(asked).allowed or not safe.evaluate(asked).allowed
    for authorization in (safe, istio):
        text = authorization.explain(asked)
        allowed = authorization.evaluate(asked).allowed
        assert text.startswith(("an ALLOW rule", "no DENY rule") if allowed else ("a DENY rule", "no rule of the"))
        assert len(text.splitlines()) == 2


@pytest.mark.parametrize("count", [1, 200])
def test_many_rules(count: int) -> None:
    """The first and the last of many rules are found, and what none matches is refused."""
    many = policy(*(operation(paths=[f"/p{index}"], hosts=["h"]) for index in range(count)))
    authorization: CompiledAuthorization = compiled(many)
    assert authorization.evaluate(request(target="/p0")).rule == 0
    assert authorization.evaluate(request(target=f"/p{count - 1}")).rule == count - 1
    assert not authorization.evaluate(request(target="/p")).allowed


def test_compiled_policies_are_data() -> None:
    """Attribute, patterns and negation can be read back: an index and an export need no closure."""
    rule = source(notNamespaces=["x*"]) | operation(paths=["/a", "/b/{*}"])
    condition = compiled(policy(rule)).policies[0].rules[0].operations[0][0]
    assert (condition.key, [str(pattern) for pattern in condition.patterns]) == ("paths", ["/a", "/b/{*}"])
    assert compiled(policy(rule)).policies == compiled(policy(rule)).policies
    assert compiled(policy(rule)).policies != compiled(policy(rule, action="DENY")).policies
