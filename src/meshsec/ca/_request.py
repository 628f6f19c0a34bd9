"""Certificate signing requests: making one, and what is taken from one, which is the public key and nothing else.

Names, usages and extensions that a request asks for are ignored: who gets which identity was decided before, by
whoever authenticated the requester. This file must not know identities.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from ..errors import IssuanceError
from ._keys import RSA_BITS

__all__ = ["new_request", "requested_key"]

MAX_REQUEST_BYTES: Final = 64 * 1024
_CURVES: Final = frozenset({"secp256r1", "secp384r1", "secp521r1"})
_PEM: Final = b"-----BEGIN "


def new_request() -> tuple[bytes, ec.EllipticCurvePrivateKey]:
    """A fresh P-256 key, and a request for it: PEM, without any name, because names would count nothing."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM), key


def requested_key(request: bytes) -> CertificatePublicKeyTypes:
    """The public key of a request whose signature proves that the requester holds the private one.

    Args:
        request: PKCS#10, PEM or DER, at most 64 KiB.

    Raises:
        IssuanceError: ``request_malformed``, ``request_signature`` or ``key_unsupported``.
    """
    if len(request) > MAX_REQUEST_BYTES:
        raise IssuanceError(f"a request has at most {MAX_REQUEST_BYTES} bytes", code="request_malformed")
    try:
        parse = x509.load_pem_x509_csr if _PEM in request else x509.load_der_x509_csr
        parsed = parse(request)
        key = parsed.public_key()
    except Exception as error:  # what the library raises for bad input has no common base
        reason = f"not a certificate signing request: {str(error)[:200]!a}"
        raise IssuanceError(reason, code="request_malformed") from error
    if not _is_strong(key):  # before the signature: checking one of a huge key is work
        raise IssuanceError("a workload's key is EC, Ed25519, or RSA of 2048 to 8192 bits", code="key_unsupported")
    if not _proves_possession(parsed):
        raise IssuanceError("the request is not signed by the key in it", code="request_signature")
    return key


def _is_strong(key: CertificatePublicKeyTypes) -> bool:
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size in RSA_BITS
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.curve.name in _CURVES
    return isinstance(key, ed25519.Ed25519PublicKey)


def _proves_possession(request: x509.CertificateSigningRequest) -> bool:
    try:
        return request.is_signature_valid
    except Exception:  # noqa: BLE001 - an unknown algorithm proves nothing
        return False
