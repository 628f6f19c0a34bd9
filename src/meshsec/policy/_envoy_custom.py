"""CUSTOM policies as Envoy's filters: for each provider an RBAC filter that marks, and ext_authz where it marked.

The mark is what istiod uses: shadow rules, which decide nothing but leave the name of the rule that matched in the
request's metadata. Must not know: JWTRules, requests, how an authorizer is asked here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..authz import CompiledPolicy
from ..errors import ConfigError
from ..resources import ExtAuthzHttp
from ._envoy_jwt import cluster_of
from ._envoy_rbac import RBAC_FILTER, RBAC_TYPE, rbac_policies

__all__ = ["custom_filters"]

_TYPE: Final = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"

_Json = dict[str, Any]
_Policies = Mapping[str, Sequence[CompiledPolicy]]


def custom_filters(policies: _Policies, providers: Mapping[str, ExtAuthzHttp | None], *, remote: bool) -> list[_Json]:
    """Two filters for each provider. Raises ConfigError for one that is a function of this program."""
    functions = [name for name in policies if providers.get(name) is None]
    if functions:
        raise ConfigError(
            f"Envoy has no equivalent for a provider that is a function: {', '.join(functions)}", code="no_equivalent"
        )
    found: list[_Json] = []
    for name, mine in policies.items():
        settings = providers[name]
        if settings is not None:
            prefix = f"istio_ext_authz_{name}_"
            found += [_mark(mine, prefix, remote=remote), _check(settings, prefix)]
    return found


def _mark(policies: Sequence[CompiledPolicy], prefix: str, *, remote: bool) -> _Json:
    rules = {"action": "DENY", "policies": rbac_policies(policies, remote=remote)}
    config = {"@type": RBAC_TYPE, "shadow_rules": rules, "shadow_rules_stat_prefix": prefix}
    return {"name": RBAC_FILTER, "typed_config": config}


def _check(settings: ExtAuthzHttp, prefix: str) -> _Json:
    marked = {
        "filter": RBAC_FILTER,
        "path": [{"key": f"{prefix}shadow_effective_policy_id"}],
        "value": {"present_match": True},
    }
    uri = f"http://{settings.host}:{settings.port}"
    added = [{"key": key, "value": value} for key, value in settings.include_additional_headers_in_check.items()]
    answers = {
        "allowed_upstream_headers": _names(settings.headers_to_upstream_on_allow),
        "allowed_client_headers_on_success": _names(settings.headers_to_downstream_on_allow),
        "allowed_client_headers": _names(settings.headers_to_downstream_on_deny),
    }
    service: _Json = {
        "server_uri": {
            "uri": uri,
            "cluster": cluster_of(settings.host, settings.port),
            "timeout": f"{settings.timeout:g}s",
        },
        "authorization_response": {name: listed for name, listed in answers.items() if listed},
    }
    if settings.path_prefix:
        service["path_prefix"] = settings.path_prefix
    if added:
        service["authorization_request"] = {"headers_to_add": added}
    config: _Json = {
        "@type": _TYPE,
        "transport_api_version": "V3",
        "failure_mode_allow": settings.fail_open,
        "status_on_error": {"code": int(settings.status_on_error)},
        "http_service": service,
        "filter_enabled_metadata": marked,
    }
    if settings.include_request_headers_in_check:
        config["allowed_headers"] = _names(settings.include_request_headers_in_check)
    return {"name": "envoy.filters.http.ext_authz", "typed_config": config}


def _names(patterns: Sequence[str]) -> _Json:
    """Names of headers, in any case; none at all is no list."""
    return {"patterns": [{"ignore_case": True, **_name(pattern)} for pattern in patterns]} if patterns else {}


def _name(pattern: str) -> dict[str, str]:
    if pattern.startswith("*"):
        return {"suffix": pattern[1:]}
    return {"prefix": pattern[:-1]} if pattern.endswith("*") else {"exact": pattern}
