"""Rules of mixed shapes and requests that meet them: what ``benchmarks.policy`` gives to every engine.

Half of the rules have two sources and two operations. A rule matches what carries its own number and nothing else, so
the first, the last or no rule can be asked for, and every contestant must agree.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["GROUP", "Operation", "Request", "Rule", "Source", "requests", "rules", "to_istio"]

# Shape and its weight.
SHAPES: Final = {"exact": 40, "prefix": 25, "suffix": 5, "template": 5, "negation": 10, "block": 10, "claim": 10}
TRUST_DOMAIN: Final = "cluster.local"
GROUP: Final = "request.auth.claims[groups]"
RULES_PER_POLICY: Final = 500
METHODS: Final = ("GET", "POST", "PUT", "DELETE")


@dataclass(frozen=True)
class Source:
    """Who: a principal, or an address block, or both."""

    principal: str | None = None
    block: str | None = None


@dataclass(frozen=True)
class Operation:
    """What: a method, a path pattern in Istio's syntax, or one that must not match."""

    method: str
    path: str | None = None
    not_path: str | None = None


@dataclass(frozen=True)
class Rule:
    """Any of the sources, any of the operations, and the group if there is one."""

    sources: tuple[Source, ...]
    operations: tuple[Operation, ...]
    group: str | None = None


@dataclass(frozen=True)
class Request:
    """One question."""

    name: str
    principal: str
    ip: str
    method: str
    path: str
    groups: tuple[str, ...]


def rules(count: int, seed: int = 7) -> list[Rule]:
    """That many rules; the first and the last are exact, so that they can be met in the same way."""
    rng = random.Random(seed)
    shapes = ["exact", *rng.choices(list(SHAPES), list(SHAPES.values()), k=count - 2), "exact"]
    return [_rule(rng, index, shape) for index, shape in enumerate(shapes)]


def requests(count: int, seed: int = 7) -> list[Request]:
    """For that many rules: what meets the first, the last, and none, with a path that is known or not."""
    found = rules(count, seed)

    def meeting(name: str, rule: Rule, path: str | None = None) -> Request:
        operation = rule.operations[-1]
        principal = rule.sources[-1].principal or ""
        return Request(name, principal, "192.0.2.1", operation.method, path or operation.path or "/", ("staff", "x"))

    known = found[count // 2 :][0]
    stranger = meeting("none, known path", found[0])
    return [
        meeting("first", found[0]),
        meeting("last", found[-1]),
        Request(stranger.name, _principal(10**6), stranger.ip, stranger.method, stranger.path, stranger.groups),
        meeting("none, unknown path", known, "/tenant-x/unknown/path/of/nobody"),
    ]


def _principal(index: int) -> str:
    return f"{TRUST_DOMAIN}/ns/team-{index % 20}/sa/app-{index}"


def _rule(rng: random.Random, index: int, shape: str) -> Rule:
    twice = rng.random() < 0.5
    ends = [f"{index}", f"{index}-b"] if twice else [f"{index}"]
    method = rng.choice(METHODS)
    principals = [_principal(index), _principal(index + 10**7)][: len(ends)]
    if shape == "claim":
        return Rule(tuple(map(Source, principals)), _operations(method, "prefix", ends), f"group-{index}")
    if shape == "block":
        blocks = [f"10.{index >> 8 & 255}.{index & 255}.0/24", f"172.16.{index & 255}.{index >> 8 & 255}/32"]
        sources = tuple(Source(block=block) for block in blocks[: len(ends)])
        return Rule(sources, tuple(Operation(one) for one in (method, rng.choice(METHODS))[: len(ends)]))
    return Rule(tuple(map(Source, principals)), _operations(method, shape, ends))


def _operations(method: str, shape: str, ends: list[str]) -> tuple[Operation, ...]:
    forms = {
        "exact": "/tenant-{}/orders",
        "prefix": "/tenant-{}/api/*",
        "suffix": "*/tenant-{}.csv",
        "template": "/v1/{{*}}/tenant-{}/{{**}}",
        "negation": "/tenant-{}/private*",
    }
    if shape == "negation":
        return tuple(Operation(method, not_path=forms[shape].format(end)) for end in ends)
    return tuple(Operation(method, forms[shape].format(end)) for end in ends)


def to_istio(found: list[Rule]) -> list[dict[str, Any]]:
    """AuthorizationPolicies, as files would hold them: a policy has at most so many rules."""
    return [
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": f"bench-{start:05}", "namespace": "prod"},
            "spec": {"action": "ALLOW", "rules": list(map(_istio_rule, found[start : start + RULES_PER_POLICY]))},
        }
        for start in range(0, len(found), RULES_PER_POLICY)
    ]


def _istio_rule(rule: Rule) -> dict[str, Any]:
    written: dict[str, Any] = {
        "from": [{"source": _fields(principals=item.principal, ipBlocks=item.block)} for item in rule.sources],
        "to": [
            {"operation": _fields(methods=item.method, paths=item.path, notPaths=item.not_path)}
            for item in rule.operations
        ],
    }
    if rule.group:
        written["when"] = [{"key": GROUP, "values": [rule.group]}]
    return written


def _fields(**values: str | None) -> dict[str, list[str]]:
    return {name: [value] for name, value in values.items() if value}
