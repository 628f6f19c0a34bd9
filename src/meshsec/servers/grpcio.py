"""grpcio: credentials that rotate, and an interceptor that judges every call.

gRPC's own TLS takes PEM in place of an ``ssl.SSLContext``. It asks for our newest certificate at every handshake and
verifies that a client's chain ends at an authority of ours; whose authority it may be, and what the client may do, is
judged at each call by the mesh. This file must not know policies.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextvars import copy_context
from dataclasses import replace
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import Any, Final, NoReturn, cast
from urllib.parse import unquote

import grpc
import grpc.aio

from ..attributes import AuthContext, Connection, HttpRequest
from ..errors import SvidError
from ..mesh import Mesh
from ..middleware import CURRENT, Transport
from ..tls import MeshSSLContext, TlsMaterial
from ._grpc import called, edited, refusal
from ._process import current_mesh

__all__ = ["AioMeshInterceptor", "MeshInterceptor", "server_credentials"]

_END: Final = b"-----END CERTIFICATE-----\n"
_STATUS: Final = {code.value[0]: code for code in grpc.StatusCode}
# By what a method takes and gives: request streams, response streams.
_HANDLERS: Final[dict[tuple[bool, bool], tuple[str, Callable[..., Any]]]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


def server_credentials(mesh: Mesh | None = None, *, port: int) -> grpc.ServerCredentials:
    """Credentials for ``server.add_secure_port``: our newest certificate at each handshake, a client's demanded.

    Args:
        mesh: whose identity is presented; None for :func:`meshsec.servers.current_mesh`.
        port: where the server listens, for PeerAuthentication's port levels.

    NOT checked: which of several trust domains' authorities vouches for a client. Only together with an interceptor
    from here is the client who it says it is.

    Raises:
        ConfigError: the workload has no identity, or PeerAuthentication says DISABLE for the port.
        SvidError: the identity is not there yet.
    """
    mesh = current_mesh() if mesh is None else mesh
    context = cast(MeshSSLContext, mesh.server_context(port=port))
    return _Newest(context).credentials()


class _Newest:
    """What gRPC asks for a configuration at each handshake; it is told only when there is a new one."""

    def __init__(self, context: MeshSSLContext) -> None:
        self._context = context
        self._told: TlsMaterial | None = None

    def credentials(self) -> grpc.ServerCredentials:
        first = self._configuration(self._context.snapshot())
        renewed: Any = self._renewed  # None, for nothing new, is not in every stub
        return grpc.dynamic_ssl_server_credentials(first, renewed, require_client_authentication=True)

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        material = self._context.snapshot()
        return None if material is self._told else self._configuration(material)

    def _configuration(self, material: TlsMaterial | None) -> grpc.ServerCertificateConfiguration:
        if material is None or material.svid is None:
            raise SvidError("this workload has no SVID yet", code="no_svid")
        roots = b"".join(bundle.to_pem() for bundle in material.bundles)
        pair = (material.svid.key_pem(), material.svid.chain_pem())
        found = grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)
        self._told = material
        return found


class _Door:
    """Judges calls; how a library is told of a refusal differs."""

    def __init__(self, mesh: Mesh | None, host: str, port: int) -> None:
        self.mesh = current_mesh() if mesh is None else mesh
        self._host = host
        self._port = port

    def connection(self, context: Any) -> Connection:
        """Who is at the other end, by the certificates that gRPC's TLS took."""
        known = context.auth_context()
        source = _address(context.peer())
        if "transport_security_type" not in known:
            return self.mesh.connection(Transport(source_ip=source, destination_port=self._port))
        # The chain comes in no order that is promised, with the leaf in it.
        leaf, chain = (_pem(known.get(name, ())) for name in ("x509_pem_cert", "x509_pem_cert_chain"))
        shown = Transport.of_certificates([*leaf, *(other for other in chain if other not in leaf)])
        return self.mesh.connection(replace(shown, source_ip=source, destination_port=self._port))

    def request(self, method: str, context: Any, connection: Connection) -> HttpRequest:
        """The call, as policies see it."""
        return called(method, context.invocation_metadata() or (), self._host, connection)


