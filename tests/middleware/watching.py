"""A mesh that a middleware talks to and a test looks into."""

from __future__ import annotations

from typing import Any, Final

from meshsec import AuthContext, Connection, Decision, HttpRequest, MeshConfig, Outcome, Reason
from meshsec.attributes import PeerIdentity
from meshsec.middleware import Transport

__all__ = ["WEB", "Watching"]

ALLOW: Final = Decision(Outcome.ALLOW, Reason.NO_ALLOW_POLICY)
WEB: Final = PeerIdentity.of("spiffe://td.example/ns/prod/sa/web")


class Watching:
    """An enforcer that notes what it is asked and says what it was told to say."""

    def __init__(self, decision: Decision = ALLOW, *, tls: bool | None = None, **config: Any) -> None:
        self.config = MeshConfig(allow_no_policy=True, **config)
        self.decision, self.tls = decision, tls
        self.transport: Transport | None = None
        self.request: HttpRequest | None = None

    def connection(self, transport: Transport | None) -> Connection:
        self.transport = transport
        return Connection(tls=self.tls)

    def recall(self, *_: Any) -> None:
        return None

    def judge(self, connection: Connection, request: HttpRequest, wanted: Any = None) -> AuthContext:
        self.request = request
        return AuthContext(WEB, None, self.decision)

    def judge_soon(self, *_: Any) -> Any:
        raise AssertionError("this is no event loop")
