"""Policies and requests in short form, for the tables of these tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from meshsec.attributes import (
    Attributes,
    Connection,
    HttpRequest,
    PeerIdentity,
    RequestFacts,
    RequestPrincipal,
    freeze_claims,
    read_request,
)
from meshsec.authz import CompiledAuthorization, compile_authorization
from meshsec.resources import AuthorizationPolicy, MeshConfig, PathNormalization

WEB: Final = "spiffe://cluster.local/ns/prod/sa/web"
MESH: Final = MeshConfig()
ISTIO: Final = MeshConfig(compatibility="istio", ambiguous_paths="istio")


def policy(
    *rules: dict[str, Any], action: str = "ALLOW", name: str = "p", namespace: str = "prod", **spec: Any
) -> AuthorizationPolicy:
    """A policy with these rules."""
    if rules:
        spec["rules"] = rules
    metadata = {"name": name, "namespace": namespace}
    return AuthorizationPolicy.model_validate({"metadata": metadata, "spec": {"action": action, **spec}})


def without_host(asked: Attributes) -> Attributes:
    """The same, of which nobody knows what host it is for."""
    return replace(asked, facts=replace(asked.facts, host=None))


def compiled(*policies: AuthorizationPolicy, config: MeshConfig = MESH) -> CompiledAuthorization:
    """What these policies mean together."""
    return compile_authorization(policies, config=config)


def request(
    *,
    peer: str | None = None,
    claims: dict[str, Any] | None = None,
    path: str | None = None,
    target: str = "/",
    method: str = "GET",
    host: str = "h",
    headers: Sequence[tuple[str, str]] = (),
    joined: bool = False,
    lenient: bool = False,
    **connection: Any,
) -> Attributes:
    """A request; ``path`` is judged in place of the one that ``target`` becomes."""
    sent = HttpRequest(method=method, target=target, host=host, headers=headers, joined_headers=joined)
    facts = read_request(sent, PathNormalization.BASE, "istio", compatibility="istio" if lenient else "safe")
    if not isinstance(facts, RequestFacts):
        raise TypeError(f"{target}: {facts}")
    principal = None
    if claims is not None:
        principal = RequestPrincipal(claims.get("iss", ""), claims.get("sub", ""), freeze_claims(claims))
    identity = PeerIdentity.of(peer) if peer else None
    known: dict[str, Any] = {"source_ip": "10.0.0.1", "destination_ip": "10.0.0.2", "destination_port": 8080}
    return Attributes(
        Connection(peer=identity, **{**known, **connection}), facts, path or facts.target.path, principal
    )


def matches(
    rule: dict[str, Any],
    asked: Attributes,
    action: str = "ALLOW",
    *,
    config: MeshConfig = MESH,
    namespace: str = "prod",
) -> bool:
    """Whether the rule matches when it stands in a policy of this action."""
    verdict = compiled(policy(rule, action=action, namespace=namespace), config=config).evaluate(asked)
    return verdict.allowed if action == "ALLOW" else not verdict.allowed


def source(**fields: Any) -> dict[str, Any]:
    """A rule with one source."""
    return {"from": [{"source": fields}]}


def operation(**fields: Any) -> dict[str, Any]:
    """A rule with one operation."""
    return {"to": [{"operation": fields}]}


def when(key: str, *values: str, **fields: Any) -> dict[str, Any]:
    """A rule with one condition."""
    return {"when": [{"key": key, **({"values": list(values)} if values else {}), **fields}]}


def both(rule: dict[str, Any], asked: Attributes, *, config: MeshConfig = MESH) -> bool:
    """Whether the rule matches in an ALLOW and in a DENY alike; the two must agree."""
    allow = matches(rule, asked, "ALLOW", config=config)
    if matches(rule, asked, "DENY", config=config) is not allow:
        raise AssertionError(f"ALLOW {allow}, DENY {not allow}: {rule}")
    return allow
