"""Where a workload's own identity comes from, and the keeper that never lets a worse one replace a better one.

A source only reads; the keeper judges what was read and publishes it. Neither knows servers or policies.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol, Self

from ..ca import AuthorityFolder, CertificateAuthority
from ..errors import MeshsecError, SvidError
from ..spiffe import SpiffeId, X509Bundle, X509BundleSet, X509Svid, namesakes, verify_x509_svid
from ..tls import Revocations, StaticMaterial

__all__ = [
    "WITHDRAWN",
    "AuthorityIdentity",
    "FileIdentity",
    "ForeignBundles",
    "Identity",
    "IdentityKeeper",
    "IdentitySource",
    "StaticIdentity",
]

_log: Final = logging.getLogger("meshsec.identity")

WITHDRAWN: Final = "identity_withdrawn"
"""The code of the error that says: there was an identity, and it must not be used any longer."""

# Where platforms mount them, in the order in which Istio's agent looks; the last is cert-manager's for SPIFFE.
DEFAULT_FOLDERS: Final = (
    Path("/etc/certs"),
    Path("/var/run/secrets/workload-spiffe-credentials"),
    Path("/var/run/secrets/spiffe.io"),
)

TRIES: Final = 5
_LAST_PART: Final = 1 / 3  # of a life
_NO_LISTS: Final = Revocations()

# Chain (leaf first), key, authorities, what they revoked.
_LAYOUTS: Final = (
    ("cert-chain.pem", "key.pem", "root-cert.pem", "ca-crl.pem"),
    ("tls.crt", "tls.key", "ca.crt", "ca.crl"),
    ("certificates.pem", "private_key.pem", "ca_certificates.pem", "ca_crl.pem"),
)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a source read.

    Attributes:
        svid: our own.
        bundle: the authorities of our own trust domain.
        revoked: what authorities revoked.
        federated: the bundles of other trust domains that the source knows of; ``trustBundles`` says which count.
    """

    svid: X509Svid
    bundle: X509Bundle
    revoked: Revocations = field(default_factory=Revocations)
    federated: tuple[X509Bundle, ...] = ()

    def check(self, now: float) -> None:
        """Hold our own chain to what whoever trusts the same holds it to. Raises SvidError."""
        verify_x509_svid(self.svid.chain, self.bundle, now=now, role="client")
        self.revoked.check(self.svid.chain)


class IdentitySource(Protocol):
    """Reads an identity. ``origin`` names the place in logs and in ``mesh.status()``.

    One that holds something open also has a method ``close``.
    """

    @property
    def origin(self) -> str: ...

    def read(self, now: float) -> Identity:
        """Read what is there now.

        Raises:
            MeshsecError, OSError: what was read before goes on, unless the code is ``identity_withdrawn``: then
                nothing does.
        """
        ...


class ForeignBundles(Protocol):
    """The bundles of other trust domains."""

    def look(self, identity: Identity) -> tuple[X509Bundle, ...]:
        """As they are now. Waits for nothing, raises nothing."""
        ...

    def status(self) -> list[dict[str, Any]]:
        """Each with its age and what last failed."""
        ...


@dataclass(frozen=True, slots=True)
class StaticIdentity:
    """An identity held in memory, for tests and single programs."""

    identity: Identity

    @property
    def origin(self) -> str:
        return "memory"

    def read(self, now: float) -> Identity:  # noqa: ARG002 - it never changes
        return self.identity


_Texts = tuple[bytes, ...]


