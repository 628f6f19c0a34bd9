"""The protected-resource metadata of a workload (RFC 9728): where OAuth clients learn whose tokens it takes.

The document is for everybody who may connect at all, token or not. This file must not know how tokens are verified.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self
from urllib.parse import urlsplit

from ..attributes import RequestFacts
from ..decision import Decision, Edits, Outcome, Reason
from ..errors import ConfigError
from ..resources import IssuerConfig, JWTRule, ProtectedResource, RequestAuthentication

__all__ = ["ResourceMetadata"]

_WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"
_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# Browsers ask from any origin, and before they ask whether they may (MCP's clients send a header of their own).
_HEADERS: Final = (
    ("content-type", "application/json"),
    ("cache-control", "public, max-age=300"),
    ("access-control-allow-origin", "*"),
    ("access-control-allow-headers", "*"),
)


@dataclass(frozen=True, slots=True)
class ResourceMetadata:
    """One workload's document.

    Attributes:
        url: where it is, for challenges.
        path: the same on this server.
        decision: what whoever asks for it is answered.
    """

    url: str
    path: str
    decision: Decision = field(repr=False)

    @classmethod
    def of(
        cls,
        resource: ProtectedResource,
        requests: Sequence[RequestAuthentication],
        issuers: Mapping[str, IssuerConfig],
    ) -> Self:
        """The document of a workload whose tokens these resources say.

        Raises:
            ConfigError: ``no_authorization_server``: no rule has an issuer that a client could ask.
        """
        rules = [rule for item in requests for rule in item.spec.jwt_rules]
        servers = resource.authorization_servers or tuple(dict.fromkeys(_servers(rules, issuers)))
        if not servers:
            raise ConfigError(
                f"{resource.resource}: no RequestAuthentication names an issuer that is an authorization server",
                code="no_authorization_server",
            )
        # Section 3.1: between host and path.
        parts = urlsplit(resource.resource)
        path = _WELL_KNOWN + ("" if parts.path == "/" else parts.path)
        edits = Edits(response_headers=_HEADERS, body=_document(resource, servers, rules))
        decision = Decision(Outcome.ANSWER, Reason.RESOURCE_METADATA, edits=edits)
        return cls(f"{parts.scheme}://{parts.netloc}{path}", path, decision)

    def is_meant(self, facts: RequestFacts) -> bool:
        """Whether a request asks for it."""
        return facts.target.path == self.path and facts.method in _METHODS and facts.scheme in ("http", "https")


def _servers(rules: Sequence[JWTRule], issuers: Mapping[str, IssuerConfig]) -> Iterator[str]:
    """The issuers that are URLs; each tenant of a templated one."""
    for rule in rules:
        own = issuers.get(rule.issuer)
        for issuer in own.by_name(rule.issuer) if own and own.tenants else (rule.issuer,):
            if issuer.startswith(("https://", "http://")):
                yield issuer


def _document(resource: ProtectedResource, servers: Sequence[str], rules: Sequence[JWTRule]) -> bytes:
    """Section 2. Whatever is not said is left out."""
    document: dict[str, Any] = {
        "resource": resource.resource,
        "authorization_servers": servers,
        "scopes_supported": resource.scopes_supported,
        "bearer_methods_supported": [method for method, takes in _BEARER_METHODS.items() if any(map(takes, rules))],
        "resource_name": resource.resource_name,
        "resource_documentation": resource.resource_documentation,
    }
    return json.dumps({name: value for name, value in document.items() if value}).encode("ascii")


def _takes_default(rule: JWTRule) -> bool:
    return not (rule.from_headers or rule.from_params or rule.from_cookies)


def _takes_header(rule: JWTRule) -> bool:
    named = (header.name.lower() == "authorization" for header in rule.from_headers)
    return _takes_default(rule) or any(named)


def _takes_query(rule: JWTRule) -> bool:
    return _takes_default(rule) or "access_token" in rule.from_params


_BEARER_METHODS: Final = {"header": _takes_header, "query": _takes_query}
