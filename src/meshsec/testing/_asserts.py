"""What a test says of a decision. This file must not know how one is made."""

from __future__ import annotations

from typing import Any

from ..decision import Decision, Reason
from ._client import decision_of

__all__ = ["assert_allowed", "assert_denied"]


def assert_allowed(found: Any) -> Decision:
    """Check that a request was let in.

    Args:
        found: a response of ``mesh_client``, a Decision or an AuthContext.

    Raises:
        AssertionError: it was not; the message says why.
    """
    decision = decision_of(found)
    if not decision.allowed:
        raise AssertionError(f"refused ({decision.reason}): {decision.explain()}")
    return decision


def assert_denied(found: Any, *, reason: Reason | str | None = None) -> Decision:
    """Check that a request was refused, and why.

    Args:
        found: as for :func:`assert_allowed`.
        reason: a reason code such as ``jwt_missing``; None: any.

    Raises:
        AssertionError: it was let in, or refused for another reason.
    """
    decision = decision_of(found)
    if decision.allowed:
        raise AssertionError(f"let in ({decision.reason}): {decision.explain()}")
    if reason is not None and decision.reason != Reason(reason):
        raise AssertionError(f"refused, but because of {decision.reason}: {decision.explain()}")
    return decision
