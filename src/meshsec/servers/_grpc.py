"""What the gRPC servers have in common: a call as the HTTP request that it is, and a refusal as a status.

Neither tells an interceptor which host a client asked for, so the host of every call is the one that the server was
set up for: no client can choose what a policy's ``hosts`` see. Must not know: any one library.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from typing import Final

from ..attributes import AuthContext, Connection, HttpRequest
from ..decision import Decision, Edits
from ..middleware import log_refusal, render

__all__ = ["CONTENT_TYPE", "Metadata", "called", "edited", "refusal"]

CONTENT_TYPE: Final = "application/grpc"
_INVALID_ARGUMENT: Final = 3

Metadata = Iterable[tuple[str, str | bytes]]


def called(method: str, metadata: Metadata, host: str, connection: Connection) -> HttpRequest:
    """The call as it came over HTTP/2.

    Args:
        method: ``/package.Service/Method``.
        metadata: as the library has decoded it; binary values (``-bin``) become base64 again.
        host: the service that the server is.
        connection: says whether it came over TLS.
    """
    # "host" is metadata like any other here, and would be Istio's word for where the call goes.
    told = [(name, value) for name, value in metadata if name.lower() != "host"]
    lines = [(name, value if isinstance(value, str) else _text(value)) for name, value in told]
    if not any(name == "content-type" for name, _ in lines):
        lines.append(("content-type", CONTENT_TYPE))
    return HttpRequest("POST", method, host, tuple(lines), "https" if connection.tls else "http")


def refusal(context: AuthContext, connection: Connection, request: HttpRequest) -> tuple[int, str] | None:
    """The gRPC status and message of a refused call, which is logged; None for a call that may go on."""
    decision = context.decision
    if not decision.allowed:
        log_refusal(context, connection, request)
        return _status(decision)
    if decision.edits.target not in (None, request.target):
        # The library routes by the method as it came, and cannot be told another one.
        return _INVALID_ARGUMENT, "the method's name is not in its normal form"
    return None


def edited(metadata: Metadata, edits: Edits) -> Iterator[tuple[str, str | bytes]]:
    """What the application sees: without the token, with the headers made of claims."""
    yield from ((name, value) for name, value in metadata if name not in edits.remove_headers)
    yield from ((name.lower(), value) for name, value in edits.add_headers)


def _status(decision: Decision) -> tuple[int, str]:
    lines = dict(render(decision, method="POST", content_type=CONTENT_TYPE).headers)
    return int(lines["grpc-status"]), lines["grpc-message"]


def _text(value: bytes) -> str:
    return base64.b64encode(value).rstrip(b"=").decode()
