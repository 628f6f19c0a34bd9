"""Where a SPIFFE Workload API listens, as a URI (SPIFFE Workload Endpoint, section 4). Must not know: connections."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final

__all__ = ["workload_api_address"]

MAX_PATH: Final = 107  # bytes of a unix socket's address, less the final NUL

_UNIX: Final = re.compile(r"unix:(?://)?(/(?!/)[!\"$&->@-~]+)")
_TCP: Final = re.compile(r"tcp://(?:\[([0-9A-Fa-f:.]{2,45})\]|([0-9.]{7,15})):([1-9][0-9]{0,4})")


def workload_api_address(text: str) -> str | tuple[str, int]:
    """Read ``unix:///absolute/path`` or ``tcp://IP:port``.

    Returns:
        The path, or the address and the port.

    Raises:
        ValueError: it is something else. A name in place of an IP address is not allowed: whoever it led to would
            hand out identities. Nothing is percent-encoded.
    """
    if unix := _UNIX.fullmatch(text):
        if len(unix[1]) > MAX_PATH:
            raise ValueError(f"a socket's path has at most {MAX_PATH} bytes")
        return unix[1]
    found = _TCP.fullmatch(text)
    if found is None or int(found[3]) > 65535:
        raise ValueError("a Workload API listens on unix:///absolute/path or tcp://IP:port")
    return str(ip_address(found[1] or found[2])), int(found[3])
