"""The compact serialization (RFC 7515 section 7.1): three segments, one reading, one signature.

Sizes are bounded before anything is decoded; the key never comes from the token (``jwk``, ``jku``, ``x5u`` and
``x5c`` are not looked at); no extension is understood, so ``crit`` and ``b64`` are refused. Messages are those of
Istio's proxy where it has one, and repeat nothing of the token. This file must not know claims.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import TokenError
from ._encoding import decode_base64url, encode_base64url, read_frozen_object, write_json
from ._keys import ASYMMETRIC_ALGORITHMS, SYMMETRIC_ALGORITHMS, KeySet, SigningKey

__all__ = ["UnverifiedJws", "parse_jws", "sign_jws", "verify_jws"]

MAX_TOKEN_BYTES: Final = 32 * 1024
MAX_HEADER_BYTES: Final = 8 * 1024

_ALGORITHMS: Final = ASYMMETRIC_ALGORITHMS | SYMMETRIC_ALGORITHMS
# Header segments of tokens that verified, and what they say: an issuer repeats its header byte for byte, and nobody
# else can put anything here.
_headers: Final[dict[bytes, Mapping[str, Any]]] = {}
_MOST_HEADERS: Final = 256

# Extensions change what a token means (RFC 7515 section 4.1.11, RFC 7797); none is understood here.
_EXTENSIONS: Final = ("crit", "b64")


@dataclass(slots=True)  # one is made for each token, and making a frozen one takes several times as long
class UnverifiedJws:
    """A token that has the right form. Nothing in it is true until :meth:`verify` has returned.

    Attributes:
        unverified_header: the header; ``alg`` is a known algorithm, ``kid`` text if it is there.
        unverified_payload: the payload's bytes.
        payload_segment: the same, still encoded.
    """

    unverified_header: Mapping[str, Any] = field(repr=False)
    unverified_payload: bytes = field(repr=False)
    payload_segment: bytes = field(repr=False)
    _signed: bytes = field(repr=False)
    _signature: bytes = field(repr=False)
    _new_header: bytes | None = field(repr=False)

    def verify(self, keys: KeySet, algorithms: Collection[str]) -> None:
        """Check the signature.

        Args:
            keys: the only keys that may have made it.
            algorithms: the only algorithms allowed; a shared secret needs its HS algorithm named here too.

        Raises:
            TokenError: ``jwt_algorithm``, ``jwt_unknown_key`` (no key fits the header) or ``jwt_signature``.
        """
        algorithm = self.unverified_header["alg"]
        if algorithm not in algorithms:
            raise _unsupported_algorithm()
        candidates = keys.candidates(self.unverified_header)
        if not candidates:
            raise TokenError("Jwks doesn't have key to match kid or alg from Jwt", code="jwt_unknown_key")
        for key in candidates:
            if key.verify(algorithm, self._signed, self._signature):
                if self._new_header is not None:
                    _remember(self._new_header, self.unverified_header)
                return
        raise TokenError("Jwt verification fails", code="jwt_signature")


def _remember(segment: bytes, header: Mapping[str, Any]) -> None:
    if len(_headers) >= _MOST_HEADERS:
        _headers.clear()
    _headers[segment] = header


def parse_jws(token: str | bytes, *, lenient: bool = False) -> UnverifiedJws:
    """Read a token's form. Verifies nothing.

    Args:
        token: at most 32 KiB, the header segment at most 8 KiB.
        lenient: whether to overlook what Envoy overlooks: dots too many, white space, padding and spare bits in
            base64url, and the extensions that ``crit`` and ``b64`` speak of.

    Raises:
        TokenError: ``jwt_too_large``, ``jwt_malformed``, ``jwt_algorithm`` or ``jwt_critical_header``.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise TokenError("Jwt is too large", code="jwt_too_large")
    # A character that is not ASCII becomes one that no segment may hold.
    text = token.encode("ascii", "replace") if isinstance(token, str) else token
    segments = [segment for segment in text.split(b".") if segment] if lenient else text.split(b".", 3)
    if len(segments) != 3 or not all(segments):
        raise _malformed("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections")
    header_segment, payload_segment, signature_segment = segments
    known = None if lenient else _headers.get(header_segment)
    header = known or _read_header(header_segment, lenient=lenient)
    part = "payload"
    try:
        payload = decode_base64url(payload_segment, lenient=lenient)
        part = "signature"
        signature = decode_base64url(signature_segment, lenient=lenient)
    except ValueError:
        raise _not_base64url(part) from None
    return UnverifiedJws(
        header,
        payload,
        payload_segment,
        header_segment + b"." + payload_segment,
        signature,
        None if known or lenient else header_segment,
    )


def verify_jws(token: str | bytes, keys: KeySet, algorithms: Collection[str]) -> tuple[Mapping[str, Any], bytes]:
    """Verify a token's signature (RFC 7515 section 5.2).

    Args:
        token: the compact form.
        keys: the only keys that may have signed it; what the header offers as a key is ignored.
        algorithms: the only algorithms allowed.

    Returns:
        The header and the payload's bytes.

    Raises:
        TokenError: malformed, too large, not allowed, of an unknown key, or not verified.

    Does **not** check claims, times, issuer, audience or ``typ``.
    """
    jws = parse_jws(token)
    jws.verify(keys, algorithms)
    return jws.unverified_header, jws.unverified_payload


def sign_jws(header: Mapping[str, Any], payload: bytes, key: SigningKey) -> str:
    """Sign a payload.

    Args:
        header: further members, such as ``typ``; the key's ``alg`` and ``kid`` win over them.
        payload: the bytes to sign, for a token the JSON of its claims.
        key: the private key.
    """
    name = {"kid": key.kid} if key.kid else {}
    head = encode_base64url(write_json({**header, "alg": key.algorithm, **name}))
    signed = head + b"." + encode_base64url(payload)
    return (signed + b"." + encode_base64url(key.sign(signed))).decode("ascii")


def _read_header(segment: bytes, *, lenient: bool) -> Mapping[str, Any]:
    if len(segment) > MAX_HEADER_BYTES:
        raise TokenError("Jwt header is too large", code="jwt_too_large")
    try:
        data = decode_base64url(segment, lenient=lenient)
    except ValueError:
        raise _not_base64url("header") from None
    try:
        header = read_frozen_object(data)
    except ValueError:
        raise _malformed("Jwt header is an invalid JSON") from None
    algorithm = header.get("alg")
    if not isinstance(algorithm, str):
        raise _malformed("Jwt header [alg] field is required and must be a string")
    if algorithm not in _ALGORITHMS:
        raise _unsupported_algorithm()
    if not isinstance(header.get("kid", ""), str):
        raise _malformed("Jwt header [kid] field is not a string")
    for name in () if lenient else _EXTENSIONS:
        if name in header:
            raise TokenError(f"Jwt header [{name}] is not supported", code="jwt_critical_header")
    return header


def _not_base64url(part: str) -> TokenError:
    return _malformed(f"Jwt {part} is an invalid Base64url encoded")


def _malformed(message: str) -> TokenError:
    return TokenError(message, code="jwt_malformed")


def _unsupported_algorithm() -> TokenError:
    return TokenError("Jwt header [alg] is not supported", code="jwt_algorithm")
