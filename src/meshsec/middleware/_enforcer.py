"""What the middleware needs of a mesh. :class:`meshsec.Mesh` fulfils it; the middleware must not know more."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from ..attributes import AuthContext, Connection, HttpRequest
from ..policy import Remembered, RequestLine, Wanted
from ..resources import MeshConfig
from ._transport import Transport

__all__ = ["Enforcer"]


class Enforcer(Protocol):
    """Judges requests; both ways of judging end in the same pure core."""

    @property
    def config(self) -> MeshConfig:
        """The mesh-wide settings in force."""
        ...

    def connection(self, transport: Transport | None) -> Connection:
        """The facts about a connection: the peer is re-checked (dates, trust) at every call."""
        ...

    def recall(
        self, connection: Connection, line: RequestLine, names: tuple[Any, ...], values: Sequence[Any]
    ) -> Remembered | Wanted | None:
        """What is remembered of a request before it is even read; where nothing ever is, None."""
        ...

    def holds(self, found: Remembered, known: object) -> bool:
        """Whether what was remembered holds for the same request, on a connection of which ``known`` was found."""
        ...

    def judge_line(self, request: HttpRequest, wanted: Wanted) -> Remembered | None:
        """Decide about a request of a known caller; None where it takes all of the request."""
        ...

    def judge(self, connection: Connection, request: HttpRequest, wanted: Wanted | None = None) -> AuthContext:
        """Decide in this thread; may wait for one fetch of keys. What is ``wanted`` may be remembered."""
        ...

    def judge_soon(
        self, connection: Connection, request: HttpRequest, wanted: Wanted | None = None
    ) -> AuthContext | Coroutine[Any, Any, AuthContext]:
        """Decide at once; or, where something must be waited for, without blocking the event loop."""
        ...
