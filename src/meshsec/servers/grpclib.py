"""grpclib: ``protect(server, mesh, host=…)``, and ``server.start(…, ssl=mesh.server_context(port=…))``.

grpclib takes an ``ssl.SSLContext``; each call is judged before its handler, by the event that grpclib has for that.
This file must not know policies.
"""

from __future__ import annotations

from typing import Any

from grpclib.const import Status
from grpclib.events import RecvRequest, listen
from grpclib.exceptions import GRPCError
from grpclib.server import Server

from ..mesh import Mesh
from ..middleware import CURRENT, Transport
from ._grpc import called, edited, refusal
from ._process import current_mesh

__all__ = ["protect"]


def protect(server: Server, mesh: Mesh | None = None, *, host: str) -> None:
    """Judge every call of a server before its handler sees it.

    A refused call ends with ``PERMISSION_DENIED``, ``UNAUTHENTICATED`` or ``INVALID_ARGUMENT``. A handler finds who
    calls with :func:`meshsec.middleware.current_context`; the token is not in its metadata.

    Args:
        server: before it is started with ``ssl=mesh.server_context(port=…)``.
        mesh: who judges; None for :func:`meshsec.servers.current_mesh`.
        host: the service that the server is: what ``hosts`` of a policy are compared with. grpclib does not tell
            which host a client asked for.
    """
    judge = current_mesh() if mesh is None else mesh

    async def admit(event: RecvRequest) -> None:
        # The peer's own methods tell less than its transport; without one nobody is the peer, and nothing is known.
        transport = getattr(event.peer, "_transport", None)
        connection = judge.connection(None if transport is None else Transport.of_asyncio(transport))
        request = called(event.method_name, _pairs(event.metadata), host, connection)
        context = await judge.judge_async(connection, request)
        refused = refusal(context, connection, request)
        if refused is not None:
            raise GRPCError(Status(refused[0]), refused[1])
        multidict: Any = type(event.metadata)
        event.metadata = multidict(edited(_pairs(event.metadata), context.decision.edits))
        CURRENT.set(context)  # each call has a task of its own, and this ends with it

    listen(server, RecvRequest, admit)


def _pairs(metadata: Any) -> list[tuple[str, str | bytes]]:
    return list(metadata.items())
