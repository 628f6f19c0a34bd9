"""A host's name, in the one form in which hosts are compared. Must not know: services, files."""

from __future__ import annotations

import re
from typing import Final

from ..matching import parse_ip

__all__ = ["host_key", "host_pattern"]

_HOST: Final = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?")


def host_key(host: str) -> str:
    """A host as hosts are compared: lower case, without the dot at its end or the brackets around an IPv6 address.

    Raises:
        ValueError: it is no host name and no IP address; a wildcard and a port are neither.
    """
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    address = parse_ip(bare) if ":" in bare and "%" not in bare else None
    if address is not None:
        return str(address)
    key = host.removesuffix(".").lower()
    if not host.isascii() or len(key) > 253 or not _HOST.fullmatch(key):
        raise ValueError(f"{host[:80]!a} is no host name: no port, no wildcard, ASCII only")
    return key


def host_pattern(text: str) -> str:
    """A host as :func:`host_key` gives it, or ``*`` or ``*.`` before one: every host, or every host below one.

    Raises:
        ValueError: it is neither.
    """
    if text == "*":
        return text
    return "*." + host_key(text[2:]) if text.startswith("*.") else host_key(text)