class _Last:
    """What a folder held at the last look, and what was made of it."""

    __slots__ = ("seen", "taken")

    def __init__(self) -> None:
        self.seen: _Texts | None = None
        self.taken: tuple[_Texts, Identity] | None = None


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """A folder in one of the layouts in which certificates are mounted, with a CRL where there is one.

    Istio's, cert-manager's or Google's names; the first whose chain is there is meant.

    The folder may be swapped atomically (Kubernetes' ``..data`` link) or file by file: the three are read together
    and taken only if they fit together, so a half-written set is never used. What changes file by file counts when it
    is found the same a second time: until then somebody may still be writing, and the first half of several roots is
    a bundle, too.
    """

    folder: Path
    trust_domain: str
    _last: _Last = field(default_factory=_Last, init=False, repr=False, compare=False)

    @classmethod
    def mounted(cls, trust_domain: str, folders: Sequence[Path] = DEFAULT_FOLDERS) -> Self:
        """Of the folders where platforms mount certificates, the first that holds any; if none does, the first."""
        chains = ((folder, folder / names[0]) for folder in folders for names in _LAYOUTS)
        return cls(next((folder for folder, chain in chains if chain.exists()), folders[0]), trust_domain)

    @property
    def origin(self) -> str:
        return str(self.folder)

    def read(self, now: float) -> Identity:  # noqa: ARG002 - the keeper judges dates
        for _ in range(TRIES):
            generation = self._generation()
            try:
                identity = self._read(generation)
            except (MeshsecError, OSError):
                if generation == self._generation():
                    raise
            else:
                # Else some of it may have been removed while it was read, the list of what is revoked for one.
                if generation == self._generation():
                    return identity
        raise SvidError(f"{self.folder} is replaced faster than it can be read", code="unsettled")

    def _generation(self) -> Path:
        """Resolved once, so that all files are of one generation even if the link moves meanwhile.

        Whether anything is there still, reading tells: what is gone because it was replaced is no failure.
        """
        data = self.folder / "..data"
        return Path(os.path.realpath(data)) if data.is_symlink() else self.folder

    def _read(self, folder: Path) -> Identity:
        names = next((names for names in _LAYOUTS if (folder / names[0]).exists()), _LAYOUTS[0])
        paths = [folder / name for name in names]
        if not paths[-1].exists():
            del paths[-1]
        texts = tuple(path.read_bytes() for path in paths)
        seen, self._last.seen = self._last.seen, texts
        taken = self._last.taken
        if taken and (texts == taken[0] or (texts != seen and folder == self.folder)):
            return taken[1]
        identity = self._parse(paths, texts)
        self._last.taken = texts, identity
        return identity

    def _parse(self, paths: Sequence[Path], texts: _Texts) -> Identity:
        chain, key, roots, *lists = texts
        svid = X509Svid.from_pem(chain, key)
        bundle = X509Bundle.from_pem(self.trust_domain, roots, source=str(paths[2]))
        if not lists:
            return Identity(svid, bundle)
        issuers = (*bundle.x509_authorities, *svid.certificates[1:])
        return Identity(svid, bundle, Revocations.from_pem(lists[0], issuers, source=str(paths[3])))


class AuthorityIdentity:
    """An identity that this process issues to itself and renews at half its life: for tests and laptops.

    Args:
        authority: in a folder, each certificate is recorded and a rotation of the root is followed.
        spiffe_id: whose identity it is.
    """

    def __init__(self, authority: CertificateAuthority | AuthorityFolder, spiffe_id: SpiffeId) -> None:
        self._authority = authority
        self._id = spiffe_id
        self._svid: X509Svid | None = None
        self._signer = ""

    @property
    def origin(self) -> str:
        return "development authority"

    def read(self, now: float) -> Identity:
        held = self._authority
        authority = held.authority if isinstance(held, AuthorityFolder) else held
        svid, signer = self._svid, authority.state.signer.key_id
        if svid is None or signer != self._signer or now >= (svid.not_before + svid.not_after) / 2:
            svid = authority.issue_x509_svid(
                self._id, dns_names=("localhost",), requester="developmentAuthority", now=now
            )
            self._svid, self._signer = svid, signer
        return Identity(svid, authority.bundle)


