"""Policies under which requests are remembered: they remove, add and normalize; and some that let nothing pass."""

from __future__ import annotations

from typing import Final

from meshsec.testing import TestIssuer

__all__ = ["CLOSED", "ISSUER", "POLICIES"]

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
