"""The keys of an authority: which kinds there are, how they are made and read, and which hash goes with which.

This file must not know what is signed with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Literal, TypeAlias, get_args

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from ..errors import IssuanceError

__all__ = ["KEY_TYPES", "AuthorityKey", "KeyType", "generate_key", "hash_for", "key_pem", "read_key"]

AuthorityKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
KeyType = Literal["ec-p256", "ec-p384", "rsa-2048", "rsa-3072", "rsa-4096"]

KEY_TYPES: Final[tuple[KeyType, ...]] = get_args(KeyType)
RSA_BITS: Final = range(2048, 8192 + 1)

_rsa_key: Final = partial(rsa.generate_private_key, 65537)
_MAKERS: Final[Mapping[KeyType, Callable[[], AuthorityKey]]] = {
    "ec-p256": partial(ec.generate_private_key, ec.SECP256R1()),
    "ec-p384": partial(ec.generate_private_key, ec.SECP384R1()),
    "rsa-2048": partial(_rsa_key, 2048),
    "rsa-3072": partial(_rsa_key, 3072),
    "rsa-4096": partial(_rsa_key, 4096),
}
_CURVE_HASHES: Final[Mapping[str, SHA256 | SHA384]] = {"secp256r1": SHA256(), "secp384r1": SHA384()}


def generate_key(key_type: KeyType) -> AuthorityKey:
    """A fresh key. Raises IssuanceError (``key_unsupported``) for an unknown kind."""
    if key_type not in _MAKERS:
        raise IssuanceError(f"the kinds of key are {', '.join(KEY_TYPES)}", code="key_unsupported")
    return _MAKERS[key_type]()


def hash_for(key: AuthorityKey) -> SHA256 | SHA384:
    """The hash that a key signs with: as strong as its curve; SHA-256 for RSA."""
    return _CURVE_HASHES[key.curve.name] if isinstance(key, ec.EllipticCurvePrivateKey) else SHA256()


def key_pem(key: AuthorityKey) -> bytes:
    """The key as **unencrypted** PKCS#8."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_key(data: bytes) -> AuthorityKey:
    """Read an unencrypted PEM key (PKCS#8, PKCS#1 or SEC 1).

    Raises:
        ValueError: no key, or not one that an authority may have; the message shows nothing of it.
    """
    try:
        key = load_pem_private_key(data, password=None)
    except Exception as error:  # noqa: BLE001 - whatever it is; its words could hold a piece of the key
        raise ValueError(f"no usable private key: {type(error).__name__}") from None
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVE_HASHES:
        return key
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size in RSA_BITS:
        return key
    raise ValueError("an authority's key is EC P-256, EC P-384, or RSA of 2048 to 8192 bits")
