"""Whether somebody speaks QUIC at a UDP port, and so perhaps HTTP/3, which bypasses what stands at the TCP port.

Only what every version of QUIC has in common is spoken (RFC 8999): a packet of a version that does not exist must be
answered with a list of those that do. This file must not know TLS: no handshake is begun.
"""

from __future__ import annotations

import os
import re
import socket
from contextlib import suppress
from typing import Final

__all__ = ["alternative_ports", "quic_versions"]

_TIMEOUT: Final = 1.0
_ATTEMPTS: Final = 2  # a datagram may be lost
_RESERVED: Final = bytes.fromhex("1a2a3a4a")  # a version that asks for negotiation (RFC 9000 section 15)
_SMALLEST: Final = 1200  # servers drop shorter ones (RFC 9000 section 14.1)
_LONG: Final = 0xC0
_NEGOTIATION: Final = bytes(4)
_ALTERNATIVE: Final = re.compile(r'\s*h3(?:-[0-9]{1,3})?="[A-Za-z0-9.-]{0,253}:([0-9]{1,5})".*', re.ASCII)


def quic_versions(host: str, port: int) -> tuple[int, ...]:
    """The versions of QUIC that are offered at a UDP port.

    Returns:
        Empty where nothing answers, which a firewall can bring about too.
    """
    for _ in range(_ATTEMPTS):
        with suppress(OSError):  # nobody listens, or nothing came
            return _asked(host, port)
    return ()


def _asked(host: str, port: int) -> tuple[int, ...]:
    ours, theirs = os.urandom(8), os.urandom(8)
    head = bytes([_LONG]) + _RESERVED + bytes([len(theirs)]) + theirs + bytes([len(ours)]) + ours
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as sock:
        sock.settimeout(_TIMEOUT)
        sock.connect(address)
        sock.send(head.ljust(_SMALLEST, b"\0"))
        return _read(sock.recv(2048), ours, theirs)


def _read(answer: bytes, ours: bytes, theirs: bytes) -> tuple[int, ...]:
    """A Version Negotiation packet (RFC 8999 section 6): our two connection IDs, exchanged, then the versions."""
    expected = _NEGOTIATION + bytes([len(ours)]) + ours + bytes([len(theirs)]) + theirs
    if not answer or answer[0] < 0x80 or answer[1 : 1 + len(expected)] != expected:
        return ()
    versions = answer[1 + len(expected) :]
    return tuple(int.from_bytes(versions[at : at + 4], "big") for at in range(0, len(versions) - 3, 4))


def alternative_ports(header: str) -> tuple[int, ...]:
    """The ports at which an Alt-Svc header (RFC 7838) offers HTTP/3; what is not understood offers nothing."""
    found = (_ALTERNATIVE.fullmatch(entry[:1000]) for entry in header[:8000].split(","))
    return tuple(dict.fromkeys(int(match[1]) for match in found if match and 0 < int(match[1]) < 65536))
