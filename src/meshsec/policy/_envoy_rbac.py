"""Compiled AuthorizationPolicies as the policies of Envoy's RBAC filter: one table row for each attribute.

An operation becomes a permission, a source and what a ``when`` asks of the caller a principal, as istiod sorts them.
The regular expressions here are Envoy's to run; this library never does. Must not know: JWTRules, requests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from ..authz import CompiledPolicy, Condition, PolicyRule, claim_path
from ..matching import Kind, PathTemplate
from ._envoy_jwt import JWT_FILTER, PAYLOAD

__all__ = ["RBAC_FILTER", "RBAC_TYPE", "rbac_policies"]

RBAC_FILTER: Final = "envoy.filters.http.rbac"
RBAC_TYPE: Final = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"

_Json = dict[str, Any]
_TEMPLATE: Final = "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig"
_SCHEME: Final = "spiffe://"


@dataclass(frozen=True, slots=True)
class _Row:
    """How a condition on one attribute is written.

    Attributes:
        match: a pattern as Envoy's matcher. What a pattern is depends on the attribute, so it is not typed here.
        permission: whether it stands among the permissions; else among the principals.
    """

    match: Callable[[Any], _Json]
    permission: bool = False


def rbac_policies(policies: Iterable[CompiledPolicy], *, remote: bool) -> dict[str, _Json]:
    """One Envoy policy for each rule, named as istiod names it.

    Args:
        policies: of one action.
        remote: whether ``remote.ip`` is what Envoy makes of X-Forwarded-For; else it is the directly connected peer.
    """
    writer = _Writer(_ROWS if remote else {**_ROWS, "remote.ip": _ROWS["source.ip"]})
    return {_name(policy, rule): writer.policy(rule) for policy in policies for rule in policy.rules}


def _name(policy: CompiledPolicy, rule: PolicyRule) -> str:
    namespace, _, name = policy.id.partition("/")
    return f"ns[{namespace}]-policy[{name}]-rule[{rule.index}]"


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes rules.

    Attributes:
        rows: for each attribute that has no entries.
    """

    rows: Mapping[str, _Row]

    def policy(self, rule: PolicyRule) -> _Json:
        when: dict[bool, list[Condition]] = {True: [], False: []}
        for condition in rule.when:
            when[self._row(condition.key).permission].append(condition)
        return {
            "permissions": [self._and([*entry, *when[True]], "rules", "rule") for entry in rule.operations or ((),)],
            "principals": [self._and([*entry, *when[False]], "ids", "id") for entry in rule.sources or ((),)],
        }

    def _and(self, conditions: Sequence[Condition], many: str, one: str) -> _Json:
        """All of them; for none, anything."""
        written = [self._condition(condition, many, one) for condition in conditions]
        return {f"and_{many}": {many: written}} if written else {"any": True}

    def _condition(self, condition: Condition, many: str, one: str) -> _Json:
        row = self._row(condition.key)
        matchers = {f"or_{many}": {many: [row.match(pattern) for pattern in condition.patterns]}}
        return {f"not_{one}": matchers} if condition.negated else matchers

    def _row(self, key: str) -> _Row:
        name, bracket, _ = key.partition("[")
        return _ENTRIES[name](key[len(name) :]) if bracket else self.rows[key]


def _text(pattern: Any, *, before: str = "") -> _Json:
    """A StringPattern as StringMatcher, with fixed text before."""
    if pattern.kind is Kind.NONEMPTY:
        return _regex(".+")
    if pattern.kind is Kind.SUFFIX and before:
        return _regex(f"{re.escape(before)}.*{re.escape(pattern.text)}")
    return {pattern.kind.value: (pattern.text if pattern.kind is Kind.SUFFIX else before + pattern.text)}


def _regex(expression: str) -> _Json:
    return {"safe_regex": {"regex": expression}}


def _peer(matcher: _Json) -> _Json:
    return {"authenticated": {"principal_name": matcher}}


def _principal(pattern: Any) -> _Json:
    return _peer(_text(pattern, before=_SCHEME))


def _namespace(pattern: Any) -> _Json:
    return _peer(_regex(".*/ns/" + ".*".join(map(re.escape, pattern.parts)) + "/.*"))


