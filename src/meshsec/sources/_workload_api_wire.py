"""The Workload API's messages (SPIFFE Workload API, workloadapi.proto) as bytes, and gRPC's codes for what fails.

Eight small messages, all of them made of text, bytes and messages: reading that takes less than a runtime and its
generated code would. Sizes are bounded by whoever received the bytes. This file must not know connections, nor what a
certificate is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from ..errors import SvidError

__all__ = [
    "CallError",
    "Code",
    "GivenSvid",
    "X509Answer",
    "read_jwt_bundles",
    "read_jwt_svids",
    "read_validated",
    "read_x509_bundles",
    "read_x509_svids",
    "write_jwt_request",
    "write_validate_request",
]

_VARINT: Final = 0
_LENGTH_DELIMITED: Final = 2
_FIXED_SIZES: Final = {1: 8, 5: 4}
_MAX_VARINT: Final = 10  # bytes

_Fields = Mapping[int, list[bytes]]


class Code(IntEnum):
    """gRPC's status codes, as far as they make a difference here; every other reads as UNKNOWN."""

    OK = 0
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    PERMISSION_DENIED = 7
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14

    @classmethod
    def _missing_(cls, value: object) -> Code:  # noqa: ARG003 - the name is the base's
        return cls.UNKNOWN


class CallError(Exception):
    """A call ended otherwise than well, or could not begin. Never leaves this room."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(f"{code.name} {message}")
        self.code = code


@dataclass(frozen=True, slots=True)
class GivenSvid:
    """One X.509-SVID of an answer, unread so far.

    Attributes:
        spiffe_id: what the server calls it.
        chain: DER certificates one after the other, leaf first.
        key: PKCS #8, DER.
        bundle: DER certificates of its trust domain's authorities.
    """

    spiffe_id: str
    chain: bytes = field(repr=False)
    key: bytes = field(repr=False)
    bundle: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class X509Answer:
    """All that the server says about X.509 at one moment; what is not in it is withdrawn.

    Attributes:
        svids: the default one first; none in an answer about bundles.
        crls: DER.
        bundles: trust domain (as its SPIFFE ID) to DER certificates: foreign ones, or all in an answer about bundles.
    """

    svids: tuple[GivenSvid, ...]
    crls: tuple[bytes, ...]
    bundles: Mapping[str, bytes]


def read_x509_svids(message: bytes) -> X509Answer:
    """``X509SVIDResponse``. Raises SvidError (``answer_malformed``), also where a mandatory field is empty."""
    fields = _read(message)
    svids = tuple(map(_given, _mandatory(fields, 1)))
    return X509Answer(svids, tuple(fields.get(2, ())), _map(fields.get(3, ())))


def read_x509_bundles(message: bytes) -> X509Answer:
    """``X509BundlesResponse``. Raises SvidError (``answer_malformed``)."""
    fields = _read(message)
    return X509Answer((), tuple(fields.get(1, ())), _map(_mandatory(fields, 2)))


def read_jwt_bundles(message: bytes) -> Mapping[str, bytes]:
    """``JWTBundlesResponse``: trust domain (as its SPIFFE ID) to JWK Set. Raises SvidError (``answer_malformed``)."""
    return _map(_mandatory(_read(message), 1))


def read_jwt_svids(message: bytes) -> list[tuple[str, str]]:
    """``JWTSVIDResponse``: each SPIFFE ID with its token. Raises SvidError (``answer_malformed``)."""
    entries = map(_read, _mandatory(_read(message), 1))
    return [(_text(_one(entry, 1)), _text(_one(entry, 2))) for entry in entries]


def read_validated(message: bytes) -> str:
    """``ValidateJWTSVIDResponse``: the SPIFFE ID; the claims are the token's own. Raises SvidError."""
    return _text(_one(_read(message), 1))


def write_validate_request(audience: str, token: str) -> bytes:
    """``ValidateJWTSVIDRequest``."""
    return _field(1, audience.encode()) + _field(2, token.encode())


def write_jwt_request(audience: Iterable[str], spiffe_id: str) -> bytes:
    """``JWTSVIDRequest``."""
    return b"".join([*(_field(1, name.encode()) for name in audience), _field(2, spiffe_id.encode())])


def _given(message: bytes) -> GivenSvid:
    fields = _read(message)
    return GivenSvid(_text(_one(fields, 1)), *(_one(fields, number) for number in (2, 3, 4)))


def _map(entries: Iterable[bytes]) -> Mapping[str, bytes]:
    """A map is a list of pairs; of two with the same key the later counts. A value may be empty."""
    pairs = map(_read, entries)
    return {_text(_one(pair, 1)): pair.get(2, [b""])[-1] for pair in pairs}


def _mandatory(fields: _Fields, number: int) -> list[bytes]:
    if not fields.get(number):
        raise _malformed("a mandatory field is empty")
    return fields[number]


def _one(fields: _Fields, number: int) -> bytes:
    """A field that must be there; of several the last counts."""
    value = _mandatory(fields, number)[-1]
    if not value:
        raise _malformed("a mandatory field is empty")
    return value


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise _malformed("a text is not UTF-8") from None


def _read(message: bytes) -> _Fields:
    """The length-delimited fields by number, in order; every other kind is unknown here and passed over."""
    fields: dict[int, list[bytes]] = {}
    for number, value in _split(message):
        fields.setdefault(number, []).append(value)
    return fields


def _split(message: bytes) -> Iterator[tuple[int, bytes]]:
    at, size = 0, len(message)
    while at < size:
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == _LENGTH_DELIMITED:
            length, at = _varint(message, at)
            end = at + length
        elif kind == _VARINT:
            end = _varint(message, at)[1]
        else:
            end = at + _FIXED_SIZES.get(kind, size + 1)  # groups, long out of use, are among the rest
        if end > size or not 0 < number < 1 << 29:
            raise _malformed("a field is cut off or of an unknown kind")
        if kind == _LENGTH_DELIMITED:
            yield number, message[at:end]
        at = end


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for position, byte in enumerate(message[at : at + _MAX_VARINT]):
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            return value, at + position + 1
    raise _malformed("a number is cut off")


def _field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | _LENGTH_DELIMITED]) + _write_varint(len(value)) + value


def _write_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _malformed(reason: str) -> SvidError:
    return SvidError(f"the Workload API's answer is malformed: {reason}", code="answer_malformed")
