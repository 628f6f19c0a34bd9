"""What our certificates and CRLs look like: the one place that builds them.

Made to pass the strictest verifiers in use (OpenSSL's X509_STRICT, the Web PKI policy of ``cryptography``), whatever
our own verifier would let pass. This file must not know who may have a certificate, nor for how long.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..spiffe import SpiffeId, TrustDomain
from ._keys import AuthorityKey, hash_for

__all__ = ["Issuer", "Validity", "leaf_certificate", "revocation_list", "root_certificate"]

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


def _extension(value: x509.ExtensionType, *, critical: bool) -> x509.Extension[x509.ExtensionType]:
    return x509.Extension(value.oid, critical, value)


def _encoded(extension: x509.Extension[x509.ExtensionType]) -> x509.Extension[x509.ExtensionType]:
    """The same in DER: what is in every leaf need not be encoded for each."""
    value = x509.UnrecognizedExtension(extension.oid, extension.value.public_bytes())
    return _extension(value, critical=extension.critical)


def _usage(*names: str) -> x509.Extension[x509.ExtensionType]:
    return _extension(x509.KeyUsage(**{**_NO_USAGE, **dict.fromkeys(names, True)}), critical=True)


_CA: Final = (
    _extension(x509.BasicConstraints(ca=True, path_length=None), critical=True),
    _usage("key_cert_sign", "crl_sign"),
)
_PURPOSES: Final = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
_LEAF: Final = (
    _encoded(_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)),
    _encoded(_extension(_PURPOSES, critical=False)),
)
_SIGNS: Final = _encoded(_usage("digital_signature"))
# RFC 8813: an EC key must not say keyEncipherment; Istio says it of every key.
_SIGNS_OR_ENCIPHERS: Final = _encoded(_usage("digital_signature", "key_encipherment"))
_NOBODY: Final = x509.Name([])


@dataclass(frozen=True, slots=True)
class Validity:
    """From when to when, POSIX seconds; certificates know whole seconds only, so fractions are cut off."""

    not_before: float
    not_after: float


@dataclass(frozen=True, slots=True, eq=False)
class Issuer:
    """Whose name and key stand under a certificate.

    Attributes:
        leaf_extensions: what all its leaves have in common, in DER.
    """

    name: x509.Name
    key: AuthorityKey
    key_identifier: x509.Extension[x509.ExtensionType]
    leaf_extensions: tuple[x509.Extension[x509.ExtensionType], ...]

    @classmethod
    def of(cls, certificate: x509.Certificate, key: AuthorityKey) -> Issuer:
        """The issuer that a CA certificate and its key make."""
        try:
            subject_key = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_key)
        except x509.ExtensionNotFound:
            identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
        extension = _extension(identifier, critical=False)
        return cls(certificate.subject, key, extension, (*_LEAF, _encoded(extension)))


def root_certificate(
    trust_domain: TrustDomain, key: AuthorityKey, validity: Validity, *, name: x509.Name | None = None
) -> x509.Certificate:
    """A self-signed root that is itself an SVID without a path (X509-SVID 3.1, 4): it says which domain it is for.

    Args:
        name: of the root that this one renews; by default a name that no other root has, because OpenSSL tries only
            the first root of a name.
    """
    serial = x509.random_serial_number()
    name = name or _root_name(trust_domain, serial)
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(SpiffeId(trust_domain)))])
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    extensions = (
        *_CA,
        _subject_key(key.public_key()),
        _extension(names, critical=False),
        _extension(identifier, critical=False),
    )
    return _builder(name, name, key.public_key(), serial, validity, extensions).sign(key, hash_for(key))


def leaf_certificate(
    names: Sequence[x509.GeneralName], public_key: CertificatePublicKeyTypes, validity: Validity, issuer: Issuer
) -> x509.Certificate:
    """A leaf with an empty subject, whose names are therefore critical (X509-SVID 2 and appendix A)."""
    extensions = (
        *issuer.leaf_extensions,
        _SIGNS_OR_ENCIPHERS if isinstance(public_key, RSAPublicKey) else _SIGNS,
        _subject_key(public_key),
        _extension(x509.SubjectAlternativeName(names), critical=True),
    )
    serial = x509.random_serial_number()
    builder = _builder(issuer.name, _NOBODY, public_key, serial, validity, extensions)
    return builder.sign(issuer.key, hash_for(issuer.key))


def revocation_list(
    issuer: Issuer, revoked: Iterable[tuple[int, float]], number: int, validity: Validity
) -> x509.CertificateRevocationList:
    """A complete CRL (RFC 5280 section 5).

    Args:
        revoked: serial number and the moment of revocation.
        number: rises with each list of this issuer.
    """
    builder = x509.CertificateRevocationListBuilder(
        issuer.name, _instant(validity.not_before), _instant(validity.not_after)
    )
    builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    builder = builder.add_extension(issuer.key_identifier.value, critical=False)
    for serial, moment in revoked:
        entry = x509.RevokedCertificateBuilder(serial, _instant(moment)).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(issuer.key, hash_for(issuer.key))


def _root_name(trust_domain: TrustDomain, serial: int) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain.name[:MAX_NAME_PART]),
            x509.NameAttribute(NameOID.COMMON_NAME, "meshsec root"),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, f"{serial:x}"),
        ]
    )


def _subject_key(public_key: CertificatePublicKeyTypes) -> x509.Extension[x509.ExtensionType]:
    return _extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)


def _builder(
    issuer: x509.Name,
    subject: x509.Name,
    public_key: CertificatePublicKeyTypes,
    serial: int,
    validity: Validity,
    extensions: Iterable[x509.Extension[x509.ExtensionType]],
) -> x509.CertificateBuilder:
    # All at once: the builder copies itself with each of its own methods.
    return x509.CertificateBuilder(
        issuer,
        subject,
        public_key,
        serial,
        _instant(validity.not_before),
        _instant(validity.not_after),
        list(extensions),
    )


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)