class MeshInterceptor(grpc.ServerInterceptor):
    """Judges every call before its handler sees it: ``grpc.server(pool, interceptors=[MeshInterceptor(mesh, …)])``.

    A refused call ends with ``PERMISSION_DENIED``, ``UNAUTHENTICATED`` or ``INVALID_ARGUMENT``. A handler finds who
    calls with :func:`meshsec.middleware.current_context`; the token is not in its metadata.

    Args:
        mesh: who judges; None for :func:`meshsec.servers.current_mesh`.
        host: the service that the server is: what ``hosts`` of a policy are compared with. gRPC in Python does not
            tell which host a client asked for.
        port: where the server listens.
    """

    def __init__(self, mesh: Mesh | None = None, *, host: str, port: int) -> None:
        self._door = _Door(mesh, host, port)

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """The handler behind its door."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        kind, made = _HANDLERS[bool(handler.request_streaming), bool(handler.response_streaming)]
        inner = getattr(handler, kind)

        def one(request: Any, context: Any) -> Any:
            judged = self._admit(method, context)
            return judged.run(inner, request, judged)

        def many(request: Any, context: Any) -> Iterator[Any]:
            judged = self._admit(method, context)
            answers = judged.run(inner, request, judged)
            while True:
                try:
                    yield judged.run(next, answers)
                except StopIteration:
                    return

        behavior = many if handler.response_streaming else one
        return made(behavior, handler.request_deserializer, handler.response_serializer)

    def _admit(self, method: str, context: Any) -> _Judged:
        connection = self._door.connection(context)
        request = self._door.request(method, context, connection)
        judged = self._door.mesh.judge(connection, request)
        refused = refusal(judged, connection, request)
        if refused is not None:
            _abort(context, *refused)
        return _Judged(context, judged)


class AioMeshInterceptor(grpc.aio.ServerInterceptor):
    """The same for ``grpc.aio.server(interceptors=[AioMeshInterceptor(mesh, …)])``: handlers are ``async``."""

    def __init__(self, mesh: Mesh | None = None, *, host: str, port: int) -> None:
        self._door = _Door(mesh, host, port)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """The handler behind its door."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        kind, made = _HANDLERS[bool(handler.request_streaming), bool(handler.response_streaming)]
        inner = getattr(handler, kind)
        if not (iscoroutinefunction(inner) or isasyncgenfunction(inner)):
            raise TypeError(f"{method} is not async: meshsec judges async handlers of an aio server")

        async def one(request: Any, context: Any) -> Any:
            return await inner(request, await self._admit(method, context))

        async def many(request: Any, context: Any) -> AsyncIterator[Any]:
            async for answer in inner(request, await self._admit(method, context)):
                yield answer

        behavior = many if isasyncgenfunction(inner) else one
        return made(behavior, handler.request_deserializer, handler.response_serializer)

    async def _admit(self, method: str, context: Any) -> _Judged:
        connection = self._door.connection(context)
        request = self._door.request(method, context, connection)
        judged = await self._door.mesh.judge_async(connection, request)
        refused = refusal(judged, connection, request)
        if refused is not None:
            await context.abort(_STATUS[refused[0]], refused[1])
        CURRENT.set(judged)  # each call has a task of its own, and this ends with it
        return _Judged(context, judged)


class _Judged:
    """A call's context as its handler may see it: all that gRPC's has, but the metadata are edited."""

    def __init__(self, context: Any, judged: AuthContext) -> None:
        self._context = context
        self._edits = judged.decision.edits
        self._variables = copy_context()
        self._variables.run(CURRENT.set, judged)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def invocation_metadata(self) -> Any:
        """Without the token, with the headers made of claims."""
        return tuple(edited(self._context.invocation_metadata() or (), self._edits))

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call it where :func:`current_context` knows this call, whichever thread that is."""
        return self._variables.run(function, *arguments)


def _abort(context: Any, code: int, message: str) -> NoReturn:
    context.abort(_STATUS[code], message)
    raise RuntimeError("a refused call goes on")  # abort raises


def _pem(values: Iterable[bytes]) -> list[str]:
    """Each certificate by itself, its lines in one way."""
    blocks = b"".join(values).replace(b"\r", b"").split(_END)
    return [(block.strip() + b"\n" + _END).decode("ascii", "replace") for block in blocks if block.strip()]


def _address(peer: str) -> str | None:
    """Of ``ipv4:127.0.0.1:4711`` or ``ipv6:%5B::1%5D:4711``; None for everything else."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else None
