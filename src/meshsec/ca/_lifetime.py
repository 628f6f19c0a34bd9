"""How long certificates live and when they are renewed: the arithmetic, as Istio does it.

This file must not know clocks, keys or files.
"""

from __future__ import annotations

from typing import Final

from ..errors import IssuanceError
from ..spiffe import X509Svid
from ._profile import Validity

__all__ = [
    "BACKDATE",
    "DAY",
    "DEFAULT_TTL",
    "MAX_ROOT_LIFETIME",
    "MAX_TTL",
    "ROOT_LIFETIME",
    "check_lifetime",
    "leaf_validity",
    "renewal_time",
    "root_is_due",
    "too_short_for",
]

DAY: Final = 86_400.0
ROOT_LIFETIME: Final = 3650 * DAY
MAX_ROOT_LIFETIME: Final = 10 * ROOT_LIFETIME
DEFAULT_TTL: Final = DAY
MAX_TTL: Final = 90 * DAY
BACKDATE: Final = 120.0  # a peer's clock may be behind ours, and OpenSSL knows no leeway

ROOT_GRACE: Final = 0.2
LEAVES_PER_CA: Final = 6  # SPIRE's rule: an authority should live at least six times as long as its leaves
_JITTER_STEPS: Final = 1 << 32


def check_lifetime(seconds: float, most: float) -> None:
    """Raises IssuanceError (``lifetime_invalid``) for nothing, more than the most, and what is no number."""
    if not 0 < seconds <= most:
        reason = f"a lifetime is over 0 and at most {most:.0f} seconds, not {seconds}"
        raise IssuanceError(reason, code="lifetime_invalid")


def leaf_validity(ttl: float, signer: Validity, now: float) -> Validity:
    """From two minutes ago to ``ttl`` seconds from now, inside the signer's own validity.

    Args:
        ttl: seconds; zero or less asks for the default.

    Raises:
        IssuanceError: ``lifetime_invalid``; ``authority_expired`` or ``authority_not_yet_valid``: such a signer's
            certificates would be of no use to anybody.
    """
    wanted = DEFAULT_TTL if ttl <= 0 else ttl
    check_lifetime(wanted, MAX_TTL)
    if not now < signer.not_after:
        raise IssuanceError("the authority's certificate has expired", code="authority_expired")
    if now < signer.not_before:
        raise IssuanceError("the authority's certificate is not yet valid", code="authority_not_yet_valid")
    return Validity(now - BACKDATE, min(now + wanted, signer.not_after))


def renewal_time(svid: X509Svid, *, grace: float, jitter: float) -> float:
    """When an SVID is to be renewed: with ``grace`` of its life left, give or take ``jitter`` of its life.

    The life counts from the moment of issue, not from the back-dated notBefore. The jitter comes from the serial
    number: random over certificates, but the same whenever the question is asked, in whatever process.
    """
    issued = svid.not_before + BACKDATE
    spread = (svid.serial % _JITTER_STEPS) / _JITTER_STEPS * 2 - 1
    ratio = min(max(grace + spread * jitter, 0.0), 1.0)
    return svid.not_after - ratio * max(svid.not_after - issued, 0.0)


def root_is_due(root: Validity, now: float) -> bool:
    """Whether a self-signed root has less than a fifth of its life left."""
    return root.not_after - now < ROOT_GRACE * (root.not_after - root.not_before)


def too_short_for(signer: Validity, ttl: float, now: float) -> str | None:
    """A warning, where the authority ends so soon that its leaves are or will soon be cut short."""
    left = signer.not_after - now
    if left >= LEAVES_PER_CA * ttl:
        return None
    return (
        f"the authority ends in {left / DAY:.1f} days, less than {LEAVES_PER_CA} lifetimes of its leaves "
        f"({ttl / DAY:.1f} days): rotate it"
    )
