"""A compiled policy as configuration of a real Envoy, laid out as istiod lays it out for a sidecar.

Pure: plain values in, plain values out, ready for JSON. Must not know requests, or how anything is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from ..authz import CompiledAuthorization, CompiledCustom, CompiledPolicy
from ..errors import ConfigError
from ..resources import Action, MeshConfig, PathNormalization, RequestAuthentication
from ._envoy_custom import custom_filters
from ._envoy_jwt import jwt_filter
from ._envoy_rbac import RBAC_FILTER, RBAC_TYPE, rbac_policies

__all__ = ["envoy_config"]

# In the order in which they are asked; Envoy's name for "mark only" is LOG.
_ACTIONS: Final = {Action.AUDIT: "LOG", Action.DENY: "DENY", Action.ALLOW: "ALLOW"}

_NORMALIZATION: Final[Mapping[PathNormalization, Mapping[str, object]]] = MappingProxyType(
    {
        PathNormalization.NONE: {"normalize_path": False},
        PathNormalization.BASE: {"normalize_path": True},
        PathNormalization.MERGE_SLASHES: {"normalize_path": True, "merge_slashes": True},
        PathNormalization.DECODE_AND_MERGE_SLASHES: {
            "normalize_path": True,
            "merge_slashes": True,
            "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD",
        },
    }
)
# A fragment is cut off, where Envoy by itself refuses it.
_RUNTIME: Final = {"envoy.reloadable_features.http_reject_path_with_fragment": False}


def envoy_config(
    config: MeshConfig,
    requests: Sequence[RequestAuthentication],
    rules: CompiledAuthorization,
    custom: CompiledCustom,
    jwks: Mapping[str, str],
) -> dict[str, Any]:
    """The filters, the settings of the HTTP connection manager, and the runtime layer they need.

    Raises:
        ConfigError: ``no_equivalent``.
    """
    if config.forwarded_identity is not None:
        raise ConfigError("Envoy has no equivalent for forwardedIdentity", code="no_equivalent")
    # A gateway counts the proxies in front of it; a sidecar believes the last address that any client writes.
    istio = config.compatibility == "istio"
    proxies = 0 if istio else config.num_trusted_proxies
    remote = istio or bool(proxies)
    jwt = jwt_filter(requests, config.issuers, jwks)
    edge = {"use_remote_address": True, "xff_num_trusted_hops": proxies} if proxies else {}
    return {
        "http_connection_manager": {**_NORMALIZATION[config.path_normalization], **edge},
        "http_filters": [
            *custom_filters(custom.by_provider, config.extension_providers, remote=remote),
            *([jwt] if jwt else ()),
            *_rbac_filters(rules, remote=remote),
        ],
        "runtime": dict(_RUNTIME),
    }


def _rbac_filters(rules: CompiledAuthorization, *, remote: bool) -> list[dict[str, Any]]:
    """One filter for each action that any policy has; an ALLOW without a single rule refuses everything.

    Policies on trial are shadow rules, whose result stands in the request's metadata.
    """

    def of(policies: Sequence[CompiledPolicy], action: Action) -> dict[str, Any] | None:
        mine = [policy for policy in policies if policy.action is action]
        return {"action": _ACTIONS[action], "policies": rbac_policies(mine, remote=remote)} if mine else None

    filters = []
    for action in _ACTIONS:
        found: dict[str, Any] = {}
        if enforced := of(rules.policies, action):
            found["rules"] = enforced
        if trial := of(rules.trials, action):
            found |= {"shadow_rules": trial, "shadow_rules_stat_prefix": f"istio_dry_run_{action.lower()}_"}
        if found:
            filters.append({"name": RBAC_FILTER, "typed_config": {"@type": RBAC_TYPE, **found}})
    return filters
