"""A workload's own X.509-SVID: certificate chain and private key, checked as a pair.

This file must not know where the two are stored, nor whether anyone trusts the issuer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)

from ..errors import SvidError
from ._id import SpiffeId
from ._leaf import check_leaf, is_ca
from ._pem import read_der, read_pem, split_der, write_pem

__all__ = ["PrivateKey", "X509Svid"]

PrivateKey = EllipticCurvePrivateKey | RSAPrivateKey | Ed25519PrivateKey

_KEY_KINDS: Final = (EllipticCurvePrivateKey, RSAPrivateKey, Ed25519PrivateKey)


@dataclass(frozen=True, slots=True, init=False)
class X509Svid:
    """An X.509-SVID (X509-SVID section 2) with its private key. Equal where the chain is; the key is never shown.

    Args:
        chain: certificates, parsed or as DER: the leaf first, then any intermediates.
        private_key: the leaf's: EC, RSA or Ed25519.

    Attributes:
        id: the SPIFFE ID, read from the leaf.
        leaf: the leaf, parsed.

    NOT checked: signatures and validity. A workload may well look at an SVID that has expired.

    Raises:
        SvidError: ``malformed``, ``key_mismatch``, ``intermediate_not_ca``, or what :func:`check_leaf` says.
    """

    id: SpiffeId = field(compare=False)
    chain: tuple[bytes, ...] = field(repr=False)
    private_key: PrivateKey = field(repr=False, compare=False)
    certificates: tuple[x509.Certificate, ...] = field(repr=False, compare=False)

    def __init__(self, chain: Sequence[x509.Certificate | bytes], private_key: PrivateKey) -> None:
        try:
            certificates = tuple(read_der(item) if isinstance(item, bytes) else item for item in chain)
        except ValueError as error:
            raise SvidError(str(error), code="malformed") from error
        if not certificates:
            raise SvidError("an SVID has at least a leaf certificate", code="malformed")
        object.__setattr__(self, "id", check_leaf(certificates[0]))
        object.__setattr__(self, "chain", tuple(map(_der, chain)))
        object.__setattr__(self, "private_key", private_key)
        object.__setattr__(self, "certificates", certificates)
        _check_intermediates(certificates[1:])
        _check_key(self.leaf, private_key)

    @classmethod
    def from_pem(cls, chain_pem: bytes, key_pem: bytes) -> X509Svid:
        """Read the PEM of a chain (leaf first) and of an unencrypted private key (PKCS#8, PKCS#1 or SEC 1).

        Raises:
            SvidError: as the class says; a key that cannot be read is ``key_malformed``.
        """
        try:
            chain = read_pem(chain_pem)
        except ValueError as error:
            raise SvidError(f"certificate chain: {error}", code="malformed") from error
        return cls(chain, _read_key(key_pem))

    @classmethod
    def from_der(cls, chain: bytes, key: bytes) -> X509Svid:
        """Read certificates one after the other (leaf first) and an unencrypted PKCS #8 key, all of it DER.

        Raises:
            SvidError: as :meth:`from_pem` says.
        """
        try:
            certificates = split_der(chain)
        except ValueError as error:
            raise SvidError(f"certificate chain: {error}", code="malformed") from error
        return cls(certificates, _read_key(key, load_der_private_key))

    @classmethod
    def unchecked(
        cls, spiffe_id: SpiffeId, certificates: Sequence[x509.Certificate], private_key: PrivateKey
    ) -> X509Svid:
        """Put together what an authority has just made: half the cost of issuing would be to check it once more.

        NOT checked: anything. For certificates that come from elsewhere there is the class itself.
        """
        svid = object.__new__(cls)
        object.__setattr__(svid, "id", spiffe_id)
        object.__setattr__(svid, "chain", tuple(map(_der, certificates)))
        object.__setattr__(svid, "private_key", private_key)
        object.__setattr__(svid, "certificates", tuple(certificates))
        return svid

    @property
    def leaf(self) -> x509.Certificate:
        """The workload's own certificate, parsed."""
        return self.certificates[0]

    @property
    def not_before(self) -> float:
        """Valid from this moment on, POSIX seconds."""
        return self.leaf.not_valid_before_utc.timestamp()

    @property
    def not_after(self) -> float:
        """Valid up to and including this moment, POSIX seconds."""
        return self.leaf.not_valid_after_utc.timestamp()

    @property
    def serial(self) -> int:
        """The leaf's serial number, unique for its issuer."""
        return self.leaf.serial_number

    def chain_pem(self) -> bytes:
        """The chain as PEM, leaf first."""
        return write_pem(self.certificates)

    def key_pem(self) -> bytes:
        """The private key as **unencrypted** PKCS#8 PEM: keep it off the disk, or write it with mode 0600."""
        return self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _der(certificate: x509.Certificate | bytes) -> bytes:
    return certificate if isinstance(certificate, bytes) else certificate.public_bytes(Encoding.DER)


def _read_key(data: bytes, load: Callable[..., object] = load_pem_private_key) -> PrivateKey:
    try:
        key = load(data, password=None)
    except Exception as error:  # noqa: BLE001 - what the library raises for bad keys has no common base
        # Not the library's own words: they could hold a piece of what was meant to be a key.
        raise SvidError(f"no usable private key: {type(error).__name__}", code="key_malformed") from None
    if not isinstance(key, _KEY_KINDS):
        raise SvidError("a private key of an SVID is EC, RSA or Ed25519", code="key_malformed")
    return key


def _check_key(leaf: x509.Certificate, private_key: PrivateKey) -> None:
    try:
        matches = leaf.public_key() == private_key.public_key()
    except Exception as error:  # an exotic or malformed public key in the certificate
        raise SvidError("the certificate's public key is not usable", code="malformed") from error
    if not matches:
        raise SvidError("the private key is not the certificate's", code="key_mismatch")


def _check_intermediates(certificates: tuple[x509.Certificate, ...]) -> None:
    for position, certificate in enumerate(certificates, 2):
        if not is_ca(certificate):
            raise SvidError(f"certificate {position} of the chain is not a CA's", code="intermediate_not_ca")
