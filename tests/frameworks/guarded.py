"""Meshes that must keep everybody from the secret: written in four ways, under every safe setting."""

from __future__ import annotations

from itertools import product
from typing import Final

from frameworks.spellings import SECRET
from meshsec import Mesh, MeshConfig, Workload
from meshsec.resources import AmbiguousPaths, PathNormalization, parse

__all__ = ["JUDGES", "KEYS", "guards", "judges"]

_POLICY: Final = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: no-secret, namespace: prod}}
spec: {{action: {}, rules: [{{to: [{{operation: {{{}: [{}]}}}}]}}]}}
"""
_POLICIES: Final = {
    "deny": _POLICY.format("DENY", "paths", SECRET),
    "deny/": _POLICY.format("DENY", "paths", SECRET + "/"),
    "allow": _POLICY.format("ALLOW", "notPaths", SECRET),
    "allow/": _POLICY.format("ALLOW", "notPaths", SECRET + "/"),
}
_AMBIGUOUS: Final[dict[str, AmbiguousPaths]] = {"refuse": "refuse", "judge": "judge"}
KEYS: Final = tuple(
    f"{policy} {ambiguous} {mode.name}"
    for policy, ambiguous, mode in product(_POLICIES, _AMBIGUOUS, PathNormalization)
)
"""Policy, ambiguousPaths and normalization of each."""


def guards() -> dict[str, Mesh]:
    """A mesh for each key."""
    return {
        key: _mesh(_POLICIES[policy], *rest) for key, (policy, *rest) in zip(KEYS, map(str.split, KEYS), strict=True)
    }


_JUDGE: Final = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: some, namespace: prod}
spec:
  rules:
  - to: [{operation: {paths: [/public/*, /], methods: [GET, POST, HEAD]}}]
  - to: [{operation: {paths: ["/a/{*}/c"], notMethods: [DELETE]}}]
    when: [{key: 'request.headers[x-role]', notValues: [guest]}]
  - to: [{operation: {notPaths: [/private*, /public*], hosts: [web.prod]}}]
  - when: [{key: 'request.headers[x-role]', values: [admin]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: none, namespace: prod}
spec:
  action: DENY
  rules:
  - to: [{operation: {paths: [/private/*, /public/secret]}}]
    when: [{key: 'request.headers[x-role]', notValues: [admin]}]
  - to: [{operation: {hosts: [admin.prod]}}]
  - when: [{key: 'request.headers[user-agent]', values: [bot*]}]
  - when: [{key: 'request.headers[x-trace]', values: ['2', ',*']}]
  - when: [{key: 'request.headers[accept]', values: ['*/html']}, {key: source.ip, values: [127.0.0.1]}]
    to: [{operation: {methods: [POST]}}]
"""
JUDGES: Final = tuple(f"{ambiguous} {mode.name}" for ambiguous, mode in product(_AMBIGUOUS, PathNormalization))
"""ambiguousPaths and normalization of each mesh that decides about more than paths."""


def judges() -> dict[str, Mesh]:
    """A mesh for each key, with policies on methods, hosts, headers and paths."""
    return {key: _mesh(_JUDGE, *key.split()) for key in JUDGES}


def _mesh(policy: str, ambiguous: str, mode: str) -> Mesh:
    config = MeshConfig(path_normalization=PathNormalization[mode], ambiguous_paths=_AMBIGUOUS[ambiguous])
    return Mesh(workload=Workload(name="web", namespace="prod"), resources=parse(policy), config=config)
