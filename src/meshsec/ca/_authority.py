"""The certificate authority: a signing key, the roots it publishes, and what it will and will not sign.

The one room with a clock of its own, and it is handed in: ``time.time`` by default. This file must not know how a
certificate is laid out (``_profile``) nor how files are swapped (``_store``).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from ..errors import ConfigError, IssuanceError, Problem
from ..spiffe import SpiffeId, TrustDomain, X509Bundle, X509Svid
from ._profile import Validity, leaf_certificate, root_certificate
from ._store import PRIVATE, PUBLIC, current_folder, swap_files

__all__ = ["CertificateAuthority"]

DAY: Final = 86_400.0
ROOT_LIFETIME: Final = 3650 * DAY
MAX_ROOT_LIFETIME: Final = 10 * ROOT_LIFETIME
DEFAULT_TTL: Final = DAY
MAX_TTL: Final = 90 * DAY
BACKDATE: Final = 60.0  # a peer's clock may be behind ours, and OpenSSL knows no leeway

MAX_DNS_NAME: Final = 253
_DNS_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*")


@dataclass(frozen=True, slots=True, eq=False)
class CertificateAuthority:
    """An X.509 authority for one trust domain, kept in memory; make one with :meth:`create` or :meth:`load`.

    A value: rotation makes a new one. To replace the root without a failed handshake, distribute the ``bundle`` of
    :meth:`rotate_root` first, issue from the new authority once every workload has it, and distribute the bundle of
    :meth:`retire_old_roots` once the last leaf of the old root has expired or been replaced.

    Attributes:
        trust_domain: the only one it issues for.
        certificate: the root that signs.
        bundle: every root published, the signing one last.
    """

    certificate: x509.Certificate
    bundle: X509Bundle
    _key: ec.EllipticCurvePrivateKey = field(repr=False)
    _clock: Callable[[], float] = field(default=time.time, repr=False)

    @classmethod
    def create(
        cls,
        trust_domain: TrustDomain | str,
        *,
        now: float | None = None,
        lifetime: float = ROOT_LIFETIME,
        clock: Callable[[], float] = time.time,
    ) -> CertificateAuthority:
        """Make an authority with a fresh P-256 key and a self-signed root.

        Args:
            now: POSIX seconds; by default the clock's.
            lifetime: the root's, in seconds.
            clock: tells the time wherever ``now`` is not given.

        Raises:
            SpiffeIdError: the trust domain is malformed.
            IssuanceError: ``lifetime_invalid``.
        """
        domain = TrustDomain.of(trust_domain)
        key, root = _new_root(domain, clock() if now is None else now, lifetime)
        return cls(root, X509Bundle(domain, [root]), key, clock)

    @property
    def trust_domain(self) -> TrustDomain:
        """The trust domain that this authority speaks for."""
        return self.bundle.trust_domain

    def issue_x509_svid(
        self,
        id: SpiffeId | str,  # noqa: A002 - the field's own word
        *,
        ttl: float = DEFAULT_TTL,
        dns_names: Sequence[str] = (),
        now: float | None = None,
    ) -> X509Svid:
        """Issue an X.509-SVID with a fresh P-256 key, for both roles of a handshake.

        NOT checked: whether the caller may have that identity. Only hand the result to who does.

        Args:
            id: a workload of this trust domain.
            ttl: seconds from now; the certificate never outlives the root, and is valid from a minute before now.
            dns_names: names for callers that know no SPIFFE (curl, browsers), lower case.

        Raises:
            SpiffeIdError: the ID is malformed.
            IssuanceError: ``foreign_trust_domain``, ``no_path``, ``lifetime_invalid``, ``dns_name_invalid`` or
                ``authority_expired``.
        """
        spiffe_id = SpiffeId.of(id)
        self._check_id(spiffe_id)
        moment = self._clock() if now is None else now
        end = self.certificate.not_valid_after_utc.timestamp()
        _check_lifetime(ttl, MAX_TTL)
        if not moment < end:
            raise IssuanceError(f"the root of {self.trust_domain} has expired", code="authority_expired")
        names = [x509.UniformResourceIdentifier(str(spiffe_id)), *map(_dns_name, dns_names)]
        key = ec.generate_private_key(ec.SECP256R1())
        validity = Validity(moment - BACKDATE, min(moment + ttl, end))
        leaf = leaf_certificate(names, key.public_key(), validity, self.certificate, self._key)
        return X509Svid([leaf.public_bytes(Encoding.DER)], key)

    def rotate_root(self, *, now: float | None = None, lifetime: float = ROOT_LIFETIME) -> CertificateAuthority:
        """The first step of a rotation: a new key and root that sign from now on, the old roots still published."""
        key, root = _new_root(self.trust_domain, self._clock() if now is None else now, lifetime)
        bundle = X509Bundle(self.trust_domain, [*self.bundle.x509_authorities, root])
        return replace(self, certificate=root, bundle=bundle, _key=key)

    def retire_old_roots(self) -> CertificateAuthority:
        """The last step: only the signing root is still published; what older ones signed is no longer trusted."""
        return replace(self, bundle=X509Bundle(self.trust_domain, [self.certificate]))

    def save(self, folder: str | Path) -> None:
        """Write ca-cert.pem, ca-key.pem (mode 0600, **unencrypted**) and root-cert.pem, all swapped in one step.

        Raises:
            OSError: the folder cannot be written; what was there before is still there.
        """
        key = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        swap_files(
            Path(folder),
            {
                "ca-cert.pem": (self.certificate.public_bytes(Encoding.PEM), PUBLIC),
                "ca-key.pem": (key, PRIVATE),
                "root-cert.pem": (self.bundle.to_pem(), PUBLIC),
            },
        )

    @classmethod
    def load(cls, folder: str | Path, *, clock: Callable[[], float] = time.time) -> CertificateAuthority:
        """Read what :meth:`save` wrote.

        Raises:
            OSError: a file cannot be read.
            ConfigError: a file is malformed, or the three do not belong together.
        """
        current = current_folder(Path(folder))
        domain, root = _read_root(current / "ca-cert.pem")
        key = _read_key(current / "ca-key.pem")
        if root.public_key() != key.public_key():
            raise _unusable(current / "ca-key.pem", "it is not the key of ca-cert.pem")
        published = current / "root-cert.pem"
        bundle = X509Bundle.from_pem(domain, published.read_bytes(), str(published))
        if root not in bundle.x509_authorities:
            raise _unusable(published, "ca-cert.pem is not among its certificates")
        return cls(root, bundle, key, clock)

    def _check_id(self, spiffe_id: SpiffeId) -> None:
        if spiffe_id.trust_domain != self.trust_domain:
            reason = f"{spiffe_id} is not of the trust domain {self.trust_domain}"
            raise IssuanceError(reason, code="foreign_trust_domain")
        if not spiffe_id.path:
            raise IssuanceError(f"{spiffe_id} has no path: it names no workload", code="no_path")


def _new_root(
    trust_domain: TrustDomain, now: float, lifetime: float
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    _check_lifetime(lifetime, MAX_ROOT_LIFETIME)
    key = ec.generate_private_key(ec.SECP256R1())
    return key, root_certificate(trust_domain, key, Validity(now - BACKDATE, now + lifetime))


def _check_lifetime(seconds: float, most: float) -> None:
    if not 0 < seconds <= most:
        reason = f"a lifetime is over 0 and at most {most:.0f} seconds, not {seconds}"
        raise IssuanceError(reason, code="lifetime_invalid")


def _dns_name(text: str) -> x509.DNSName:
    if len(text) > MAX_DNS_NAME or not _DNS_NAME.fullmatch(text):
        raise IssuanceError(f"{text[:80]!a} is not a lower-case DNS name", code="dns_name_invalid")
    return x509.DNSName(text)


def _read_root(path: Path) -> tuple[TrustDomain, x509.Certificate]:
    """The one certificate in the file, and the trust domain that it says it is for."""
    data = path.read_bytes()
    try:
        root = x509.load_pem_x509_certificate(data)
        names = root.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        [uri] = names.get_values_for_type(x509.UniformResourceIdentifier)
        return TrustDomain.parse(uri), root
    except Exception as error:
        raise _unusable(path, "it is not a CA certificate that names its trust domain in one URI SAN") from error


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    data = path.read_bytes()
    try:
        key = load_pem_private_key(data, password=None)
    except Exception as error:  # noqa: BLE001 - whatever it is; its words could hold a piece of the key
        raise _unusable(path, f"no usable private key: {type(error).__name__}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _unusable(path, "the key of an authority is an EC key")
    return key


def _unusable(path: Path, reason: str) -> ConfigError:
    return ConfigError(Problem(reason, source=str(path)), code="authority_unusable")
