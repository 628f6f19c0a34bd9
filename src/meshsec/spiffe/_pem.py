"""Reading certificates, all or nothing: DER and PEM in, parsed certificates out.

The only place of the library that turns bytes into a certificate. This file must not know what a certificate is for,
nor which error its callers raise: it says ``ValueError`` with a reason, whatever the library below it raised.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

__all__ = ["read_der", "read_pem", "split_der", "write_pem"]

_BEGIN: Final = b"-----BEGIN "
_END: Final = b"-----END "
_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_SEQUENCE: Final = 0x30


def read_der(der: bytes) -> x509.Certificate:
    """Parse one DER certificate, its extensions included, so that nothing is left to fail later.

    Raises:
        ValueError: it is not one well-formed X.509 certificate with well-formed extensions.
    """
    try:
        return _with_extensions(x509.load_der_x509_certificate(der))
    except Exception as error:  # what the library raises for bad input has no common base
        raise ValueError(f"not a well-formed certificate: {str(error)[:200]!a}") from error


def split_der(data: bytes) -> list[bytes]:
    """Cut DER certificates apart that stand one after the other, without a look at what is in them.

    Raises:
        ValueError: something else than whole DER sequences.
    """
    found = []
    while data:
        end = _sequence_length(data)
        if end > len(data):
            raise ValueError("a DER certificate is cut off")
        found.append(data[:end])
        data = data[end:]
    return found


def _sequence_length(data: bytes) -> int:
    """Of the ASN.1 SEQUENCE at the beginning, with its own first bytes (X.690 section 8.1.3)."""
    if len(data) < 2 or data[0] != _SEQUENCE:
        raise ValueError("no DER certificate where one should begin")
    size = data[1] - 0x80
    if size < 0:
        return 2 + data[1]
    # Four bytes count up to 4 GiB; no length at all (0x80) is not DER.
    if not 1 <= size <= 4 or len(data) < 2 + size:
        raise ValueError("a DER length cannot be read")
    return 2 + size + int.from_bytes(data[2 : 2 + size], "big")


def read_pem(data: bytes) -> list[x509.Certificate]:
    """Parse every ``CERTIFICATE`` block; text between the blocks is ignored, as everywhere.

    Raises:
        ValueError: there is none, one is malformed, or the last one is cut off (which the library below passes over
            in silence: a half-written bundle would distrust half the mesh).
    """
    last_line = data.rpartition(b"\n")[2]
    if data.count(_BEGIN) != data.count(_END) or (last_line and _CERTIFICATE.startswith(last_line)):
        raise ValueError("a PEM block is cut off")
    expected = data.count(_CERTIFICATE)
    if not expected:
        raise ValueError("no PEM certificate found")
    try:
        certificates = [_with_extensions(certificate) for certificate in x509.load_pem_x509_certificates(data)]
    except Exception as error:  # as above
        raise ValueError(f"not well-formed PEM certificates: {str(error)[:200]!a}") from error
    if len(certificates) != expected:
        raise ValueError(f"only {len(certificates)} of {expected} PEM certificates can be read")
    return certificates


def _with_extensions(certificate: x509.Certificate) -> x509.Certificate:
    certificate.extensions  # noqa: B018 - parsed lazily; the certificate keeps them
    return certificate


def write_pem(certificates: tuple[x509.Certificate, ...]) -> bytes:
    """Join the certificates as PEM blocks, in order."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
