"""A request whose form is refused before any policy is asked."""

from __future__ import annotations

from dataclasses import dataclass

from ..decision import Reason

__all__ = ["Refusal"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that is answered 400.

    Attributes:
        reason: the stable code.
        message: why, without any of the request's own text.
    """

    reason: Reason
    message: str
