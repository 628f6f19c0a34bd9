"""A SPIFFE Workload API on a real socket that does what a test says: grpcio's server, protobuf's messages.

Both are other people's work, so that what our client says and reads is judged by somebody else.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import grpc
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from meshsec.spiffe import X509Bundle, X509Svid

__all__ = ["Agent", "Refuse", "StandingAgent", "bundle_der", "given", "messages", "x509_answer"]

_TEXT, _BYTES, _MESSAGE = 9, 12, 11
_ONE, _MANY = 1, 3
_MESSAGES: dict[str, list[tuple[str, int, int, str]]] = {
    "X509SVIDRequest": [],
    "X509SVID": [
        ("spiffe_id", _TEXT, _ONE, ""),
        ("x509_svid", _BYTES, _ONE, ""),
        ("x509_svid_key", _BYTES, _ONE, ""),
        ("bundle", _BYTES, _ONE, ""),
        ("hint", _TEXT, _ONE, ""),
    ],
    "Pair": [("key", _TEXT, _ONE, ""), ("value", _BYTES, _ONE, "")],
    "X509SVIDResponse": [
        ("svids", _MESSAGE, _MANY, "X509SVID"),
        ("crl", _BYTES, _MANY, ""),
        ("federated_bundles", _MESSAGE, _MANY, "Pair"),
    ],
    "X509BundlesResponse": [("crl", _BYTES, _MANY, ""), ("bundles", _MESSAGE, _MANY, "Pair")],
    "JWTSVIDRequest": [("audience", _TEXT, _MANY, ""), ("spiffe_id", _TEXT, _ONE, "")],
    "JWTSVID": [("spiffe_id", _TEXT, _ONE, ""), ("svid", _TEXT, _ONE, ""), ("hint", _TEXT, _ONE, "")],
    "JWTSVIDResponse": [("svids", _MESSAGE, _MANY, "JWTSVID")],
    "JWTBundlesResponse": [("bundles", _MESSAGE, _MANY, "Pair")],
    "ValidateJWTSVIDRequest": [("audience", _TEXT, _ONE, ""), ("svid", _TEXT, _ONE, "")],
    "ValidateJWTSVIDResponse": [("spiffe_id", _TEXT, _ONE, ""), ("claims", _BYTES, _ONE, "")],
}


@cache
def messages() -> Mapping[str, Any]:
    """The classes of workloadapi.proto's messages; a map is what it is on the wire, a list of pairs."""
    file = descriptor_pb2.FileDescriptorProto(name="workloadapi.proto", package="agent", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind, label, inner) in enumerate(fields, 1):
            added = message.field.add(name=field, number=number, type=kind, label=label)
            if inner:
                added.type_name = f".agent.{inner}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"agent.{name}")) for name in _MESSAGES}


def bundle_der(bundle: X509Bundle) -> bytes:
    """Certificates one after the other."""
    return b"".join(certificate.public_bytes(Encoding.DER) for certificate in bundle.x509_authorities)


def given(svid: X509Svid, authorities: X509Bundle, **changes: Any) -> Any:
    """An X509SVID message."""
    fields = {
        "spiffe_id": str(svid.id),
        "x509_svid": b"".join(svid.chain),
        "x509_svid_key": svid.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        "bundle": bundle_der(authorities),
    }
    return messages()["X509SVID"](**{**fields, **changes})


def x509_answer(*svids: Any, federated: Iterable[X509Bundle] = (), crl: Iterable[bytes] = ()) -> bytes:
    """An X509SVIDResponse."""
    pairs = [
        messages()["Pair"](key=f"spiffe://{bundle.trust_domain}", value=bundle_der(bundle)) for bundle in federated
    ]
    answer = messages()["X509SVIDResponse"](svids=svids, crl=list(crl), federated_bundles=pairs)
    return bytes(answer.SerializeToString())


class Refuse:
    """An end of the stream with that code."""

    def __init__(self, code: grpc.StatusCode = grpc.StatusCode.PERMISSION_DENIED, message: str = "no") -> None:
        self.code = code
        self.message = message


