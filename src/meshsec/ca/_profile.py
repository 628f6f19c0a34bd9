"""What our certificates look like: the one place that builds them.

Made to pass the strictest verifiers in use (OpenSSL's X509_STRICT, the Web PKI policy of ``cryptography``), whatever
our own verifier would let pass. This file must not know who may have a certificate, nor for how long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..spiffe import SpiffeId, TrustDomain

__all__ = ["Validity", "leaf_certificate", "root_certificate"]

MAX_NAME_PART: Final = 64  # X.520's bound for organizationName; a trust domain may have 255

_NO_USAGE: Final = dict.fromkeys(
    (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ),
    False,
)
_CA_USAGE: Final = x509.KeyUsage(**{**_NO_USAGE, "key_cert_sign": True, "crl_sign": True})
_LEAF_USAGE: Final = x509.KeyUsage(**{**_NO_USAGE, "digital_signature": True})
_BOTH_ROLES: Final = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])


@dataclass(frozen=True, slots=True)
class Validity:
    """From when to when, POSIX seconds; certificates know whole seconds only, so fractions are cut off."""

    not_before: float
    not_after: float


def root_certificate(trust_domain: TrustDomain, key: EllipticCurvePrivateKey, validity: Validity) -> x509.Certificate:
    """A self-signed root that is itself an SVID without a path (X509-SVID 3.1, 4): it says which domain it is for.

    The serial number is part of the name, so that no two roots share one: OpenSSL tries only the first of a name.
    """
    serial = x509.random_serial_number()
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain.name[:MAX_NAME_PART]),
            x509.NameAttribute(NameOID.COMMON_NAME, "meshsec root"),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, f"{serial:x}"),
        ]
    )
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(SpiffeId(trust_domain)))])
    builder = (
        _builder(key.public_key(), validity, serial)
        .subject_name(name)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_CA_USAGE, critical=True)
        .add_extension(names, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, SHA256())


def leaf_certificate(
    names: Sequence[x509.GeneralName],
    public_key: EllipticCurvePublicKey,
    validity: Validity,
    issuer: x509.Certificate,
    issuer_key: EllipticCurvePrivateKey,
) -> x509.Certificate:
    """A leaf with an empty subject, whose names are therefore critical (X509-SVID 2 and appendix A)."""
    builder = (
        _builder(public_key, validity, x509.random_serial_number())
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_LEAF_USAGE, critical=True)
        .add_extension(_BOTH_ROLES, critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    return builder.sign(issuer_key, SHA256())


def _builder(public_key: EllipticCurvePublicKey, validity: Validity, serial: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(_instant(validity.not_before))
        .not_valid_after(_instant(validity.not_after))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)
