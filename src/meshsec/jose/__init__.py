"""JWS and JWK, strictly: the only code that reads or makes signed JSON.

Belongs here: the compact serialization (RFC 7515), key sets (RFC 7517), the choice of key and algorithm. joserfc
reads and makes keys, cryptography checks signatures. Must not know: claims, issuers, times, where a token or a key
set came from.
"""

from ._encoding import decode_base64url, read_frozen_object, read_json_object
from ._jws import UnverifiedJws, parse_jws, sign_jws, verify_jws
from ._keys import ASYMMETRIC_ALGORITHMS, SYMMETRIC_ALGORITHMS, KeySet, SigningKey, VerificationKey

__all__ = [
    "ASYMMETRIC_ALGORITHMS",
    "SYMMETRIC_ALGORITHMS",
    "KeySet",
    "SigningKey",
    "UnverifiedJws",
    "VerificationKey",
    "decode_base64url",
    "parse_jws",
    "read_frozen_object",
    "read_json_object",
    "sign_jws",
    "verify_jws",
]
