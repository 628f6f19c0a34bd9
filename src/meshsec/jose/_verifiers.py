"""How a signature is checked: one prepared function for each key and algorithm.

What can be built once (padding, hash, curve parameters) is built when the key is read; a token costs one call of
cryptography. This file must not know key sets, nor which algorithm a key may be used with.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

__all__ = ["Verifier", "verifier"]

Verifier = Callable[[bytes, bytes], bool]
"""Takes the signature (RFC 7518 section 3) and the message; says whether the one is the other's."""

_HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}
_HALF: Final = {"ES256": 32, "ES384": 48, "ES512": 66}  # bytes of r, and of s


def verifier(algorithm: str, key: Any) -> Verifier:
    """Prepare the check.

    Args:
        algorithm: a known one that the key is for.
        key: cryptography's public key, or a shared secret.
    """
    return _FAMILIES[algorithm[:2]](algorithm, key)


def _pkcs1(algorithm: str, key: Any) -> Verifier:
    return partial(_holds, key.verify, (padding.PKCS1v15(), _HASHES[algorithm[2:]]))


def _pss(algorithm: str, key: Any) -> Verifier:
    digest = _HASHES[algorithm[2:]]
    return partial(_holds, key.verify, (padding.PSS(padding.MGF1(digest), digest.digest_size), digest))


def _eddsa(_: str, key: Any) -> Verifier:
    return partial(_holds, key.verify, ())


def _ecdsa(algorithm: str, key: Any) -> Verifier:
    half, settings = _HALF[algorithm], (ec.ECDSA(_HASHES[algorithm[2:]]),)

    def verify(signature: bytes, message: bytes) -> bool:
        if len(signature) != 2 * half:
            return False
        r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
        return _holds(key.verify, settings, encode_dss_signature(r, s), message)

    return verify


def _hmac(algorithm: str, secret: Any) -> Verifier:
    digest = f"sha{algorithm[2:]}"
    return lambda signature, message: hmac.compare_digest(signature, hmac.digest(secret, message, digest))


_FAMILIES: Final[Mapping[str, Callable[[str, Any], Verifier]]] = {
    "RS": _pkcs1,
    "PS": _pss,
    "ES": _ecdsa,
    "Ed": _eddsa,
    "HS": _hmac,
}


def _holds(verify: Callable[..., None], settings: tuple[Any, ...], signature: bytes, message: bytes) -> bool:
    try:
        verify(signature, message, *settings)
    except (InvalidSignature, ValueError):
        return False
    return True
