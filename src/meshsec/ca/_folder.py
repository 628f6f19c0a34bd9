"""An authority in a folder: its state, the record of what it issued, and what it revoked, all of it durable.

Several processes may use one folder. Each step of a rotation, each entry of the record is made under one lock; who
finds the folder changed reads it again before doing anything. This file must not know what a step means (``_state``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cryptography.x509 import CertificateRevocationList

from ..errors import ConfigError, IssuanceError, Problem
from ._authority import CertificateAuthority
from ._keys import KeyType
from ._layout import files_of, read_authority
from ._lifetime import ROOT_LIFETIME, root_is_due
from ._lock import hold
from ._record import Issuance, Journal
from ._revocation import Revocation, crl_is_due, expired_crls, read_crls, salvage_crls, write_crls
from ._signer import Signer
from ._state import AuthorityState, Phase
from ._store import PUBLIC, current_generation, swap_files, write_file

__all__ = ["AuthorityFolder"]

SETTLE: Final = 900.0  # three times the hint of five minutes after which readers of a bundle ask again
_LOCK: Final = ".lock"
_RUN_LOCK: Final = ".run.lock"
_RECORD: Final = "issued.jsonl"
_REVOKED: Final = "revoked.jsonl"
_CRL: Final = "ca-crl.pem"

_log: Final = logging.getLogger("meshsec.ca")

Transition = Callable[[AuthorityState, float], AuthorityState]


class AuthorityFolder:
    """An authority that is kept in a folder; make the folder with :meth:`create`.

    Args:
        folder: what :meth:`create` wrote.
        clock: tells the time, POSIX seconds.

    Raises:
        OSError: a file cannot be read.
        ConfigError: a file is malformed, or they do not belong together.
    """

    def __init__(self, folder: str | Path, *, clock: Callable[[], float] = time.time) -> None:
        self.folder = Path(folder)
        self._clock = clock
        self._issued = Journal(self.folder / _RECORD)
        self._revoked = Journal(self.folder / _REVOKED)
        self._generation: str | None = None
        self._authority = self._read()

    @classmethod
    def create(
        cls,
        folder: str | Path,
        authority: CertificateAuthority,
        *,
        crls: bytes = b"",
        clock: Callable[[], float] = time.time,
    ) -> AuthorityFolder:
        """Write a new authority into a folder: a fresh one, or one that was plugged in.

        Args:
            crls: PEM lists of the CAs above a plugged-in one; they are published beside its own, as they are.

        Raises:
            OSError: the folder cannot be written.
            IssuanceError: ``authority_exists``: there is one already.
        """
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        with hold(path / _LOCK):
            if (path / "ca-cert.pem").exists() or (path / _RECORD).exists():
                raise IssuanceError(f"there is an authority in {path} already", code="authority_exists")
            swap_files(path, files_of(authority.state.with_jwt_key()))
            write_file(path / _CRL, crls, PUBLIC)
        made = cls(path, clock=clock)
        made.refresh_crl()
        return made

    @property
    def authority(self) -> CertificateAuthority:
        """The authority as it is now; everything that it issues is recorded before it is handed out.

        Issuing raises OSError where the record cannot be written, and IssuanceError (``superseded``) where the root
        was retired meanwhile by another process: ask for the authority again.
        """
        self._refresh()
        return self._authority

    @contextmanager
    def batch(self) -> Iterator[CertificateAuthority]:
        """Issue many and record them together: nothing may be handed out before the block has been left.

        Raises:
            OSError, IssuanceError: at the end of the block, as issuing one by one would; then none of them counts.
        """
        issued: list[Issuance] = []
        authority = self.authority
        try:
            yield authority.recorded_by(lambda _signer, issuance: issued.append(issuance))
        finally:
            if issued:
                self._commit(authority.state.signer, issued)

    def publish_root(
        self, new: Signer | None = None, *, lifetime: float = ROOT_LIFETIME, key_type: KeyType = "ec-p256"
    ) -> CertificateAuthority:
        """Step 1: a new root, or that of a plugged-in signer, goes into every bundle."""

        def step(state: AuthorityState, now: float) -> AuthorityState:
            made = new or Signer.self_signed(state.trust_domain, now=now, lifetime=lifetime, key_type=key_type)
            return state.publish_root(made.with_jwt_key(), now)

        return self._change(step)

    def activate_root(self, *, settle: float = SETTLE) -> CertificateAuthority:
        """Step 2: the new root's key signs.

        Raises:
            IssuanceError: ``rotation_too_early``: the new root has not been published for ``settle`` seconds, so
                that somebody may not have it yet; ``rotation_step``.
        """

        def step(state: AuthorityState, now: float) -> AuthorityState:
            changed = state.activate_root(now)
            _wait_until(state.since + settle, now, "the new root may not have reached everybody")
            return changed

        return self._change(step)

    def retire_old_roots(self, *, force: bool = False) -> CertificateAuthority:
        """Step 3: the old root is trusted no more. It cannot be taken back.

        Raises:
            IssuanceError: ``rotation_too_early``: the record holds a certificate or token of the old key that is
                still valid, and ``force`` is not set; ``rotation_step``.
        """

        def step(state: AuthorityState, now: float) -> AuthorityState:
            changed = state.retire_old_roots(now)
            self._check_unused(state.standby, now, force=force)
            return changed

        return self._change(step)

    def roll_back(self, *, force: bool = False) -> CertificateAuthority:
        """Take the last step back. Raises as :meth:`retire_old_roots`, for what the withdrawn key signed."""

        def step(state: AuthorityState, now: float) -> AuthorityState:
            changed = state.roll_back(now)
            if changed.standby is None:
                self._check_unused(state.standby, now, force=force)
            return changed

        return self._change(step)

    def renew_root(self, *, lifetime: float = ROOT_LIFETIME) -> CertificateAuthority:
        """A new self-signed root for the same key: nothing that was issued has to be replaced.

        Raises:
            IssuanceError: ``root_not_ours``: the CA was plugged in; ``rotation_step``: a rotation is under way.
        """

        def step(state: AuthorityState, now: float) -> AuthorityState:
            return state.renew_root(state.signer.renewed(state.trust_domain, now=now, lifetime=lifetime), now)

        return self._change(step)

    def revoke(self, serial: str, *, reason: str = "") -> None:
        """Revoke an X.509-SVID and publish the new CRL.

        Args:
            serial: in hexadecimal, as the record has it.

        Raises:
            IssuanceError: ``unknown_serial``: this authority issued no such certificate.
        """
        found = next((item for item in self._issued if item["serial"] == serial and item["kind"] == "x509"), None)
        if found is None:
            raise IssuanceError(f"no certificate {serial[:64]!a} was issued here", code="unknown_serial")
        entry = Revocation(serial, found["issuer"], self._clock(), found["not_after"], reason)
        with self._alone():
            self._revoked.append([entry.line()])
            self._write_crl()

    def revoked_serials(self) -> frozenset[str]:
        """The serial numbers of every certificate that was revoked, in hexadecimal."""
        return frozenset(entry["serial"] for entry in self._revoked)

    def crl(self) -> bytes:
        """The lists to give to workloads, PEM; empty where nothing that is still valid is revoked."""
        path = self.folder / _CRL
        return path.read_bytes() if any(map(len, read_crls(path))) else b""

    def refresh_crl(self) -> bool:
        """Issue the CRLs anew where one is past half its life or damaged; whether that was so."""
        with self._alone():
            lists, damaged = self._lists()
            due = damaged or crl_is_due(lists, self._authority.state.signers, self._clock())
            if due:
                self._write_crl(lists)
            return due

    def maintain(self) -> None:
        """What has to be done now and then: fresh CRLs, and a self-signed root renewed before its last fifth.

        The root keeps its key, as Istio's does, so that nothing else has to change.

        Raises:
            OSError: something could not be written.
            ConfigError: ``crl_expired``, once all else is done: the list of a CA above has to be replaced by hand.
        """
        self.refresh_crl()
        state, now = self.authority.state, self._clock()
        if state.phase is Phase.STEADY and state.signer.renews_itself and root_is_due(state.signer.validity, now):
            self.renew_root()
            _log.info("the root of %s was renewed", state.trust_domain)
        if expired := expired_crls(read_crls(self.folder / _CRL), now):
            reason = f"the list of {', '.join(expired)} has expired: append its next one"
            raise ConfigError(Problem(reason, str(self.folder / _CRL)), code="crl_expired")

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Be the one process that keeps the identities of this authority in order.

        Raises:
            IssuanceError: ``locked``: another one is.
        """
        with hold(self.folder / _RUN_LOCK, wait=False):
            yield

    def issued(self) -> Iterator[Issuance]:
        """The record, oldest first."""
        return (Issuance(**entry) for entry in self._issued)

    def used_until(self, signer: Signer) -> float | None:
        """When the last of what a key signed ends; None where it signed nothing."""
        ends = (entry["not_after"] for entry in self._issued if entry["issuer"] == signer.key_id)
        return max(ends, default=None)

    def status(self) -> dict[str, Any]:
        """What it is and where the rotation stands; no key material."""
        authority = self.authority
        state, now = authority.state, self._clock()
        return {
            "trustDomain": str(state.trust_domain),
            "phase": state.phase.value,
            "since": state.since,
            "sequence": state.sequence,
            "signer": _describe(state.signer),
            "standby": _describe(state.standby) if state.standby else None,
            "standbyUsedUntil": self.used_until(state.standby) if state.standby else None,
            "roots": [f"{root.serial_number:x}" for root in state.bundle.x509_authorities],
            "issued": len(self._issued),
            "revoked": len(self.revoked_serials()),
            "warning": authority.warning(now=now),
        }

    def _read(self) -> CertificateAuthority:
        while True:
            generation = current_generation(self.folder)
            try:
                state = read_authority(self.folder)
            except (OSError, ConfigError):
                if generation == current_generation(self.folder):
                    raise
                continue  # it was replaced while it was being read
            self._generation = generation
            return CertificateAuthority(state, self._clock, self._record_one)

    def _refresh(self) -> None:
        """Read again what another process changed; where nothing can be read, the last good state serves."""
        generation = current_generation(self.folder)
        if generation not in (None, self._generation):
            self._authority = self._read()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with hold(self.folder / _LOCK):
            self._refresh()
            yield

    def _change(self, step: Transition) -> CertificateAuthority:
        with self._alone():
            swap_files(self.folder, files_of(step(self._authority.state, self._clock())))
            self._authority = self._read()
            self._write_crl()
            return self._authority

    def _record_one(self, signer: Signer, issuance: Issuance) -> None:
        self._commit(signer, [issuance])

    def _commit(self, signer: Signer, issued: list[Issuance]) -> None:
        with self._alone():
            if signer.key_id not in {known.key_id for known in self._authority.state.signers}:
                raise IssuanceError("the root was replaced while this was issued: ask again", code="superseded")
            self._issued.append(issuance.line() for issuance in issued)

    def _check_unused(self, signer: Signer | None, now: float, *, force: bool) -> None:
        until = self.used_until(signer) if signer else None
        if until is not None and not force:
            _wait_until(until, now, "something that the old key signed is still valid")

    def _lists(self) -> tuple[list[CertificateRevocationList], bool]:
        """What is published, and whether it is damaged; then what can still be read of it."""
        path = self.folder / _CRL
        try:
            return read_crls(path), False
        except ConfigError as error:
            _log.warning("%s: our own lists are made anew; append those of CAs above", error)
            return salvage_crls(path), True

    def _write_crl(self, former: Iterable[CertificateRevocationList] | None = None) -> None:
        lists = self._lists()[0] if former is None else former
        revoked = map(Revocation.of, self._revoked)
        crls = write_crls(self._authority.state.signers, revoked, lists, self._clock())
        write_file(self.folder / _CRL, crls, PUBLIC)


def _wait_until(moment: float, now: float, reason: str) -> None:
    if now < moment:
        wait = f"wait {moment - now:.0f} seconds, or force it"
        raise IssuanceError(f"{reason}: {wait}", code="rotation_too_early")


def _describe(signer: Signer) -> dict[str, Any]:
    return {
        "serial": f"{signer.certificate.serial_number:x}",
        "key": signer.key_id,
        "notAfter": signer.validity.not_after,
        "root": f"{signer.root.serial_number:x}",
    }
