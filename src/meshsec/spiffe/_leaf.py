"""THE leaf profile: what a certificate must look like to name a workload (X509-SVID sections 2 to 4 and 5.2).

The CA that issues, the workload that loads its own SVID and the verifier of a peer's all ask here, so that the rule
cannot drift apart. This file must not know who issued the certificate, nor what time it is.
"""

from __future__ import annotations

from typing import TypeVar

from cryptography import x509

from ..errors import SpiffeIdError, SvidError
from ._id import SpiffeId

__all__ = ["check_leaf", "find_extension", "is_ca"]

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


def find_extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    """The certificate's extension of that kind, or None."""
    for extension in certificate.extensions:
        value = extension.value
        if type(value) is kind:  # not isinstance: these classes are abstract ones' children, which makes it slow
            return value
    return None


def is_ca(certificate: x509.Certificate) -> bool:
    """Whether basicConstraints is there and says cA."""
    constraints = find_extension(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca


def check_leaf(certificate: x509.Certificate) -> SpiffeId:
    """Check the profile of an X.509-SVID leaf and read its SPIFFE ID.

    Exactly one URI SAN, which is a SPIFFE ID with a path (X509-SVID 2, 5.2); not a CA; a keyUsage that says neither
    keyCertSign nor cRLSign (4.3) and, where there is one, does say digitalSignature. An absent keyUsage is accepted:
    to set one is the issuer's duty, and neither OpenSSL nor Envoy refuses a peer for it. DNS and IP SANs may stand
    beside the URI.

    NOT checked: issuer, signature, validity, extended key usage, whether a bundle for the trust domain is known.
    That is :func:`verify_x509_svid`.

    Raises:
        SvidError: ``malformed``, ``uri_san_count``, ``spiffe_id_invalid``, ``no_path``, ``leaf_is_ca`` or
            ``leaf_key_usage``.
    """
    try:
        names = find_extension(certificate, x509.SubjectAlternativeName)
        usage = find_extension(certificate, x509.KeyUsage)
        ca = is_ca(certificate)
    except Exception as error:  # what the library raises for bad extensions has no common base
        raise SvidError(f"a certificate with malformed extensions: {str(error)[:200]!a}", code="malformed") from error
    spiffe_id = _workload_id(names)
    if ca:
        raise SvidError(f"the certificate of {spiffe_id} is a CA's", code="leaf_is_ca")
    if usage is not None and (usage.key_cert_sign or usage.crl_sign or not usage.digital_signature):
        reason = "a leaf may sign neither certificates nor CRLs, and must be allowed to sign a handshake"
        raise SvidError(f"the keyUsage of {spiffe_id} is wrong: {reason}", code="leaf_key_usage")
    return spiffe_id


def _workload_id(names: x509.SubjectAlternativeName | None) -> SpiffeId:
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []
    if len(uris) != 1:
        raise SvidError(f"an SVID has exactly one URI SAN, this certificate has {len(uris)}", code="uri_san_count")
    try:
        spiffe_id = SpiffeId.parse(uris[0])
    except SpiffeIdError as error:
        raise SvidError(str(error), code=error.code) from error
    if not spiffe_id.path:
        raise SvidError(f"{spiffe_id} has no path: it names a trust domain, not a workload", code="no_path")
    return spiffe_id
