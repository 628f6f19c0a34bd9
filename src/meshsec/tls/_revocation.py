"""Certificates that count no more before they end: what CRLs say (RFC 5280 section 5).

OpenSSL's own check would refuse every peer whose issuer publishes no list; here a list speaks for its issuer and
nobody else. This file must not know where a list was read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from ..errors import ConfigError, Problem, SvidError

__all__ = ["Revocations"]

_BEGIN: Final = b"-----BEGIN X509 CRL-----"


@dataclass(frozen=True, slots=True)
class Revocations:
    """Which certificates are revoked. Equality is by content.

    Attributes:
        entries: the issuer's name (DER) and the serial number of each.
    """

    entries: frozenset[tuple[bytes, int]] = frozenset()

    @classmethod
    def from_pem(cls, data: bytes, issuers: Iterable[x509.Certificate], source: str = "<crl>") -> Self:
        """Read a file of PEM CRLs, all or nothing.

        Args:
            issuers: certificates of the authorities known here: a list in the name of one must carry its signature.
                A list of any other issuer is taken as it is; the file is trusted as the bundle beside it is.
            source: the file's name, for the error.

        NOT checked: ``nextUpdate``. An old list still names what was revoked.

        Raises:
            ConfigError: ``crl_invalid``.
        """
        known = tuple(issuers)
        entries: set[tuple[bytes, int]] = set()
        try:
            for block in data.split(_BEGIN)[1:]:
                crl = x509.load_pem_x509_crl(_BEGIN + block)
                _check_signature(crl, known)
                name = crl.issuer.public_bytes()
                entries.update((name, revoked.serial_number) for revoked in crl)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError(Problem(f"not a usable CRL: {error}", source=source), code="crl_invalid") from error
        if _BEGIN not in data:
            raise ConfigError(Problem("no CRL in it", source=source), code="crl_invalid")
        return cls(frozenset(entries))

    def check(self, chain: Sequence[bytes]) -> None:
        """Raises SvidError ``certificate_revoked`` if any certificate (DER) of the chain is."""
        if not self.entries:
            return
        for der in chain:
            certificate = x509.load_der_x509_certificate(der)
            if (certificate.issuer.public_bytes(), certificate.serial_number) in self.entries:
                raise SvidError(f"certificate {certificate.serial_number:x} is revoked", code="certificate_revoked")


def _check_signature(crl: x509.CertificateRevocationList, known: Sequence[x509.Certificate]) -> None:
    signers = [authority for authority in known if authority.subject == crl.issuer]
    # A self-signed and a cross-signed certificate of one authority share its key; of two keys one must fit.
    if signers and not any(crl.is_signature_valid(signer.public_key()) for signer in signers):  # type: ignore[arg-type]
        raise ValueError("the signature is not its issuer's")
