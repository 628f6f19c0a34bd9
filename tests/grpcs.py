"""A gRPC service that says who calls, and three servers of it: bytes in, bytes out, no generated code."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

import grpc
import grpc.aio
import grpclib.const
import grpclib.encoding.base
import grpclib.server

from live import free_port
from meshsec import Mesh
from meshsec.middleware import current_context
from meshsec.servers.grpcio import AioMeshInterceptor, MeshInterceptor, server_credentials
from meshsec.servers.grpclib import protect

__all__ = ["METHODS", "SERVERS", "Raw", "Serving", "add_to", "by_aio", "by_grpcio", "by_grpclib"]

METHODS: Final = ("One", "Many", "Sum", "Talk")
_NAME: Final = "demo.Whom"
_HOST: Final = "reviews.prod"

Serving = Callable[[Mesh], AbstractContextManager[int]]


class Raw(grpclib.encoding.base.CodecBase):
    """Bytes as they are."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:
        return bytes(message)

    def decode(self, data: bytes, message_type: Any) -> bytes:
        return data


def _whom(metadata: Any) -> bytes:
    """Who calls, whose token it came with and what of it can still be seen; and with which certificate."""
    context = current_context()
    peer = context.peer if context else None
    user = context.principal.subject if context and context.principal else None
    digest = (peer.certificate_sha256 or b"").hex() if peer else ""
    return f"{peer and peer.id} {user} {dict(metadata).get('authorization')} {digest}".encode()


class _Blocking:
    def one(self, request: bytes, context: Any) -> bytes:
        return _whom(context.invocation_metadata())

    def many(self, request: bytes, context: Any) -> Iterator[bytes]:
        for _ in range(3):
            yield _whom(context.invocation_metadata())

    def sum(self, requests: Iterator[bytes], context: Any) -> bytes:
        list(requests)
        return _whom(context.invocation_metadata())

    def talk(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for _ in requests:
            yield _whom(context.invocation_metadata())


class _Async:
    async def one(self, request: bytes, context: Any) -> bytes:
        return _whom(context.invocation_metadata())

    async def many(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for _ in range(3):
            yield _whom(context.invocation_metadata())

    async def sum(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        _ = [request async for request in requests]
        return _whom(context.invocation_metadata())

    async def talk(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for _ in requests:
            yield _whom(context.invocation_metadata())


class _Streams:
    """grpclib's way: every method has the stream."""

    async def answer(self, stream: Any) -> None:
        _ = [message async for message in stream]
        await stream.send_message(_whom(stream.metadata))

    def __mapping__(self) -> dict[str, Any]:
        kinds = zip(METHODS, grpclib.const.Cardinality, strict=True)
        return {f"/{_NAME}/{name}": grpclib.const.Handler(self.answer, kind, None, None) for name, kind in kinds}


def _handlers(service: Any) -> Any:
    return grpc.method_handlers_generic_handler(
        _NAME,
        {
            "One": grpc.unary_unary_rpc_method_handler(service.one),
            "Many": grpc.unary_stream_rpc_method_handler(service.many),
            "Sum": grpc.stream_unary_rpc_method_handler(service.sum),
            "Talk": grpc.stream_stream_rpc_method_handler(service.talk),
        },
    )


def add_to(server: grpc.Server) -> None:
    """Add the service to a server with threads."""
    server.add_generic_rpc_handlers([_handlers(_Blocking())])


@contextmanager
def by_grpcio(mesh: Mesh) -> Iterator[int]:
    """grpcio with threads."""
    port = free_port()
    server = grpc.server(ThreadPoolExecutor(4), interceptors=[MeshInterceptor(mesh, host=_HOST, port=port)])
    add_to(server)
    server.add_secure_port(f"127.0.0.1:{port}", server_credentials(mesh, port=port))
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


@contextmanager
def _in_a_loop(serve: Callable[[asyncio.Event, Callable[[int], None]], Any]) -> Iterator[int]:
    """Run an asyncio server in a thread of its own; it says which port it has when it listens."""
    loop, stop, ready, ports = asyncio.new_event_loop(), asyncio.Event(), threading.Event(), list[int]()

    def listening(port: int) -> None:
        ports.append(port)
        ready.set()

    def run() -> None:
        try:
            loop.run_until_complete(serve(stop, listening))
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


@contextmanager
def by_aio(mesh: Mesh) -> Iterator[int]:
    """grpcio with asyncio."""

    async def serve(stop: asyncio.Event, listening: Callable[[int], None]) -> None:
        port = free_port()
        server = grpc.aio.server(interceptors=[AioMeshInterceptor(mesh, host=_HOST, port=port)])
        server.add_generic_rpc_handlers([_handlers(_Async())])
        server.add_secure_port(f"127.0.0.1:{port}", server_credentials(mesh, port=port))
        await server.start()
        listening(port)
        await stop.wait()
        await server.stop(None)

    with _in_a_loop(serve) as port:
        yield port


@contextmanager
def by_grpclib(mesh: Mesh) -> Iterator[int]:
    """grpclib."""

    async def serve(stop: asyncio.Event, listening: Callable[[int], None]) -> None:
        port = free_port()
        server = grpclib.server.Server([_Streams()], codec=Raw())
        protect(server, mesh, host=_HOST)
        context = mesh.server_context(port=port)
        context.set_alpn_protocols(["h2"])
        await server.start("127.0.0.1", port, ssl=context)
        listening(port)
        await stop.wait()
        server.close()
        await server.wait_closed()

    with _in_a_loop(serve) as port:
        yield port


SERVERS: Final[tuple[Serving, ...]] = (by_grpcio, by_aio, by_grpclib)
