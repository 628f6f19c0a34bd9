"""What authorization says of one reading of one request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .._values import quick
from ..decision import DryRun, Reason

__all__ = ["Verdict"]

_ALLOWED: Final = (Reason.ALLOW_RULE, Reason.NO_ALLOW_POLICY)  # no set: members hash slowly


@quick
@dataclass(frozen=True, slots=True)
class Verdict:
    """Allowed or not, and which rule said so.

    Attributes:
        reason: DENY_RULE, NO_ALLOW_RULE, ALLOW_RULE or NO_ALLOW_POLICY.
        policy: ``namespace/name`` of the policy whose rule decided, if one did.
        rule: the rule's index in it.
        audited: the AUDIT policies that match.
        dry_run: what policies on trial would have done.
    """

    reason: Reason
    policy: str | None = None
    rule: int | None = None
    audited: tuple[str, ...] = ()
    dry_run: tuple[DryRun, ...] = ()

    @property
    def allowed(self) -> bool:
        """The answer."""
        return self.reason in _ALLOWED