class IdentityKeeper:
    """Publishes what a source reads, if it is at least as good as what is published already.

    Args:
        source: where the identity is read.
        expected: the SPIFFE ID that this workload must hold.
        aliases: further names of our own trust domain, for which the same authorities speak.
        foreign: the bundles of other trust domains; None: there are none.
    """

    def __init__(
        self,
        source: IdentitySource,
        *,
        expected: SpiffeId,
        aliases: Iterable[str] = (),
        foreign: ForeignBundles | None = None,
    ) -> None:
        self.material = StaticMaterial()
        self._source = source
        self._expected = expected
        self._aliases = tuple(aliases)
        self._foreign = foreign
        self._published: Identity | None = None
        self._others: tuple[X509Bundle, ...] = ()
        self._read_at: float | None = None
        self._failure: str | None = None
        self._ended: str | None = None
        self._worthless: Identity | None = None
        self._outdated: Revocations | None = None
        self._missing = False

    def load(self, now: float) -> None:
        """Read, judge and publish. Raises MeshsecError or OSError and then changes nothing."""
        identity = self._source.read(now)
        if identity != self._published:
            self._judge(identity, now)
        self._publish(identity, now)
        self._read_at = now

    def refresh(self, now: float) -> None:
        """As :meth:`load`, but a failure keeps the last good identity and is logged once; so is an identity's end."""
        try:
            self.load(now)
        except (MeshsecError, OSError) as error:
            self._fail(error, now)
        else:
            self._failure = None
        self._say_what_has_ended(now)

    def _fresher(self, revoked: Revocations, now: float) -> Revocations:
        """An expired list still names what was revoked, but never takes the place of one that holds.

        Nor does none at all: a file that is missing while somebody replaces it revokes nothing back.
        """
        held = self.material.current().revoked
        gone = revoked == _NO_LISTS != held
        if gone and now <= held.next_update and not self._missing:
            _log.warning("a CRL is gone (%s): what it named stays revoked", self._source.origin)
        self._missing = gone
        return held if (gone or revoked.next_update < now) and now <= held.next_update < math.inf else revoked

    def _say_what_has_ended(self, now: float) -> None:
        """Once each."""
        published, self._ended = self._published, self._end(now)
        if published is None:
            return
        if self._ended and self._worthless is not published:
            self._worthless = published
            _log.error("%s: %s: every handshake fails", self._source.origin, self._ended)
        if now > published.revoked.next_update and self._outdated != published.revoked:
            self._outdated = published.revoked
            _log.warning("a CRL has expired (%s): what it names stays revoked", self._source.origin)

    def _end(self, now: float) -> str | None:
        """Why nobody who trusts the same believes what is published any longer; None where they do."""
        published = self._published
        if published is None:
            return None
        try:
            replace(published, revoked=self.material.current().revoked).check(now)
        except SvidError as error:
            return f"our own identity holds no longer: {error}"
        return None

    def _is_ready(self, now: float) -> bool:
        """Whether callers are welcome. Who fails to renew while others may not sends them there in time."""
        svid = self._published.svid if self._published else None
        if svid is None or self._end(now):
            return False
        return self._failure is None or svid.not_after - now > (svid.not_after - svid.not_before) * _LAST_PART

    def close(self) -> None:
        """Have the source let go of what it holds open; what is published stays."""
        close: Callable[[], None] | None = getattr(self._source, "close", None)
        if close is not None:
            close()

    def status(self) -> dict[str, Any]:
        """What is published, how many seconds ago it was last read, and what last failed; no key material.

        ``ready``: there is an identity that others believe; and where reading a newer one fails, a third of its life
        is left.
        """
        now, svid = time.time(), self._published.svid if self._published else None
        next_update = self.material.current().revoked.next_update
        return {
            "origin": self._source.origin,
            "id": str(self._expected),
            "serial": f"{svid.serial:x}" if svid else None,
            "not_after": svid.not_after if svid else None,
            "crl_next_update": next_update if next_update < math.inf else None,
            "age": None if self._read_at is None else max(now - self._read_at, 0.0),
            "failure": self._failure or self._ended,
            "ready": self._is_ready(now),
            "federation": self._foreign.status() if self._foreign else [],
        }

    def _judge(self, identity: Identity, now: float) -> None:
        if identity.svid.id != self._expected:
            found = f"{self._source.origin} holds the certificate of {identity.svid.id}"
            raise SvidError(f"{found}, this workload is {self._expected}", code="wrong_identity")
        # Our own chain is held to what our peers will hold it to; this also finds a half-replaced set of files.
        verify_x509_svid(identity.svid.chain, identity.bundle, now=now, role="client")

    def _publish(self, identity: Identity, now: float) -> None:
        """If anything is new in it or in the bundles of others, which change on their own."""
        others = self._foreign.look(identity) if self._foreign else ()
        if (identity, others) == (self._published, self._others):
            return
        own = identity.bundle
        aliases = [X509Bundle(name, own.x509_authorities) for name in self._aliases]
        bundles = X509BundleSet([own, *aliases, *others])
        self.material.replace(svid=identity.svid, bundles=bundles, revoked=self._fresher(identity.revoked, now))
        if identity != self._published:
            _log.info("%s: serial %x from %s", identity.svid.id, identity.svid.serial, self._source.origin)
        self._published, self._others = identity, others
        for name in namesakes(bundles):
            _log.warning("authorities named %s carry no key identifier: OpenSSL may mix them up", name)

    def _fail(self, error: Exception, now: float) -> None:
        withdrawn = getattr(error, "code", None) == WITHDRAWN
        failure = f"{self._source.origin}: {error}"
        if failure != self._failure:
            kept = "the last good identity keeps serving" if self._published else "there is no identity yet"
            _log.warning("%s (%s)", failure, "it serves no longer" if withdrawn and self._published else kept)
        self._failure = failure
        if withdrawn:
            self._published, self._others = None, ()
            self.material.replace(svid=None, bundles=X509BundleSet(), revoked=Revocations())
        elif self._published is not None:
            self._publish(self._published, now)  # the bundles of others go on changing
