"""A request, and policies under which it is remembered: they remove, add and normalize; and some that refuse it."""

from __future__ import annotations

from typing import Any, Final

from meshsec.testing import TestIssuer

__all__ = ["CLOSED", "ISSUER", "POLICIES", "Scope", "scope_of"]

Scope = dict[str, Any]

ISSUER: Final = TestIssuer()
POLICIES: Final = f"""
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: users}}
spec:
  jwtRules:
  - issuer: {ISSUER.issuer}
    jwks: '{ISSUER.jwks}'
    fromHeaders: [{{name: x-token}}]
    outputClaimToHeaders: [{{header: x-user, claim: sub}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: users}}
spec: {{rules: [{{from: [{{source: {{requestPrincipals: ["*"]}}}}], to: [{{operation: {{paths: [/a, /ws]}}}}]}}]}}
"""
CLOSED: Final = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody}
spec: {}
"""


def scope_of(headers: list[tuple[bytes, bytes]], **changes: Any) -> Scope:
    """A request as uvicorn hands it over; what is None is not there."""
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/x/../a",
        "raw_path": b"/x/../a",
        "query_string": b"q=1",
        "root_path": "",
        "scheme": "https",
        "headers": headers,
        **changes,
    }
    return {key: value for key, value in scope.items() if value is not None}
