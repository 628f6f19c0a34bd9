"""The same rules in other engines: a plain loop in Python, pycasbin, Cedar. Each is told as its manual has it.

Every one becomes a function from a request to whether it is allowed. Must not know meshsec.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib import import_module
from ipaddress import ip_address, ip_network

from benchmarks.mix import Operation, Request, Rule, Source

__all__ = ["RIVALS", "Decide"]

Decide = Callable[[Request], bool]


def naive(rules: Sequence[Rule]) -> Decide:
    """What one would write: compiled predicates, ``any`` over the rules."""
    compiled = [
        (list(map(_source, rule.sources)), list(map(_operation, rule.operations)), rule.group) for rule in rules
    ]

    def decide(request: Request) -> bool:
        return any(
            (group is None or group in request.groups)
            and any(source(request) for source in sources)
            and any(operation(request) for operation in operations)
            for sources, operations, group in compiled
        )

    return decide


def _source(source: Source) -> Decide:
    if source.block is None:
        return lambda request: request.principal == source.principal
    network = ip_network(source.block)
    return lambda request: ip_address(request.ip) in network


def _operation(operation: Operation) -> Decide:
    path = _path(operation.path or operation.not_path or "*")
    wanted = operation.not_path is None
    return lambda request: request.method == operation.method and path(request.path) is wanted


def _path(pattern: str) -> Callable[[str], bool]:
    if "{" in pattern:
        escaped = re.escape(pattern).replace(r"\{\*\*\}", ".*").replace(r"\{\*\}", "[^/]+")
        expression = re.compile(escaped)
        return lambda path: expression.fullmatch(path) is not None
    if pattern.endswith("*"):
        return lambda path: path.startswith(pattern[:-1])
    if pattern.startswith("*"):
        return lambda path: path.endswith(pattern[1:])
    return lambda path: path == pattern


_CASBIN_MODEL = """
[request_definition]
r = sub, ip, act, obj, groups

[policy_definition]
p = sub, ip, act, obj, group

[policy_effect]
e = some(where (p.eft == allow))

[matchers]
m = r.act == p.act && (p.sub == "*" || r.sub == p.sub) && (p.group == "*" || has(r.groups, p.group)) \
&& match(r.obj, p.obj) && (p.ip == "*" || ipMatch(r.ip, p.ip))
"""


def casbin(rules: Sequence[Rule]) -> Decide:
    """pycasbin: one line for each source with each operation."""
    pycasbin = import_module("casbin")
    model = pycasbin.Model()
    model.load_model_from_text(_CASBIN_MODEL)
    enforcer = pycasbin.Enforcer(model)
    paths: dict[str, Callable[[str], bool]] = {}

    def match(path: str, pattern: str) -> bool:
        if pattern not in paths:
            paths[pattern] = _path(pattern.removeprefix("!"))
        return paths[pattern](path) is not pattern.startswith("!")

    enforcer.add_function("match", match)
    enforcer.add_function("has", lambda groups, group: group in groups)
    lines = [
        [
            source.principal or "*",
            source.block or "*",
            operation.method,
            operation.path or f"!{operation.not_path}" if operation.path or operation.not_path else "*",
            rule.group or "*",
        ]
        for rule in rules
        for source in rule.sources
        for operation in rule.operations
    ]
    enforcer.add_policies(lines)
    return lambda request: bool(
        enforcer.enforce(request.principal, request.ip, request.method, request.path, request.groups)
    )


def cedar(rules: Sequence[Rule]) -> Decide:
    """Cedar through cedarpy: one permit for each rule, the set parsed once."""
    cedarpy = import_module("cedarpy")
    policies = cedarpy.PolicySet.from_str("\n".join(map(_permit, rules)))

    def decide(request: Request) -> bool:
        context = {
            "path": request.path,
            "method": request.method,
            "principal": request.principal,
            "groups": list(request.groups),
            "ip": {"__extn": {"fn": "ip", "arg": request.ip}},
        }
        asked = {"principal": 'W::"w"', "action": 'Action::"call"', "resource": 'S::"s"', "context": context}
        return bool(cedarpy.is_authorized(asked, policies, []).allowed)

    return decide


def _permit(rule: Rule) -> str:
    sources = " || ".join(
        f'context.principal == "{item.principal}"'
        if item.block is None
        else f'context.ip.isInRange(ip("{item.block}"))'
        for item in rule.sources
    )
    operations = " || ".join(f'(context.method == "{item.method}"{_cedar_path(item)})' for item in rule.operations)
    group = f' && context.groups.contains("{rule.group}")' if rule.group else ""
    return f"permit(principal, action, resource) when {{ ({operations}) && ({sources}){group} }};"


def _cedar_path(operation: Operation) -> str:
    if operation.not_path:
        return f' && !(context.path like "{operation.not_path}")'
    if not operation.path:
        return ""
    if "*" not in operation.path:
        return f' && context.path == "{operation.path}"'
    return f' && context.path like "{operation.path.replace("{**}", "*").replace("{*}", "*")}"'


RIVALS: dict[str, Callable[[Sequence[Rule]], Decide]] = {"naive loop": naive, "pycasbin": casbin, "cedarpy": cedar}
