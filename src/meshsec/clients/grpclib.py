"""A channel for grpclib: ``MeshChannel(mesh, "reviews.prod")`` in place of ``grpclib.client.Channel(…)``.

Each call goes over a connection that was made with our newest certificate, to one of the mesh's endpoints, and to
nobody but who may answer. This file must not know what is called.
"""

from __future__ import annotations

import asyncio
from functools import partial
from types import TracebackType
from typing import Any, Self

from grpclib.client import Channel, Stream
from grpclib.config import Configuration
from grpclib.const import Cardinality
from grpclib.encoding.base import CodecBase, StatusDetailsCodecBase
from grpclib.metadata import Deadline
from grpclib.protocol import H2Protocol
from multidict import MultiDict

from ..mesh import Mesh
from ..tls import MeshSSLContext
from ._services import MAX_AGE, Lease, Route, ServicePools, Tokens, dial

__all__ = ["MeshChannel"]


class MeshChannel(Channel):
    """grpclib's channel for one service of the mesh, over mutual TLS.

    Made inside a running event loop, as every channel is; stubs take it as they take grpclib's. A connection is given
    no new calls when our certificate, an authority or what the mesh says of the service changed, and after some time;
    it ends with its last call, which nothing cuts off.

    Args:
        mesh: whose identity is presented, and whose secure naming is checked.
        host: the service.
        port: of the service.
        max_age: for how many seconds a connection is given new calls.
        tokens: which token travels along to which service.
        codec: as a channel's.
        status_details_codec: as a channel's.
        config: as a channel's; ``ssl_target_name_override`` has no say.

    Raises:
        SvidError: the mesh does not name the host, or nobody for it.
    """

    def __init__(
        self,
        mesh: Mesh,
        host: str,
        port: int = 443,
        *,
        max_age: float = MAX_AGE,
        tokens: Tokens | None = None,
        codec: CodecBase | None = None,
        status_details_codec: StatusDetailsCodecBase | None = None,
        config: Configuration | None = None,
    ) -> None:
        super().__init__(host, port, codec=codec, status_details_codec=status_details_codec, config=config)
        self._services = ServicePools(mesh, partial(_Connection, config=config), max_age=max_age, tokens=tokens)
        self._services.route("https", host, port)  # says now what cannot work

    def request(
        self,
        name: str,
        cardinality: Cardinality,
        request_type: type[Any],
        reply_type: type[Any],
        *,
        timeout: float | None = None,
        deadline: Deadline | None = None,
        metadata: Any = None,
    ) -> Stream[Any, Any]:
        """A call that is yet to begin."""
        if timeout is not None:
            soonest = Deadline.from_timeout(timeout)
            deadline = soonest if deadline is None else min(soonest, deadline)
        return _Call(
            self,
            name,
            MultiDict(metadata or ()),  # type: ignore[arg-type, unused-ignore]
            cardinality,
            request_type,
            reply_type,
            codec=self._codec,
            status_details_codec=self._status_details_codec,
            dispatch=self.__dispatch__,
            deadline=deadline,
        )

    def close(self) -> None:
        """Close every connection."""
        for connection in self._services.take_all():
            connection.close()

    async def _create_connection(self) -> H2Protocol:
        raise RuntimeError("calls of the mesh bring their connection along")  # this one would be plaintext

    async def _begin(self) -> tuple[Lease[_Connection], str | None]:
        """Which connection a call goes over, and with which token; :meth:`_end` is for each."""
        route = self._services.route("https", self._host, self._port)
        token = await self._services.token_async(route)
        return self._services.lease(route), token

    def _end(self, lease: Lease[_Connection]) -> None:
        self._services.release(lease)
        for connection in self._services.take_closable():
            connection.close()


class _Call(Stream[Any, Any]):
    """A call, from its beginning to its end over one connection."""

    async def __aenter__(self) -> Self:
        self._mesh_channel: MeshChannel = self._channel  # type: ignore[assignment]
        self._lease, token = await self._mesh_channel._begin()
        self._channel = self._lease.pool
        if token is not None:
            self._metadata.setdefault("authorization", f"Bearer {token}")
        await super().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(kind, error, trace)
        finally:
            self._mesh_channel._end(self._lease)


class _Connection(Channel):
    """One connection to a service, made with its first call."""

    def __init__(self, context: MeshSSLContext, route: Route, *, config: Configuration | None) -> None:
        context.set_alpn_protocols(["h2"])
        super().__init__(route.host, route.port, ssl=context, config=config)
        self._authority = route.authority
        self._route = route
        self._transport: asyncio.Transport | None = None

    def close(self) -> None:
        """Say goodbye, and wait for no answer: gRPC's own servers give none (RFC 8446 section 6.1 asks for none)."""
        super().close()
        if self._transport is not None:
            self._transport.abort()

    async def _create_connection(self) -> H2Protocol:
        return await dial(self._route, self._open)

    async def _open(self, host: str, port: int) -> H2Protocol:
        name = self._route.server_name
        self._transport, protocol = await self._loop.create_connection(
            self._protocol_factory, host, port, ssl=self._ssl, server_hostname=name
        )
        return protocol
