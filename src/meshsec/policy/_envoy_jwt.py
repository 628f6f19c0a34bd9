"""RequestAuthentications as Envoy's jwt_authn filter, with the requirement tree that istiod builds.

Must not know: AuthorizationPolicy, requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from ..errors import ConfigError, Problem
from ..resources import IssuerConfig, JWTRule, Presence, RequestAuthentication

__all__ = ["JWT_FILTER", "PAYLOAD", "jwt_filter"]

JWT_FILTER: Final = "envoy.filters.http.jwt_authn"
PAYLOAD: Final = "payload"
"""Under which name the verified claims stand in the filter's metadata."""

_TYPE: Final = "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
_SPLIT_CLAIMS: Final = ("permission", "scope")
_PORTS: Final = {"http": 80, "https": 443}

_Found = tuple[RequestAuthentication, int, JWTRule]


def jwt_filter(
    requests: Sequence[RequestAuthentication], issuers: Mapping[str, IssuerConfig]
) -> dict[str, Any] | None:
    """The filter; None without a rule. Raises ConfigError for a rule that Envoy would judge otherwise."""
    found = [(item, index, rule) for item in requests for index, rule in enumerate(item.spec.jwt_rules)]
    if not found:
        return None
    problems = [problem for one in found for problem in _problems(one, issuers, alone=len(found) == 1)]
    if problems:
        raise ConfigError(problems, code="no_equivalent")
    rules = sorted((rule for _, _, rule in found), key=lambda rule: rule.issuer)
    providers = {f"origins-{index}": _provider(rule) for index, rule in enumerate(rules)}
    return {
        "name": JWT_FILTER,
        "typed_config": {
            "@type": _TYPE,
            "providers": providers,
            "rules": [{"match": {"prefix": "/"}, "requires": _requirement(list(providers), rules)}],
            "bypass_cors_preflight": True,
        },
    }


def _problems(found: _Found, issuers: Mapping[str, IssuerConfig], *, alone: bool) -> list[Problem]:
    item, index, rule = found
    own = issuers.get(rule.issuer)
    reasons = {
        "include and exclude paths": bool(item.include_paths or item.exclude_paths),
        "key discovery: name the jwksUri": rule.jwks is None and rule.jwks_uri is None,
        "an issuer that mesh.yaml gives tenants or JWT-SVIDs": bool(own and (own.tenants or own.jwt_svid)),
        "presence: REQUIRED beside other rules": rule.presence is Presence.REQUIRED and not alone,
    }
    return [
        Problem(
            f"Envoy has no equivalent for {reason}",
            source=item.location,
            resource=f"RequestAuthentication {item.id}",
            field=f"spec.jwtRules[{index}]",
        )
        for reason, applies in reasons.items()
        if applies
    ]


def _requirement(names: Sequence[str], rules: Sequence[JWTRule]) -> dict[str, Any]:
    """Any rule satisfied, or none of them finding a token at all."""
    first, *more = names
    if not more:
        if rules[0].presence is Presence.REQUIRED:
            return {"provider_name": first}
        return _optional(first)
    missing = {"requires_all": {"requirements": [_optional(name) for name in names]}}
    return {"requires_any": {"requirements": [*({"provider_name": name} for name in names), missing]}}


def _optional(name: str) -> dict[str, Any]:
    return {"requires_any": {"requirements": [{"provider_name": name}, {"allow_missing": {}}]}}


def _provider(rule: JWTRule) -> dict[str, Any]:
    provider: dict[str, Any] = {
        "issuer": rule.issuer,
        "audiences": list(rule.audiences),
        "forward": rule.forward_original_token,
        "payload_in_metadata": PAYLOAD,
        "normalize_payload_in_metadata": {"space_delimited_claims": [*_SPLIT_CLAIMS, *rule.space_delimited_claims]},
        "from_headers": [{"name": item.name, "value_prefix": item.prefix} for item in rule.from_headers],
        "from_params": list(rule.from_params),
        "from_cookies": list(rule.from_cookies),
        "forward_payload_header": rule.output_payload_to_header or "",
        "claim_to_headers": [
            {"header_name": item.header, "claim_name": item.claim} for item in rule.output_claim_to_headers
        ],
    }
    return {**{name: value for name, value in provider.items() if value not in ("", [])}, **_keys(rule)}


def _keys(rule: JWTRule) -> Mapping[str, Any]:
    if rule.jwks is not None:
        return {"local_jwks": {"inline_string": rule.jwks}}
    uri = rule.jwks_uri or ""
    url = urlsplit(uri)
    cluster = f"outbound|{url.port or _PORTS[url.scheme]}||{url.hostname}"
    http = {"uri": uri, "cluster": cluster, "timeout": f"{rule.timeout:g}s"}
    return {"remote_jwks": {"http_uri": http, "cache_duration": "300s"}}
