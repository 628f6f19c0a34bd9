"""authz: explanations name the rule, the condition and the value seen, and no secret."""

from __future__ import annotations

import pytest

from authz.cases import compiled, operation, policy, request, source, when

API = "spiffe://cluster.local/ns/prod/sa/api"
RULE = source(principals=["cluster.local/ns/prod/sa/api"]) | operation(methods=["GET", "HEAD"], notPaths=["/admin*"])
POST_ONLY = source(ipBlocks=["192.0.2.0/24"], namespaces=["x"]) | operation(methods=["POST"])


def test_nearest_rule() -> None:
    """Of a policy that does not match, the rule that comes nearest is shown, with what is missing."""
    items = [policy(POST_ONLY, RULE, name="a"), policy(name="b"), policy({}, name="c", action="AUDIT")]
    assert compiled(*items).explain(request(peer=API, target="/admin")).splitlines() == [
        (
            "no rule of the ALLOW policies matches; the nearest is prod/a rule 1: "
            "paths '/admin' is, and must not be, one of /admin*"
        ),
        "  ALLOW prod/a: rule 1 does not match: paths '/admin' is, and must not be, one of /admin*",
        "  ALLOW prod/b: has no rules, so nothing matches",
        "  AUDIT prod/c: rule 0 matches: it is for every request",
    ]


def test_rule_about_another_operation_is_farther() -> None:
    """Who may not call this path is told that, and not that another path would have been open to everyone."""
    item = policy(operation(paths=["/health"]), source(principals=["cluster.local/ns/prod/sa/api"]), name="a")
    assert compiled(item).explain(request(target="/x")).splitlines()[0] == (
        "no rule of the ALLOW policies matches; the nearest is prod/a rule 1: "
        "source.principal (absent) is not one of cluster.local/ns/prod/sa/api"
    )


def test_rule_that_matches() -> None:
    """The rule that decided, and by which values."""
    items = [policy(RULE, name="a"), policy(operation(ports=["8080"]), name="d", action="DENY")]
    assert compiled(*items).explain(request()).splitlines() == [
        "a DENY rule matches: destination.port 8080 is one of 8080",
        "  ALLOW prod/a: rule 0 does not match: source.principal (absent) is not one of cluster.local/ns/prod/sa/api",
        "  DENY prod/d: rule 0 matches: destination.port 8080 is one of 8080",
    ]
    assert compiled(items[0]).explain(request(peer=API)).splitlines()[1] == (
        "  ALLOW prod/a: rule 0 matches: source.principal 'cluster.local/ns/prod/sa/api' is one of "
        "cluster.local/ns/prod/sa/api; methods 'GET' is one of GET, HEAD; paths '/' is none of /admin*"
    )


def test_no_policy() -> None:
    """Nothing to list."""
    assert compiled().explain(request()) == "no DENY rule matches, and there is no ALLOW policy"


def test_facts_that_are_not_known() -> None:
    """An operator must see that the fact is missing, not that it is wrong."""
    text = compiled(policy(operation(ports=["80"]), action="DENY")).explain(request(destination_port=None))
    assert "rule 0 matches: destination.port (not known) is one of 80" in text


@pytest.mark.parametrize(
    "header", ["authorization", "Cookie", "proxy-authorization", "x-api-key", "x-access-token", "x-client-secret"]
)
@pytest.mark.parametrize("sent", [["s3cret"], []])
def test_secrets(header: str, sent: list[str]) -> None:
    """Neither the request's value nor the policy's is shown of a header that opens doors."""
    item = policy(when(f"request.headers[{header}]", "pa55word"))
    text = compiled(item).explain(request(headers=[(header, value) for value in sent]))
    assert "s3cret" not in text
    assert "pa55word" not in text
    assert f"request.headers[{header}] {'(hidden)' if sent else '(absent)'} is not one of (hidden)" in text


def test_claims_are_named() -> None:
    """Of a claim the operator sees that it is there, and what was wanted."""
    item = policy(when("request.auth.claims[groups]", "admin"))
    assert "claims[groups] (hidden) is not one of admin" in compiled(item).explain(request(claims={"groups": ["x"]}))
    assert "claims[groups] (absent) is not one of admin" in compiled(item).explain(request(claims={}))


def test_hostile_values() -> None:
    """Values are quoted, escaped and cut: one line stays one line."""
    item = policy(when("request.headers[x]", "1"), operation(paths=["/x"]))
    lines = compiled(item).explain(request(path="/a\n\x1b[31m" + "b" * 500, headers=[("x", "é" * 500), ("x", "two")]))
    assert len(lines.splitlines()) == 2
    assert lines.isascii()
    assert len(lines) < 1000


def test_many_values() -> None:
    """A long list is cut, with the number that is left out."""
    item = policy(operation(paths=[f"/{index}" for index in range(9)]))
    assert "is not one of /0, /1, /2, /3, /4 and 4 more" in compiled(item).explain(request())
