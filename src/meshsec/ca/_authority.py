"""The certificate authority: what it will and will not issue.

The one room with a clock of its own, and it is handed in: ``time.time`` by default. This file must not know how a
certificate is laid out (``_profile``), how a root is replaced (``_state``), nor how files are swapped (``_store``).
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from ..errors import IssuanceError
from ..spiffe import SpiffeId, TrustDomain, X509Bundle, X509Svid, write_bundle
from ._jwt import DEFAULT_JWT_TTL, MAX_JWT_TTL, sign_jwt_svid
from ._keys import KeyType
from ._layout import files_of, read_authority
from ._lifetime import DEFAULT_TTL, ROOT_LIFETIME, check_lifetime, leaf_validity, too_short_for
from ._profile import Validity, leaf_certificate
from ._record import Issuance
from ._request import requested_key
from ._signer import Signer
from ._state import AuthorityState
from ._store import swap_files

__all__ = ["CertificateAuthority"]

MAX_DNS_NAME: Final = 253
_DNS_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*")

# Told of everything that is issued before it is handed out; what it raises, the requester gets instead.
Recorder = Callable[[Signer, Issuance], None]


def _unrecorded(_signer: Signer, _issued: Issuance) -> None:
    """Nobody keeps a record of an authority in memory."""


@dataclass(frozen=True, slots=True, eq=False)
class CertificateAuthority:
    """An authority for one trust domain, in memory; make one with :meth:`create` or :meth:`load`.

    A value: a rotation's steps make new ones. :class:`AuthorityFolder` keeps one on disk, with a record of what was
    issued.

    Attributes:
        state: signer, published roots, and the rotation that is under way.
    """

    state: AuthorityState
    _clock: Callable[[], float] = field(default=time.time, repr=False)
    _record: Recorder = field(default=_unrecorded, repr=False)

    @classmethod
    def create(
        cls,
        trust_domain: TrustDomain | str,
        *,
        now: float | None = None,
        lifetime: float = ROOT_LIFETIME,
        key_type: KeyType = "ec-p256",
        clock: Callable[[], float] = time.time,
    ) -> CertificateAuthority:
        """Make an authority with a fresh key and a self-signed root.

        Args:
            now: POSIX seconds; by default the clock's.
            lifetime: the root's, in seconds.
            key_type: ``ec-p256``, ``ec-p384``, ``rsa-2048``, ``rsa-3072`` or ``rsa-4096``.
            clock: tells the time wherever ``now`` is not given.

        Raises:
            SpiffeIdError: the trust domain is malformed.
            IssuanceError: ``lifetime_invalid`` or ``key_unsupported``.
        """
        domain = TrustDomain.of(trust_domain)
        moment = clock() if now is None else now
        signer = Signer.self_signed(domain, now=moment, lifetime=lifetime, key_type=key_type)
        return cls(AuthorityState.of(domain, signer, moment), clock)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        trust_domain: TrustDomain | str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> CertificateAuthority:
        """Read what :meth:`save` wrote, or a CA that was plugged in.

        Istio's names (ca-cert.pem, ca-key.pem, root-cert.pem, and cert-chain.pem where there are intermediates) or
        cert-manager's (tls.crt, tls.key, ca.crt). What such an authority issues is recorded nowhere.

        Args:
            trust_domain: needed where the certificates do not name it, as those of other tools rarely do.

        Raises:
            OSError: a file cannot be read.
            ConfigError: a file is malformed, or they do not belong together.
        """
        domain = None if trust_domain is None else TrustDomain.of(trust_domain)
        return cls(read_authority(Path(folder), domain), clock)

    def save(self, folder: str | Path) -> None:
        """Write its files (keys with mode 0600 and **unencrypted**), all swapped in one step.

        Raises:
            OSError: the folder cannot be written; what was there before is still there.
        """
        swap_files(Path(folder), files_of(self.state))

    @property
    def trust_domain(self) -> TrustDomain:
        """The trust domain that this authority speaks for."""
        return self.state.trust_domain

    @property
    def certificate(self) -> x509.Certificate:
        """The CA certificate that signs."""
        return self.state.signer.certificate

    @property
    def bundle(self) -> X509Bundle:
        """Every root published, the newest last."""
        return self.state.bundle

    def issue_x509_svid(
        self,
        id: SpiffeId | str,  # noqa: A002 - the field's own word
        *,
        ttl: float = DEFAULT_TTL,
        dns_names: Sequence[str] = (),
        requester: str = "",
        now: float | None = None,
    ) -> X509Svid:
        """Issue an X.509-SVID with a fresh P-256 key, for both roles of a handshake.

        NOT checked: whether the caller may have that identity. Only hand the result to who does.

        Args:
            id: a workload of this trust domain.
            ttl: seconds from now, at most 90 days; zero or less asks for the default, a day. The certificate is valid
                from two minutes before now, and never outlives the CA's own.
            dns_names: names for callers that know no SPIFFE (curl, browsers), lower case.
            requester: who asked, for the record.

        Raises:
            SpiffeIdError: the ID is malformed.
            IssuanceError: ``foreign_trust_domain``, ``no_path``, ``lifetime_invalid``, ``dns_name_invalid``,
                ``authority_expired`` or ``authority_not_yet_valid``.
        """
        spiffe_id = self._checked(id)
        key = ec.generate_private_key(ec.SECP256R1())
        leaf, record = self._sign(spiffe_id, key.public_key(), ttl, dns_names, requester, now)
        # The profile was asked once, of what this signer issued first; each leaf is laid out alike.
        svid = X509Svid.unchecked(spiffe_id, (leaf, *self.state.signer.chain), key)
        self._record(self.state.signer, record)
        return svid

    def issue_from_csr(
        self,
        request: bytes,
        id: SpiffeId | str,  # noqa: A002
        *,
        ttl: float = DEFAULT_TTL,
        dns_names: Sequence[str] = (),
        requester: str = "",
        now: float | None = None,
    ) -> tuple[bytes, ...]:
        """Issue an X.509-SVID for a key that stays with its owner.

        Args:
            request: PKCS#10, PEM or DER. Its signature is checked and its public key taken; names, usages and all
                else that it asks for are ignored.
            id: who the requester **was authenticated as**; the other arguments as in :meth:`issue_x509_svid`.

        Returns:
            The chain as DER, leaf first, without the root.

        Raises:
            IssuanceError: as :meth:`issue_x509_svid`, and ``request_malformed``, ``request_signature`` or
                ``key_unsupported``.
        """
        leaf, record = self._sign(self._checked(id), requested_key(request), ttl, dns_names, requester, now)
        self._record(self.state.signer, record)
        return tuple(item.public_bytes(Encoding.DER) for item in (leaf, *self.state.signer.chain))

    def issue_jwt_svid(
        self,
        id: SpiffeId | str,  # noqa: A002
        audience: Sequence[str],
        *,
        ttl: float = DEFAULT_JWT_TTL,
        requester: str = "",
        now: float | None = None,
    ) -> str:
        """Issue a JWT-SVID (JWT-SVID section 3): a bearer token that cannot be called back, so keep it short-lived.

        Args:
            id: a workload of this trust domain.
            audience: who may accept it, at least one name.
            ttl: seconds, five minutes by default, at most a day.

        Raises:
            SpiffeIdError: the ID is malformed.
            IssuanceError: as :meth:`issue_x509_svid`, ``audience_invalid``, or ``no_jwt_key``.
        """
        spiffe_id, moment = self._checked(id), self._clock() if now is None else now
        key = self.state.signer.jwt_key
        if key is None:
            raise IssuanceError("this authority has no key for JWT-SVIDs", code="no_jwt_key")
        check_lifetime(ttl, MAX_JWT_TTL)
        validity, token_id = Validity(moment, moment + ttl), secrets.token_hex(16)
        token = sign_jwt_svid(key, spiffe_id, audience, validity, token_id)
        record = self._issuance("jwt", token_id, spiffe_id, validity, moment, requester)
        self._record(self.state.signer, record)
        return token

    def jwks(self) -> dict[str, Any]:
        """The keys that its JWT-SVIDs are verified with, as a plain JSON Web Key Set (RFC 7517)."""
        return {"keys": [key.public_jwk() for key in self.state.jwt_keys]}

    def bundle_document(self, *, refresh_hint: int = 300) -> bytes:
        """The trust domain's SPIFFE bundle (Trust Domain and Bundle 4): its roots and its JWT keys, as JSON."""
        keys = [key.public_jwk() for key in self.state.jwt_keys]
        return write_bundle(self.bundle, keys, sequence=self.state.sequence, refresh_hint=refresh_hint)

    def rotate_root(
        self, *, now: float | None = None, lifetime: float = ROOT_LIFETIME, key_type: KeyType = "ec-p256"
    ) -> CertificateAuthority:
        """The first two steps of a rotation at once: a new root that signs from now on, the old ones still published.

        Only where the new bundle reaches everybody before the first new leaf does; else take the steps one by one
        (:class:`AuthorityFolder`).
        """
        moment = self._clock() if now is None else now
        new = Signer.self_signed(self.trust_domain, now=moment, lifetime=lifetime, key_type=key_type)
        return self.with_state(self.state.settled().publish_root(new, moment).activate_root(moment))

    def retire_old_roots(self, *, now: float | None = None) -> CertificateAuthority:
        """The last step: only the signing root is still published; what older ones signed is no longer trusted."""
        return self.with_state(self.state.retire_old_roots(self._clock() if now is None else now))

    def with_state(self, state: AuthorityState) -> CertificateAuthority:
        """The same clock and record, another state."""
        return replace(self, state=state)

    def recorded_by(self, record: Recorder) -> CertificateAuthority:
        """The same authority, which tells ``record`` of everything that it issues, before it is handed out."""
        return replace(self, _record=record)

    def warning(self, *, ttl: float = DEFAULT_TTL, now: float | None = None) -> str | None:
        """What is wrong with its lifetime for leaves of ``ttl`` seconds; None where nothing is."""
        return too_short_for(self.state.signer.validity, ttl, self._clock() if now is None else now)

    def _sign(
        self,
        spiffe_id: SpiffeId,
        public_key: CertificatePublicKeyTypes,
        ttl: float,
        dns_names: Sequence[str],
        requester: str,
        now: float | None,
    ) -> tuple[x509.Certificate, Issuance]:
        moment = self._clock() if now is None else now
        signer = self.state.signer
        validity = leaf_validity(ttl, signer.validity, moment)
        names = [x509.UniformResourceIdentifier(str(spiffe_id)), *map(_dns_name, dns_names)]
        leaf = leaf_certificate(names, public_key, validity, signer.issuer)
        serial = f"{leaf.serial_number:x}"
        return leaf, self._issuance("x509", serial, spiffe_id, validity, moment, requester)

    def _issuance(
        self,
        kind: Literal["x509", "jwt"],
        serial: str,
        spiffe_id: SpiffeId,
        validity: Validity,
        moment: float,
        requester: str,
    ) -> Issuance:
        issuer = self.state.signer.key_id
        start, end = int(validity.not_before), int(validity.not_after)
        return Issuance(kind, serial, str(spiffe_id), issuer, moment, start, end, requester)

    def _checked(self, id: SpiffeId | str) -> SpiffeId:  # noqa: A002
        spiffe_id = SpiffeId.of(id)
        if spiffe_id.trust_domain != self.trust_domain:
            reason = f"{spiffe_id} is not of the trust domain {self.trust_domain}"
            raise IssuanceError(reason, code="foreign_trust_domain")
        if not spiffe_id.path:
            raise IssuanceError(f"{spiffe_id} has no path: it names no workload", code="no_path")
        return spiffe_id


def _dns_name(text: str) -> x509.DNSName:
    if len(text) > MAX_DNS_NAME or not _DNS_NAME.fullmatch(text):
        raise IssuanceError(f"{text[:80]!a} is not a lower-case DNS name", code="dns_name_invalid")
    return x509.DNSName(text)