def _service_account(pattern: Any) -> _Json:
    namespace, name = re.escape(pattern.namespace), re.escape(pattern.name)
    return _peer(_regex(f"{_SCHEME}.+/ns/{namespace}/(.+/|)sa/{name}(/.+)?"))


def _trust_domain(pattern: Any) -> _Json:
    if pattern.kind is Kind.EXACT:
        return _peer({"prefix": f"{_SCHEME}{pattern.text}/"})
    if pattern.kind is Kind.PRESENT:
        return _peer({"prefix": _SCHEME})
    text = re.escape(pattern.text)
    name = f"[^/]*{text}" if pattern.kind is Kind.SUFFIX else f"{text}[^/]*"
    return _peer(_regex(f"{_SCHEME}{name}/.*"))


def _address(field: str) -> Callable[[Any], _Json]:
    def match(pattern: Any) -> _Json:
        prefix, _, length = str(pattern).partition("/")
        return {field: {"address_prefix": prefix, "prefix_len": int(length)}}

    return match


def _claim(path: Sequence[str], values: Sequence[_Json]) -> _Json:
    """The claims of the token, as the filter before this one left them."""
    keys = [{"key": key} for key in (PAYLOAD, *path)]
    matcher = {"or_match": {"value_matchers": list(values)}} if len(values) > 1 else values[0]
    return {"sourced_metadata": {"metadata_matcher": {"filter": JWT_FILTER, "path": keys, "value": matcher}}}


def _claim_entry(entry: str) -> _Row:
    path = claim_path(entry)

    def match(pattern: Any) -> _Json:
        text = {"string_match": _text(pattern)}
        return _claim(path, [text, {"list_match": {"one_of": text}}])

    return _Row(match)


def _request_principal(pattern: Any) -> _Json:
    """Two claims, each a text."""
    parts = {"iss": pattern.issuer, "sub": pattern.subject}
    return {"and_ids": {"ids": [_claim([name], [{"string_match": _text(part)}]) for name, part in parts.items()]}}


def _header(name: str, *, fold: bool = False) -> Callable[[Any], _Json]:
    def match(pattern: Any) -> _Json:
        if pattern.kind is Kind.PRESENT:
            return {"header": {"name": name, "present_match": True}}
        folded = {"ignore_case": True} if fold else {}
        return {"header": {"name": name, "string_match": {**_text(pattern), **folded}}}

    return match


def _header_entry(entry: str) -> _Row:
    return _Row(_header(entry[1:-1]))


def _path(pattern: Any) -> _Json:
    if isinstance(pattern, PathTemplate):
        template = str(pattern).replace("{**}", "**").replace("{*}", "*")
        config = {"@type": _TEMPLATE, "path_template": template}
        return {"uri_template": {"name": "uri-template", "typed_config": config}}
    return {"url_path": {"path": _text(pattern)}}


_ROWS: Final[Mapping[str, _Row]] = MappingProxyType(
    {
        "source.principal": _Row(_principal),
        "source.namespace": _Row(_namespace),
        "source.serviceAccount": _Row(_service_account),
        "source.trustDomain": _Row(_trust_domain),
        "source.ip": _Row(_address("direct_remote_ip")),
        "remote.ip": _Row(_address("remote_ip")),
        "request.auth.principal": _Row(_request_principal),
        "request.auth.audiences": _claim_entry("[aud]"),
        "request.auth.presenter": _claim_entry("[azp]"),
        "destination.ip": _Row(_address("destination_ip"), permission=True),
        "destination.port": _Row(lambda port: {"destination_port": port}, permission=True),
        "connection.sni": _Row(lambda pattern: {"requested_server_name": _text(pattern)}, permission=True),
        "hosts": _Row(_header(":authority", fold=True), permission=True),
        "methods": _Row(_header(":method"), permission=True),
        "paths": _Row(_path, permission=True),
    }
)

_ENTRIES: Final[Mapping[str, Callable[[str], _Row]]] = MappingProxyType(
    {
        "request.auth.claims": _claim_entry,
        "request.headers": _header_entry,
    }
)
