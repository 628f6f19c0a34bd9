"""What an authority is at one moment, and how its root is replaced: three steps, each a new value.

::

    STEADY --publish--> PUBLISHED --activate--> ACTIVATED --retire--> STEADY
       ^                 |     ^                    |
       +----roll back----+     +-----roll back------+

PUBLISHED: every bundle holds the old root and the new; the old one signs. ACTIVATED: the new one signs, the old is
still trusted. The other signer stands by, so that each step can be taken back until the old root is gone. The key of
JWT-SVIDs goes through the same steps. Pure: this file must not know files, clocks, nor what was issued.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from cryptography import x509

from ..errors import IssuanceError
from ..spiffe import TrustDomain, X509Bundle
from ._jwt import JwtKey
from ._signer import Signer

__all__ = ["AuthorityState", "Phase"]


class Phase(StrEnum):
    """Where a root rotation stands."""

    STEADY = "steady"
    PUBLISHED = "published"
    ACTIVATED = "activated"


@dataclass(frozen=True, slots=True, eq=False)
class AuthorityState:
    """A signer, the roots that are published, and the rotation that is under way.

    Attributes:
        trust_domain: the only one it issues for.
        signer: signs now.
        bundle: every root published, the newest last.
        standby: in PUBLISHED the signer to come, in ACTIVATED the one that was.
        phase: where the rotation stands.
        since: when the phase began, POSIX seconds.
        sequence: rises whenever what is published changes.
    """

    trust_domain: TrustDomain
    signer: Signer
    bundle: X509Bundle
    standby: Signer | None = None
    phase: Phase = Phase.STEADY
    since: float = 0.0
    sequence: int = 1

    @classmethod
    def of(cls, trust_domain: TrustDomain, signer: Signer, now: float = 0.0) -> AuthorityState:
        """A new authority: one signer, one root."""
        return cls(trust_domain, signer, X509Bundle(trust_domain, [signer.root]), since=now)

    @property
    def signers(self) -> tuple[Signer, ...]:
        """The one that signs, then the one that stands by."""
        return (self.signer, self.standby) if self.standby else (self.signer,)

    @property
    def jwt_keys(self) -> tuple[JwtKey, ...]:
        """The keys that JWT-SVIDs are verified with."""
        return tuple(signer.jwt_key for signer in self.signers if signer.jwt_key)

    def publish_root(self, new: Signer, now: float) -> AuthorityState:
        """Step 1: the new root is in the bundle; nothing is issued from it yet."""
        self._expect(Phase.STEADY)
        return self._published([*self.bundle.x509_authorities, new.root], Phase.PUBLISHED, now, standby=new)

    def activate_root(self, now: float) -> AuthorityState:
        """Step 2: the new signer issues. Every relying party must have the bundle of step 1 by now."""
        self._expect(Phase.PUBLISHED)
        return self._swapped(Phase.ACTIVATED, now)

    def retire_old_roots(self, now: float) -> AuthorityState:
        """Step 3: only the signer's root is published. What depends on another is refused from now on."""
        if self.phase is Phase.PUBLISHED:
            self._expect(Phase.ACTIVATED)
        return self._published([self.signer.root], Phase.STEADY, now, standby=None)

    def roll_back(self, now: float) -> AuthorityState:
        """Take the last step back: the old signer issues again, or the new root is withdrawn."""
        if self.phase is Phase.ACTIVATED:
            return self._swapped(Phase.PUBLISHED, now)
        self._expect(Phase.PUBLISHED)
        return self._published(self._roots_without_standby(), Phase.STEADY, now, standby=None)

    def renew_root(self, renewed: Signer, now: float) -> AuthorityState:
        """The same key under a longer-lived root, as Istio does it: every leaf holds under either."""
        self._expect(Phase.STEADY)
        kept = (root for root in self.bundle.x509_authorities if root != self.signer.root)
        return self._published([*kept, renewed.root], Phase.STEADY, now, signer=renewed)

    def with_jwt_key(self) -> AuthorityState:
        """The same, with a key for JWT-SVIDs where the signer was plugged in without one."""
        return replace(self, signer=self.signer.with_jwt_key())

    def settled(self) -> AuthorityState:
        """The same signer and roots, and no rotation under way: whoever stood by is forgotten."""
        return replace(self, standby=None, phase=Phase.STEADY)

    def _roots_without_standby(self) -> list[x509.Certificate]:
        withdrawn = self.standby and self.standby.root
        return [root for root in self.bundle.x509_authorities if root != withdrawn or root == self.signer.root]

    def _swapped(self, phase: Phase, now: float) -> AuthorityState:
        if self.standby is None:
            raise IssuanceError("there is no other signer to change to", code="rotation_step")
        return replace(self, signer=self.standby, standby=self.signer, phase=phase, since=now)

    def _published(
        self, roots: Iterable[x509.Certificate], phase: Phase, now: float, **changes: Signer | None
    ) -> AuthorityState:
        bundle = X509Bundle(self.trust_domain, roots)
        changed = replace(self, bundle=bundle, phase=phase, since=now, sequence=self.sequence + 1)
        return replace(changed, **changes)  # type: ignore[arg-type]  # the names are this class's own

    def _expect(self, phase: Phase) -> None:
        if self.phase is not phase:
            reason = f"the rotation is {self.phase}: this step needs it to be {phase}"
            raise IssuanceError(reason, code="rotation_step")