class Agent:
    """What comes next on a stream: bytes are a message, a Refuse ends it, None ends it well.

    Attributes:
        calls: counts the streams that were opened.
        metadata: what each of them sent along.
        tokens: answers FetchJWTSVID: request → response.
        validated: answers ValidateJWTSVID likewise.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.calls = threading.Semaphore(0)
        self.metadata: list[dict[str, Any]] = []
        self.tokens: Callable[[Any], Any] = lambda _request: None
        self.validated: Callable[[Any], Any] = lambda _request: None
        self._steps: deque[bytes | Refuse | None] = deque()
        self._changed = threading.Condition()
        self._newest = 0
        self._server: grpc.Server | None = None

    def say(self, *steps: bytes | Refuse | None) -> None:
        """To the newest stream, or the next."""
        with self._changed:
            self._steps.extend(steps)
            self._changed.notify_all()

    @contextmanager
    def serving(self) -> Iterator[Agent]:
        """Until the block is left."""
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def start(self) -> None:
        """Listen."""
        self._server = grpc.server(ThreadPoolExecutor(8))
        self._server.add_generic_rpc_handlers([_Handler(self)])
        self._server.add_insecure_port(self.address.replace("tcp://", "").replace("unix://", "unix:"))
        self._server.start()

    def stop(self) -> None:
        """Break off everything."""
        if self._server is not None:
            server, self._server = self._server, None
            with self._changed:
                self._newest += 1
                self._changed.notify_all()
            server.stop(0).wait()

    def stream(self, _request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Any of the streaming methods."""
        self.metadata.append(dict(context.invocation_metadata()))
        with self._changed:
            self._newest += 1
            mine = self._newest
            self._changed.notify_all()
        self.calls.release()
        while (step := self._next(mine)) is not None:
            if isinstance(step, Refuse):
                context.abort(step.code, step.message)
            yield step  # type: ignore[misc]

    def _next(self, mine: int) -> bytes | Refuse | None:
        """Whoever is not the newest stream any more ends, and takes nothing from it."""
        with self._changed:
            self._changed.wait_for(lambda: self._steps or self._newest != mine)
            return self._steps.popleft() if self._newest == mine else None

    def token(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """FetchJWTSVID."""
        return self._say_once(self.tokens(messages()["JWTSVIDRequest"].FromString(request)), context)

    def validate(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """ValidateJWTSVID."""
        return self._say_once(self.validated(messages()["ValidateJWTSVIDRequest"].FromString(request)), context)

    def _say_once(self, answer: Any, context: grpc.ServicerContext) -> bytes:
        self.metadata.append(dict(context.invocation_metadata()))
        if isinstance(answer, Refuse):
            context.abort(answer.code, answer.message)
        return bytes(answer.SerializeToString())


class StandingAgent(Agent):
    """The same with a state, as a real one has: every stream is told at once, and again when it changes."""

    def __init__(self, address: str, state: bytes | Refuse) -> None:
        super().__init__(address)
        self._state = state
        self._version = 1

    def say(self, *steps: bytes | Refuse | None) -> None:
        """To everybody, from now on; the last one counts."""
        with self._changed:
            self._state = steps[-1] or b""
            self._version += 1
            self._changed.notify_all()

    def stream(self, _request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Any of the streaming methods."""
        seen, stopped = 0, self._newest
        while True:
            with self._changed:
                self._changed.wait_for(lambda: seen != self._version or stopped != self._newest)  # noqa: B023
                seen, state = self._version, self._state
            if stopped != self._newest:
                return
            if isinstance(state, Refuse):
                context.abort(state.code, state.message)
            yield state  # type: ignore[misc]


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def service(self, handler_call_details: Any) -> Any:
        service, _, method = handler_call_details.method.lstrip("/").partition("/")
        if service != "SpiffeWorkloadAPI":
            return None
        if method == "FetchJWTSVID":
            return grpc.unary_unary_rpc_method_handler(self._agent.token)
        if method == "ValidateJWTSVID":
            return grpc.unary_unary_rpc_method_handler(self._agent.validate)
        if method in ("FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles"):
            return grpc.unary_stream_rpc_method_handler(self._agent.stream)
        return None
