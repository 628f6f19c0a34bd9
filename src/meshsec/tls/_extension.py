"""What the ASGI TLS extension says of a connection (asgi.readthedocs.io, "TLS Extension", 0.2).

For other people's code; ours reads :func:`verified_peer`. This file must not know servers.
"""

from __future__ import annotations

import ssl
from functools import cache, lru_cache
from typing import Any, Final

from cryptography import x509

from ._sockets import GuardedObject, GuardedSocket, verified_peer

__all__ = ["asgi_extension"]

_RECALLED: Final = 256
_VERSIONS: Final = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}


def asgi_extension(tls_object: object) -> dict[str, Any] | None:
    """The value of ``scope["extensions"]["tls"]``.

    Args:
        tls_object: one of ours, after its handshake.

    Returns:
        None on plaintext and for what is not ours. ``server_cert`` is None, as the extension permits.
    """
    peer = verified_peer(tls_object)
    if peer is None or not isinstance(tls_object, GuardedObject | GuardedSocket):
        return None
    cipher = tls_object.cipher()
    chain, name = _in_text(peer.chain)
    return {
        "server_cert": None,
        "client_cert_chain": list(chain),
        "client_cert_name": name,
        "client_cert_error": None,
        "tls_version": _VERSIONS.get(tls_object.version() or ""),
        "cipher_suite": _suites().get(cipher[0]) if cipher else None,
    }


@lru_cache(_RECALLED)
def _in_text(chain: tuple[bytes, ...]) -> tuple[tuple[str, ...], str]:
    """The chain as PEM, and the leaf's subject; a client that connects anew is mostly one that was here before."""
    name = x509.load_der_x509_certificate(chain[0]).subject.rfc4514_string()
    return tuple(map(ssl.DER_cert_to_PEM_cert, chain)), name


@cache
def _suites() -> dict[str, int]:
    """The 16-bit number of each suite, which OpenSSL keeps in the lower half of its own."""
    known = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).get_ciphers()
    return {suite["name"]: suite["id"] & 0xFFFF for suite in known}
