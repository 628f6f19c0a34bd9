"""Revocation: which serial numbers count no more, and the CRL that says so.

Short lives and an account that is removed revoke passively: nothing is renewed. This is for what cannot wait. This
file must not know locks, nor who decides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ..errors import ConfigError, Problem
from ._lifetime import BACKDATE, DAY
from ._profile import Validity, revocation_list
from ._signer import Signer

__all__ = [
    "CRL_LIFETIME",
    "Revocation",
    "crl_is_due",
    "expired_crls",
    "read_crls",
    "salvage_crls",
    "write_crls",
]

CRL_LIFETIME: Final = DAY
_BEGIN: Final = b"-----BEGIN X509 CRL-----"


@dataclass(frozen=True, slots=True)
class Revocation:
    """One revoked certificate.

    Attributes:
        serial: in hexadecimal.
        issuer: the signing key's name.
        revoked_at: POSIX seconds.
        not_after: when the certificate ends anyway, and leaves the list.
        reason: for the record, in the caller's words.
    """

    serial: str
    issuer: str
    revoked_at: float
    not_after: float
    reason: str = ""

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Revocation:
        """Read one line of the record."""
        return cls(**entry)

    def line(self) -> dict[str, Any]:
        """The JSON object."""
        return asdict(self)


def write_crls(
    signers: Collection[Signer],
    revoked: Iterable[Revocation],
    former: Iterable[x509.CertificateRevocationList],
    now: float,
) -> bytes:
    """A CRL of each signer, as PEM; lists of other CAs of the chain are kept as they are.

    Args:
        former: what was published before: numbers go on from there.
    """
    # A root that was renewed and the one before it have one key and one name: one list serves both.
    ours = {signer.certificate.subject: signer for signer in signers}
    path = {item.subject for signer in signers for item in (*signer.chain, signer.root)}
    kept = {crl.issuer: crl for crl in former if crl.issuer in path}
    live = [item for item in revoked if item.not_after > now]
    for name, signer in ours.items():
        kept[name] = _list(signer, live, _number(kept.get(name), now), now)
    return b"".join(crl.public_bytes(Encoding.PEM) for crl in kept.values())


def read_crls(path: Path) -> list[x509.CertificateRevocationList]:
    """The lists in a PEM file; none where there is no file. Raises ConfigError (``crl_invalid``)."""
    try:
        return [x509.load_pem_x509_crl(block) for block in _blocks(path)]
    except ValueError as error:
        raise ConfigError(Problem(f"not a CRL: {error}", str(path)), code="crl_invalid") from error


def salvage_crls(path: Path) -> list[x509.CertificateRevocationList]:
    """Of a damaged file those lists that can still be read."""
    found = []
    for block in _blocks(path):
        with suppress(ValueError):
            found.append(x509.load_pem_x509_crl(block))
    return found


def _blocks(path: Path) -> list[bytes]:
    if not path.exists():
        return []
    return [_BEGIN + block for block in path.read_bytes().split(_BEGIN)[1:]]


def crl_is_due(crls: Iterable[x509.CertificateRevocationList], signers: Iterable[Signer], now: float) -> bool:
    """Whether a signer has no list, one that is not its own, past half its life, or from a future that never came."""
    lists = {crl.issuer: crl for crl in crls}
    return any(not _serves(lists.get(signer.certificate.subject), signer, now) for signer in signers)


def expired_crls(crls: Iterable[x509.CertificateRevocationList], now: float) -> list[str]:
    """Whose last list has expired. It still counts; nobody knows what was revoked since."""
    ends = {crl.issuer: _seconds(crl.next_update_utc) for crl in crls}
    return [issuer.rfc4514_string() for issuer, end in ends.items() if 0 < end <= now]


def _serves(crl: x509.CertificateRevocationList | None, signer: Signer, now: float) -> bool:
    if crl is None or not crl.is_signature_valid(signer.key.public_key()):
        return False
    start, end = _seconds(crl.last_update_utc), _seconds(crl.next_update_utc)
    return start <= now < (start + end) / 2


def _list(signer: Signer, revoked: Iterable[Revocation], number: int, now: float) -> x509.CertificateRevocationList:
    entries = [(int(item.serial, 16), item.revoked_at) for item in revoked if item.issuer == signer.key_id]
    return revocation_list(signer.issuer, entries, number, Validity(now - BACKDATE, now + CRL_LIFETIME))


def _number(former: x509.CertificateRevocationList | None, now: float) -> int:
    """One more than before; where that is lost, the time is later than all of them could have come to."""
    if former is None:
        return int(now)
    return former.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number + 1


def _seconds(moment: Any) -> float:
    return float(moment.timestamp()) if moment else 0.0
