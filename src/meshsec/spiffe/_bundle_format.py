"""The SPIFFE bundle format: a trust domain's authorities as one JSON document (Trust Domain and Bundle, section 4).

A JWK Set. Members that cannot be understood are passed over, never the whole bundle: what is left is what is trusted,
and nothing left means that nobody is. A bundle does not name its trust domain; who fetched it knows. This file must
not know where a bundle comes from, nor when to ask again.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from ..errors import ConfigError, KeysUnavailableError
from ..jose import KeySet, read_json_object
from ._bundle import X509Bundle
from ._id import TrustDomain

__all__ = ["BundleDocument", "read_bundle", "read_jwt_bundle", "write_bundle"]

MAX_BUNDLE_BYTES: Final = 4 << 20
DEFAULT_REFRESH: Final = 300
_X509: Final = "x509-svid"
_JWT: Final = "jwt-svid"
_CURVES: Final = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


@dataclass(frozen=True, slots=True)
class BundleDocument:
    """What a bundle document says.

    Attributes:
        x509: the X.509 authorities; empty means that no X.509-SVID of the trust domain is valid.
        jwt_keys: the JWT authorities, by themselves; empty likewise.
        sequence: rises with every change, where it is given.
        refresh_hint: seconds until one should ask again; five minutes where it is not given.
    """

    x509: X509Bundle
    jwt_keys: KeySet
    sequence: int | None
    refresh_hint: int


def read_bundle(trust_domain: TrustDomain | str, data: bytes) -> BundleDocument:
    """Read a bundle.

    Args:
        trust_domain: whose bundle it is.
        data: the JSON text, at most 4 MiB.

    Raises:
        ConfigError: ``bundle_invalid``: not a JSON object with a list ``keys``; a sequence or hint that is no whole
            number; an X.509 authority that is no CA certificate.
    """
    document = _object(data)
    members = _members(document)
    hint = _whole_number(document, "spiffe_refresh_hint")
    return BundleDocument(
        X509Bundle(trust_domain, _certificates(members)),
        _jwt_keys(members),
        _whole_number(document, "spiffe_sequence"),
        DEFAULT_REFRESH if hint is None else hint,
    )


def read_jwt_bundle(data: bytes) -> KeySet:
    """Read the JWT authorities as the Workload API hands them out: a plain JWK Set (RFC 7517).

    There a key need not say its use; one with another use is passed over all the same.

    Raises:
        ConfigError: ``bundle_invalid``: not a JSON object with a list ``keys``.
    """
    members = _members(_object(data))
    return _jwt_keys({**member, "use": _JWT} for member in members if member.get("use", "sig") in ("sig", _JWT))


def write_bundle(
    x509_bundle: X509Bundle, jwt_keys: Iterable[Mapping[str, Any]] = (), *, sequence: int, refresh_hint: int
) -> bytes:
    """Write a bundle.

    Args:
        x509_bundle: the X.509 authorities.
        jwt_keys: public JWKs, each with a ``kid``.
        sequence: must be higher whenever the contents differ.
        refresh_hint: seconds.

    Raises:
        ConfigError: ``bundle_invalid``: an authority's key is neither EC (P-256, P-384, P-521) nor RSA.
    """
    members = [*map(_x509_member, x509_bundle.x509_authorities), *map(_jwt_member, jwt_keys)]
    document = {"keys": members, "spiffe_sequence": sequence, "spiffe_refresh_hint": refresh_hint}
    return json.dumps(document, indent=1).encode()


def _object(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_BUNDLE_BYTES:
        raise _refused(f"it has more than {MAX_BUNDLE_BYTES} bytes")
    try:
        return read_json_object(data)
    except ValueError as error:
        raise _refused(str(error)) from error


def _members(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    keys = document.get("keys")
    if not isinstance(keys, list):
        raise _refused("it has no list named keys")
    return [member for member in keys if isinstance(member, dict)]


def _certificates(members: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """One certificate of each member that has one; a second in the same ``x5c`` is ignored."""
    for member in members:
        chain = member.get("x5c")
        if member.get("use") != _X509 or not isinstance(member.get("kty"), str) or not isinstance(chain, list):
            continue
        if chain and isinstance(chain[0], str):
            try:
                yield b64decode(chain[0], validate=True)
            except ValueError as error:
                raise _refused("an x5c is not base64") from error


def _jwt_keys(members: Iterable[Mapping[str, Any]]) -> KeySet:
    # The use is SPIFFE's own word; to a key set it says nothing. A key without a name is not one of a bundle.
    wanted = [{**member, "use": "sig"} for member in members if member.get("use") == _JWT and member.get("kid")]
    try:
        return KeySet.parse({"keys": wanted})
    except KeysUnavailableError:
        return KeySet(())


def _whole_number(document: Mapping[str, Any], name: str) -> int | None:
    value = document.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _refused(f"{name} is not a whole number")
    return value


def _x509_member(certificate: x509.Certificate) -> dict[str, Any]:
    der = certificate.public_bytes(Encoding.DER)
    return {"use": _X509, **_key_members(certificate), "x5c": [b64encode(der).decode()]}


def _jwt_member(jwk: Mapping[str, Any]) -> dict[str, Any]:
    return {**jwk, "use": _JWT}


def _key_members(certificate: x509.Certificate) -> dict[str, str]:
    """RFC 7518 section 6: what makes the public key."""
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        point, size = key.public_numbers(), (key.key_size + 7) // 8
        return {
            "kty": "EC",
            "crv": _CURVES[key.curve.name],
            "x": _base64url(point.x, size),
            "y": _base64url(point.y, size),
        }
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        return {"kty": "RSA", "n": _base64url(numbers.n), "e": _base64url(numbers.e)}
    raise _refused("an authority's key is of a kind that no JWK is written for here")


def _base64url(number: int, size: int | None = None) -> str:
    data = number.to_bytes(size or (number.bit_length() + 7) // 8, "big")
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _refused(reason: str) -> ConfigError:
    return ConfigError(f"not a SPIFFE bundle: {reason}", code="bundle_invalid")
