"""A client's certificate as a proxy writes it into a header → DER, leaf first.

Belongs here: the notations, read strictly; whatever is not exactly one certificate is an error, because a proxy
writes exactly one. Must not know: who sent the header, or whether the certificate holds; both are for the caller.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from hashlib import sha256
from types import MappingProxyType
from typing import Final, Literal

__all__ = ["ClientCertFormat", "read_client_cert", "read_client_cert_chain"]

ClientCertFormat = Literal["xfcc", "client-cert", "nginx", "haproxy", "alb"]

_LONGEST: Final = 65536
_USUAL: Final = 8192
_MOST: Final = 10
_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_END: Final = "-----END CERTIFICATE-----"
_PERCENT: Final = re.compile(r"(?:[!-$&-~ ]|%[0-9A-Fa-f]{2})*")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
# In the order in which Envoy writes them. Only what stands before Subject, URI and DNS is out of a client's reach:
# those are written as they stand in its certificate, commas and semicolons included.
_XFCC_ORDER: Final = ("By", "Hash", "Cert", "Chain", "Subject", "URI", "DNS")


def read_client_cert(text: str, notation: ClientCertFormat) -> tuple[bytes, ...]:
    """The certificates in a header's value.

    Args:
        text: the value of the header's only line.
        notation: ``xfcc`` (Envoy's X-Forwarded-Client-Cert, one element with ``Hash`` and ``Cert``), ``client-cert``
            (RFC 9440), ``nginx`` (``$ssl_client_escaped_cert``), ``haproxy`` (``ssl_c_der,base64``), ``alb`` (AWS's
            X-Amzn-Mtls-Clientcert-Leaf, or X-Amzn-Mtls-Clientcert with the whole chain).

    Returns:
        DER, leaf first; the rest only where Envoy writes ``Chain`` and AWS the whole chain. Empty for an empty value:
        no certificate.

    Raises:
        ValueError: it is anything else.
    """
    # Requests of one connection bring the same text again and again; what it says depends on nothing else.
    return _read(text, notation) if len(text) <= _USUAL else _read.__wrapped__(text, notation)


def read_client_cert_chain(text: str) -> tuple[bytes, ...]:
    """The certificates in Client-Cert-Chain (RFC 9440 section 2.3): those between the leaf and its authority.

    Raises:
        ValueError: it is no list of byte sequences, or a long one.
    """
    _check_text(text)
    parts = [part.strip(" \t") for part in text.split(",")] if text.strip(" \t") else []
    if len(parts) >= _MOST:
        raise ValueError("that are more certificates than a chain has")
    return tuple(_byte_sequence(part) for part in parts)


@lru_cache(256)
def _read(text: str, notation: ClientCertFormat) -> tuple[bytes, ...]:
    _check_text(text)
    text = text.strip(" \t")
    return _READERS[notation](text) if text else ()


def _check_text(text: str) -> None:
    if len(text) > _LONGEST or not text.isascii():
        raise ValueError("the header is too long, or not ASCII")


def _xfcc(text: str) -> tuple[bytes, ...]:
    pairs = list(_pairs(text))
    ranks = [_XFCC_ORDER.index(key) for key, _ in pairs if key in _XFCC_ORDER]
    if len(ranks) != len(pairs) or ranks != sorted(ranks):
        raise ValueError("the element is not as Envoy writes it: unknown keys, or out of their order")
    found = {key: [value for name, value in pairs if name == key] for key in ("Hash", "Cert", "Chain")}
    if len(found["Hash"]) != 1 or len(found["Cert"]) != 1 or len(found["Chain"]) > 1:
        raise ValueError("one Hash and one Cert belong into the element")
    leaf = _one(_pems(_unescaped(found["Cert"][0])))
    if not _HASH.fullmatch(found["Hash"][0]) or sha256(leaf).hexdigest() != found["Hash"][0]:
        raise ValueError("Hash is another certificate's")
    chain = _pems(_unescaped(found["Chain"][0])) if found["Chain"] else (leaf,)
    if chain[0] != leaf:
        raise ValueError("Chain begins with another certificate")
    return chain


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """The pairs of the only element; a comma outside of quotes would begin another one."""
    start, quoted, position = 0, False, 0
    while position <= len(text):
        character = text[position : position + 1]
        if quoted and character == "\\":
            position += 1
        elif character == '"':
            quoted = not quoted
        elif character == "," and not quoted:
            raise ValueError("there is more than one element")
        elif character in ("", ";") and not quoted:
            yield _pair(text[start:position])
            start = position + 1
        position += 1
    if quoted or start <= len(text):
        raise ValueError("a quote is not closed")


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError("a part of the element is no pair")
    return key, value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value


def _client_cert(text: str) -> tuple[bytes, ...]:
    return (_byte_sequence(text),)


def _byte_sequence(text: str) -> bytes:
    if len(text) < 3 or not text.startswith(":") or not text.endswith(":"):
        raise ValueError("a byte sequence (RFC 8941) belongs here: base64 between colons")
    return _base64(text[1:-1])


def _nginx(text: str) -> tuple[bytes, ...]:
    return (_one(_pems(_unescaped(text))),)


def _alb(text: str) -> tuple[bytes, ...]:
    return _pems(_unescaped(text))


def _haproxy(text: str) -> tuple[bytes, ...]:
    return (_base64(text),)


_READERS: Final[Mapping[ClientCertFormat, Callable[[str], tuple[bytes, ...]]]] = MappingProxyType(
    {"xfcc": _xfcc, "client-cert": _client_cert, "nginx": _nginx, "haproxy": _haproxy, "alb": _alb}
)


def _unescaped(text: str) -> str:
    if not _PERCENT.fullmatch(text):
        raise ValueError("the certificate is not percent-encoded")
    parts = text.split("%")
    return parts[0] + "".join(chr(int(part[:2], 16)) + part[2:] for part in parts[1:])


def _pems(text: str) -> tuple[bytes, ...]:
    """PEM certificates and nothing else but line ends between them."""
    blocks = text.strip("\r\n").split(_END)
    if len(blocks) > _MOST + 1 or blocks.pop() != "":
        raise ValueError("PEM certificates belong here")
    found = []
    for block in blocks:
        begin, _, body = block.lstrip("\r\n").partition(_BEGIN)
        if begin or _BEGIN in body:
            raise ValueError("PEM certificates belong here")
        found.append(_base64(body.replace("\r", "").replace("\n", "")))
    return tuple(found)


def _one(found: tuple[bytes, ...]) -> bytes:
    if len(found) != 1:
        raise ValueError("exactly one certificate belongs here")
    return found[0]


def _base64(text: str) -> bytes:
    try:
        der = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        der = b""
    if not der:
        raise ValueError("that is not base64")
    return der
