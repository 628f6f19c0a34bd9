"""The attribute keys that ``when`` may name, and what their values must look like.

One row per key. The same checks serve the fields of ``source`` and ``operation`` that mean the same attribute. Must
not know: how an attribute is matched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..matching import IpBlock
from ._model import is_token
from ._problems import suggest

__all__ = ["check_ip_block", "check_key", "check_port", "check_service_account", "check_trust_domain", "value_check"]

Check = Callable[[str], object]

_REMOVED: Final = frozenset({"destination.labels", "destination.name", "destination.namespace", "destination.user"})


def check_ip_block(text: str) -> None:
    """An address or a CIDR block."""
    IpBlock.parse(text)


def check_port(text: str) -> None:
    """A decimal port, as text."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise ValueError(f"{text[:20]!a} is no port: a number from 0 to 65535, in quotes")


def check_service_account(text: str) -> None:
    """``name`` or ``namespace/name``, no wildcard."""
    parts = text.split("/")
    if len(text) > 320 or len(parts) > 2 or not all(parts) or "*" in text:
        raise ValueError(f"{text[:80]!a} is no service account: name or namespace/name, without wildcards")


def check_trust_domain(text: str) -> None:
    """A trust domain, with at most one star, at an end."""
    if "/" in text or "*" in text[1:-1] or text.count("*") > 1:
        raise ValueError(f"{text[:80]!a} is no trust domain: no slash, and at most one '*', at an end")


def _any(_: str) -> None:
    """Any text that is not empty."""


_KEYS: Final[dict[str, Check]] = {
    "connection.sni": _any,
    "destination.ip": check_ip_block,
    "destination.port": check_port,
    "remote.ip": check_ip_block,
    "request.auth.audiences": _any,
    "request.auth.presenter": _any,
    "request.auth.principal": _any,
    "source.ip": check_ip_block,
    "source.namespace": _any,
    "source.principal": _any,
    "source.serviceAccount": check_service_account,
    "source.trustDomain": check_trust_domain,
}

# Keys that name an entry of a mapping: the text before the first bracket, and whether a name is a fine entry.
_MAPS: Final[dict[str, Callable[[str], bool]]] = {
    "request.auth.claims": bool,
    "request.headers": is_token,
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
        if not bracket or not rest.endswith("]") or not _MAPS[name](entry):
            raise ValueError(f"{key[:80]!a} does not name an entry: write {name}[name]")
    elif key not in _KEYS:
        raise ValueError(f"unknown key {key[:80]!a}{suggest(key, [*_KEYS, *_MAPS])}")


def value_check(key: str) -> Check:
    """What the values of a known key must look like."""
    return _KEYS.get(key, _any)
