"""The request that is being served, for code that was not handed it: outgoing calls on behalf of its user.

Set around the application, for the very same task or thread. Must not know: what becomes of it.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

from ..attributes import AuthContext

__all__ = ["CURRENT", "current_context"]

CURRENT: Final[ContextVar[AuthContext | None]] = ContextVar("meshsec_current", default=None)


def current_context() -> AuthContext | None:
    """Who calls and why they may, of the request that this task or thread serves; None outside of one."""
    return CURRENT.get()
