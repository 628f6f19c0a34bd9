"""A compiled policy as configuration of a real Envoy, laid out as istiod lays it out for a sidecar.

Pure: plain values in, plain values out, ready for JSON. Must not know requests, or how anything is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from ..authz import CompiledPolicy
from ..resources import Action, MeshConfig, PathNormalization, RequestAuthentication
from ._envoy_jwt import jwt_filter
from ._envoy_rbac import rbac_policies

__all__ = ["envoy_config"]

_RBAC: Final = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
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
    config: MeshConfig, requests: Sequence[RequestAuthentication], policies: Sequence[CompiledPolicy]
) -> dict[str, Any]:
    """The filters, the settings of the HTTP connection manager, and the runtime layer they need."""
    jwt = jwt_filter(requests, config.issuers)
    return {
        "http_connection_manager": dict(_NORMALIZATION[config.path_normalization]),
        "http_filters": [*([jwt] if jwt else ()), *_rbac_filters(policies, istio=config.compatibility == "istio")],
        "runtime": dict(_RUNTIME),
    }


def _rbac_filters(policies: Sequence[CompiledPolicy], *, istio: bool) -> list[dict[str, Any]]:
    """One filter for each action that any policy has; an ALLOW without a single rule refuses everything."""
    filters = []
    for action, name in _ACTIONS.items():
        mine = [policy for policy in policies if policy.action is action]
        if mine:
            rules = {"action": name, "policies": rbac_policies(mine, istio=istio)}
            filters.append(
                {
                    "name": "envoy.filters.http.rbac",
                    "typed_config": {"@type": _RBAC, "rules": rules},
                }
            )
    return filters
