"""What the middleware needs of a mesh. :class:`meshsec.Mesh` fulfils it; the middleware must not know more."""

from __future__ import annotations

from typing import Protocol

from ..attributes import AuthContext, Connection, HttpRequest
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

    def judge(self, connection: Connection, request: HttpRequest) -> AuthContext:
        """Decide in this thread; may wait for one fetch of keys."""
        ...

    async def judge_async(self, connection: Connection, request: HttpRequest) -> AuthContext:
        """Decide without blocking the event loop."""
        ...
