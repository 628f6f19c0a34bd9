"""Tokens that travel along with a request: the end user's, or one that speaks for this workload.

Which service gets which is listed when a client is made; nobody else gets one, wherever a redirect leads, and none
leaves before the service's certificate was verified. Must not know: any one client, or where a token is issued.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Final, Protocol

from ..errors import TokenError
from ..jose import parse_jws, read_frozen_object
from ..middleware import current_context

__all__ = ["CallerToken", "JwtSvidToken", "TokenSource"]

_PARTS: Final = 2  # a token is fetched anew in the second part of its life


class TokenSource(Protocol):
    """Where the token for one service comes from."""

    def at_hand(self) -> str | None:
        """The token, if it can be had without waiting."""
        ...

    def token(self) -> str | None:
        """The token, waiting for whoever issues it; None: the request goes without one."""
        ...


@dataclass(frozen=True, slots=True)
class CallerToken:
    """The verified token of the end user whose request this program serves right now.

    There is one while an application behind ``mesh.asgi`` or ``mesh.wsgi`` handles a request that came with a token;
    tasks that it starts have it, threads that it starts have not. Whoever gets the token may use it as the user
    would, wherever its audience permits: list the services that need it and no others.
    """

    def at_hand(self) -> str | None:
        """The token of the request that is served; None outside of one, and where it came without."""
        context = current_context()
        return context.token if context else None

    def token(self) -> str | None:
        """The same."""
        return self.at_hand()


@dataclass(slots=True, eq=False)
class JwtSvidToken:
    """A JWT-SVID of this workload for one audience, kept for half of its life.

    Args:
        fetch: audience → the token in its compact form, from whoever issues it (the Workload API, an authority).
        audience: what the service that gets it expects of ``aud``, by custom its own SPIFFE ID.
        clock: POSIX seconds.

    NOT checked: the token's signature; the service does that.
    """

    fetch: Callable[[str], str] = field(repr=False)
    audience: str
    clock: Callable[[], float] = field(default=time.time, repr=False)
    _token: str | None = field(default=None, init=False, repr=False)
    _renew_at: float = field(default=0.0, init=False, repr=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def at_hand(self) -> str | None:
        """The token that was fetched last, while it is young."""
        return self._token if self.clock() < self._renew_at else None

    def token(self) -> str:
        """The token; of several who need a new one at once, one fetches it and the others wait.

        Raises:
            TokenError: what ``fetch`` returned is no token, or one that has expired.
        """
        with self._lock:
            known = self.at_hand()
            if known is not None:
                return known
            token, now = self.fetch(self.audience), self.clock()
            expiry = _expiry(token)
            if not now < expiry:
                raise TokenError("the JWT-SVID that was fetched has expired", code="jwt_expired")
            # In this order: who asks for what is at hand never sees the new time with the old token.
            self._renew_at = 0.0
            self._token = token
            self._renew_at = now + (expiry - now) / _PARTS
            return token


def _expiry(token: str) -> float:
    try:
        expiry = read_frozen_object(parse_jws(token).unverified_payload).get("exp")
    except ValueError:
        expiry = None
    if isinstance(expiry, bool) or not isinstance(expiry, int | float):
        raise TokenError("a JWT-SVID has a time at which it expires", code="jwt_no_expiry")
    return float(expiry)
