"""Certificates that count no more before they end: what CRLs say (RFC 5280 section 5).

OpenSSL's own check would refuse every peer whose issuer publishes no list; here a list speaks for its issuer and
nobody else. This file must not know where a list was read, nor what the time is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from ..errors import ConfigError, Problem, SvidError

__all__ = ["Revocations"]

_BEGIN: Final = b"-----BEGIN X509 CRL-----"
_RECALLED: Final = 256

_Name = tuple[frozenset[tuple[str, str]], ...]
_Entries = frozenset[tuple[_Name, int]]


@dataclass(frozen=True, slots=True)
class Revocations:
    """Which certificates are revoked. Equality is by content.

    Attributes:
        entries: the issuer's name, as names are compared, and the serial number of each.
        pending: lists, DER, of issuers that are not known here. Each counts where a chain brings its issuer along,
            whose key must then have signed it.
        next_update: when the first of the lists should have been replaced; POSIX seconds.
    """

    entries: _Entries = frozenset()
    pending: frozenset[bytes] = frozenset()
    next_update: float = math.inf

    @classmethod
    def from_pem(cls, data: bytes, issuers: Iterable[x509.Certificate], source: str = "<crl>") -> Self:
        """Read a file of PEM CRLs, all or nothing.

        Args:
            issuers: certificates of the authorities known here: a list in the name of one must carry its signature.
            source: the file's name, for the error.

        NOT checked: whether ``nextUpdate`` has passed. An old list still names what was revoked; whoever keeps lists
        looks at :attr:`next_update` before a new one replaces it.

        Raises:
            ConfigError: ``crl_invalid``.
        """
        if _BEGIN not in data:
            raise ConfigError(Problem("no CRL in it", source=source), code="crl_invalid")
        blocks = (_BEGIN + block for block in data.split(_BEGIN)[1:])
        return cls._read(map(x509.load_pem_x509_crl, blocks), issuers, source)

    @classmethod
    def from_der(cls, lists: Iterable[bytes], issuers: Iterable[x509.Certificate], source: str = "<crl>") -> Self:
        """As :meth:`from_pem`, of lists that are DER each; none at all is fine."""
        return cls._read(map(x509.load_der_x509_crl, lists), issuers, source)

    @classmethod
    def _read(
        cls, lists: Iterable[x509.CertificateRevocationList], issuers: Iterable[x509.Certificate], source: str
    ) -> Self:
        known = tuple(issuers)
        entries: _Entries = frozenset()
        pending: set[bytes] = set()
        updates: list[float] = []
        try:
            for crl in lists:
                updates.append(_next_update(crl))
                if _is_proven(crl, known):
                    entries |= _named(crl)
                else:
                    pending.add(crl.public_bytes(Encoding.DER))
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError(Problem(f"not a usable CRL: {error}", source=source), code="crl_invalid") from error
        return cls(entries, frozenset(pending), min(updates, default=math.inf))

    def check(self, chain: Sequence[bytes], authorities: Iterable[x509.Certificate] = ()) -> None:
        """Raises SvidError ``certificate_revoked`` if any certificate (DER) of the chain is.

        Args:
            chain: DER, leaf first.
            authorities: of the chain's trust domain, in case it does not contain its root.
        """
        if not self.entries and not self.pending:
            return
        certificates = [x509.load_der_x509_certificate(der) for der in chain]
        lists = [self.entries, *self._proven_by([*certificates[1:], *authorities])]
        for certificate in certificates:
            named = (_folded(certificate.issuer), certificate.serial_number)
            if any(named in entries for entries in lists):
                raise SvidError(f"certificate {certificate.serial_number:x} is revoked", code="certificate_revoked")

    def _proven_by(self, signers: Iterable[x509.Certificate]) -> list[_Entries]:
        ders = [signer.public_bytes(Encoding.DER) for signer in signers] if self.pending else []
        return [_entries(crl, signer) for crl in self.pending for signer in ders]


@lru_cache(_RECALLED)
def _entries(crl_der: bytes, signer_der: bytes) -> _Entries:
    """What a list says, if that certificate's key has signed it."""
    crl, signer = x509.load_der_x509_crl(crl_der), x509.load_der_x509_certificate(signer_der)
    return _named(crl) if _folded(signer.subject) == _folded(crl.issuer) and _signed(crl, signer) else frozenset()


def _named(crl: x509.CertificateRevocationList) -> _Entries:
    issuer = _folded(crl.issuer)
    return frozenset((issuer, revoked.serial_number) for revoked in crl)


def _folded(name: x509.Name) -> _Name:
    """What two names have in common that are the same (RFC 5280 section 7.1), and that OpenSSL takes for the same.

    An authority's list and its certificates may come from different programs, which write its name in different
    encodings; neither these nor case nor the number of spaces count.
    """
    return tuple(
        frozenset((part.oid.dotted_string, " ".join(str(part.value).casefold().split())) for part in parts)
        for parts in name.rdns
    )


def _is_proven(crl: x509.CertificateRevocationList, known: Sequence[x509.Certificate]) -> bool:
    """False for a stranger's list. Raises ValueError for one in the name of somebody known who did not sign it."""
    issuer = _folded(crl.issuer)
    signers = [authority for authority in known if _folded(authority.subject) == issuer]
    # A self-signed and a cross-signed certificate of one authority share its key; of two keys one must fit.
    if signers and not any(_signed(crl, signer) for signer in signers):
        raise ValueError("the signature is not its issuer's")
    return bool(signers)


def _signed(crl: x509.CertificateRevocationList, signer: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(signer.public_key())  # type: ignore[arg-type] # other keys raise TypeError
    except (TypeError, UnsupportedAlgorithm):
        return False


def _next_update(crl: x509.CertificateRevocationList) -> float:
    moment = crl.next_update_utc
    if moment is None:
        raise ValueError("it does not say until when it holds")  # RFC 5280 section 5.1.2.5 demands it
    return moment.timestamp()
