"""RequestAuthentications as Envoy's jwt_authn filter, with the requirement tree that istiod builds.

Must not know: AuthorizationPolicy, requests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from ..errors import ConfigError, Problem
from ..matching import Kind, PathTemplate, parse_path_pattern
from ..resources import IssuerConfig, JWTRule, Presence, RequestAuthentication

__all__ = ["JWT_FILTER", "PAYLOAD", "cluster_of", "jwt_filter"]

JWT_FILTER: Final = "envoy.filters.http.jwt_authn"
PAYLOAD: Final = "payload"
"""Under which name the verified claims stand in the filter's metadata."""

_TYPE: Final = "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
_SPLIT_CLAIMS: Final = ("permission", "scope")
_PORTS: Final = {"http": 80, "https": 443}
# What {*} and {**} stand for: the characters of RFC 3986 paths.
_ONE: Final = "[A-Za-z0-9._~%!$&'()*+,;:@=-]+"
_ANY: Final = "[A-Za-z0-9._~%!$&'()*+,;:@=/-]*"
_EVERYWHERE: Final = {"prefix": "/"}

_Json = dict[str, Any]
_Found = tuple[RequestAuthentication, int, JWTRule]


def cluster_of(host: str | None, port: int) -> str:
    """The name that istiod gives to the cluster of a service's port."""
    return f"outbound|{port}||{host}"


def jwt_filter(
    requests: Sequence[RequestAuthentication], issuers: Mapping[str, IssuerConfig], jwks: Mapping[str, str]
) -> _Json | None:
    """The filter; None without a rule. Raises ConfigError for a rule that Envoy would judge otherwise.

    Args:
        requests: the resources.
        issuers: what mesh.yaml says of some issuers.
        jwks: key sets by issuer, for rules that name none.
    """
    found = [(item, index, rule) for item in requests for index, rule in enumerate(item.spec.jwt_rules)]
    if not found:
        return None
    triggers = {_paths(item) for item, _, _ in found}
    problems = [
        problem
        for one in found
        for problem in _problems(one, issuers, jwks, alone=len(found) == 1, triggers=len(triggers))
    ]
    if problems:
        raise ConfigError(problems, code="no_equivalent")
    found.sort(key=lambda one: one[2].issuer)
    names = {f"origins-{index}": one for index, one in enumerate(found)}
    return {
        "name": JWT_FILTER,
        "typed_config": {
            "@type": _TYPE,
            "providers": {name: _provider(rule, jwks) for name, (_, _, rule) in names.items()},
            "rules": _rules(names, *triggers),
            "bypass_cors_preflight": True,
        },
    }


_Paths = tuple[tuple[str, ...], tuple[str, ...]]
_NO_PATHS: Final[_Paths] = ((), ())


def _paths(item: RequestAuthentication) -> _Paths:
    return item.include_paths, item.exclude_paths


def _problems(
    found: _Found, issuers: Mapping[str, IssuerConfig], jwks: Mapping[str, str], *, alone: bool, triggers: int
) -> list[Problem]:
    item, index, rule = found
    own = issuers.get(rule.issuer, IssuerConfig())
    reasons = {
        "include and exclude paths that are not all rules'": triggers > 1 and _paths(item) != _NO_PATHS,
        "key discovery: name the jwksUri, or give to_envoy the key set": rule.jwks is None
        and rule.jwks_uri is None
        and rule.issuer not in jwks,
        "presence: REQUIRED beside other rules": rule.presence is Presence.REQUIRED and not alone,
        "an issuer that mesh.yaml gives tenants or JWT-SVIDs": bool(own.tenants or own.jwt_svid),
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


def _rules(names: Mapping[str, _Found], trigger: _Paths) -> list[_Json]:
    """The first that matches the path counts; one that requires nothing lets pass whatever stands in the request."""
    if trigger == _NO_PATHS:
        requires = _requirement(list(names), [rule for _, _, rule in names.values()])
        return [{"match": dict(_EVERYWHERE), "requires": requires}]
    include, exclude = trigger
    token = _any([{"provider_name": name} for name in names])
    return [
        *({"match": _match(text)} for text in exclude),
        *({"match": _match(text), "requires": token} for text in include or ("*",)),
    ]


def _match(text: str) -> _Json:
    """A path pattern, in the words of a route. Regular expressions are Envoy's to run; this library never does."""
    pattern = parse_path_pattern(text)
    if isinstance(pattern, PathTemplate):
        return _expression("/".join(_ONE if part is None else re.escape(part) for part in pattern.head), pattern.tail)
    if pattern.kind is Kind.SUFFIX:
        return _expression(".*" + re.escape(pattern.text))
    if pattern.kind is Kind.NONEMPTY:
        return dict(_EVERYWHERE)
    return {"path" if pattern.kind is Kind.EXACT else "prefix": pattern.text}


def _expression(text: str, tail: str | None = None) -> _Json:
    return {"safe_regex": {"regex": text if tail is None else f"{text}/{_ANY}{re.escape(tail)}"}}


def _requirement(names: Sequence[str], rules: Sequence[JWTRule]) -> _Json:
    """Any rule satisfied, or none of them finding a token at all."""
    first, *more = names
    if not more:
        if rules[0].presence is Presence.REQUIRED:
            return {"provider_name": first}
        return _optional(first)
    missing = {"requires_all": {"requirements": [_optional(name) for name in names]}}
    return _any([*({"provider_name": name} for name in names), missing])


def _any(requirements: list[_Json]) -> _Json:
    return {"requires_any": {"requirements": requirements}} if len(requirements) > 1 else requirements[0]


def _optional(name: str) -> _Json:
    return {"requires_any": {"requirements": [{"provider_name": name}, {"allow_missing": {}}]}}


def _provider(rule: JWTRule, jwks: Mapping[str, str]) -> _Json:
    provider: _Json = {
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
    return {**{name: value for name, value in provider.items() if value not in ("", [])}, **_keys(rule, jwks)}


def _keys(rule: JWTRule, jwks: Mapping[str, str]) -> Mapping[str, Any]:
    written = rule.jwks if rule.jwks is not None or rule.jwks_uri is not None else jwks[rule.issuer]
    if written is not None:
        return {"local_jwks": {"inline_string": written}}
    uri = rule.jwks_uri or ""
    url = urlsplit(uri)
    cluster = cluster_of(url.hostname, url.port or _PORTS[url.scheme])
    http = {"uri": uri, "cluster": cluster, "timeout": f"{rule.timeout:g}s"}
    return {"remote_jwks": {"http_uri": http, "cache_duration": "300s"}}
