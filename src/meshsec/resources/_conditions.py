"""The attribute keys that ``when`` may name, and what their values must look like.

One row per key. Must not know: how an attribute is matched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ._model import is_token
from ._problems import suggest
from ._values import (
    check_header_value,
    check_ip_block,
    check_namespace,
    check_port,
    check_principal,
    check_request_principal,
    check_service_account,
    check_sni,
    check_trust_domain,
)

__all__ = ["check_key", "value_check"]

Check = Callable[[str], object]

_REMOVED: Final = frozenset({"destination.labels", "destination.name", "destination.namespace", "destination.user"})


def _any(_: str) -> None:
    """Any text that is not empty."""


_KEYS: Final[dict[str, Check]] = {
    "connection.sni": check_sni,
    "destination.ip": check_ip_block,
    "destination.port": check_port,
    "remote.ip": check_ip_block,
    "request.auth.audiences": _any,
    "request.auth.presenter": _any,
    "request.auth.principal": check_request_principal,
    "source.ip": check_ip_block,
    "source.namespace": check_namespace,
    "source.principal": check_principal,
    "source.serviceAccount": check_service_account,
    "source.trustDomain": check_trust_domain,
}

# Keys that name an entry of a mapping: the text before the first bracket, whether a name is a fine entry, and values.
_MAPS: Final[dict[str, tuple[Callable[[str], bool], Check]]] = {
    "request.auth.claims": (bool, _any),
    "request.headers": (is_token, check_header_value),
}


def check_key(key: str) -> None:
    """Refuse what no request can have: at run time Istio would drop the rule, and a DENY with it.

    Raises:
        ValueError: the key is unknown, removed from Istio, not supported, or not of the form ``map[entry]``.
    """
    name, bracket, rest = key.partition("[")
    if name in _REMOVED:
        raise ValueError(f"{name} was removed from Istio")
    if name.startswith("experimental."):
        raise ValueError("experimental keys are not supported yet")
    if name in _MAPS:
        entry = rest.removesuffix("]")
        if not bracket or not rest.endswith("]") or not _MAPS[name][0](entry):
            raise ValueError(f"{key[:80]!a} does not name an entry: write {name}[name]")
    elif key not in _KEYS:
        raise ValueError(f"unknown key {key[:80]!a}{suggest(key, [*_KEYS, *_MAPS])}")


def value_check(key: str) -> Check:
    """What the values of a known key must look like."""
    name, bracket, _ = key.partition("[")
    if bracket and name in _MAPS:
        return _MAPS[name][1]
    return _KEYS.get(key, _any)
