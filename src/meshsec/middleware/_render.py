"""A refusal as an HTTP response, in Istio's words; the one place where a status meets a body."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..decision import Decision, Outcome
from ._problem import PROBLEM_JSON, problem_body, wants_problem

__all__ = ["Response", "render"]

_GRPC_PERMISSION_DENIED: Final = 7
_GRPC_UNAUTHENTICATED: Final = 16
_GRPC_INVALID_ARGUMENT: Final = 3
_GRPC_STATUS: Final = {
    Outcome.BAD_REQUEST: _GRPC_INVALID_ARGUMENT,
    Outcome.UNAUTHENTICATED: _GRPC_UNAUTHENTICATED,
    Outcome.DENY: _GRPC_PERMISSION_DENIED,
}


@dataclass(frozen=True, slots=True)
class Response:
    """What goes on the wire: latin-1 header text and a body in bytes."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def render(decision: Decision, *, method: str, content_type: str, accept: str | None = None) -> Response:
    """The response to a request that does not get to the application.

    Args:
        decision: a decision that does not allow.
        method: HEAD gets the headers of the body and no body (RFC 9110 section 9.3.2).
        content_type: the request's; gRPC is answered with status 200 and trailers-only headers.
        accept: the request's; where it names JSON, that is what it gets (RFC 9457). None: nobody gets any.
    """
    if decision.allowed:
        raise ValueError("an allowed request is answered by the application")
    extra = decision.edits.response_headers
    if decision.outcome in _GRPC_STATUS and _is_grpc(content_type):
        return Response(
            200,
            (
                ("content-type", "application/grpc"),
                ("grpc-status", str(_GRPC_STATUS[decision.outcome])),
                ("grpc-message", decision.message),
                ("content-length", "0"),
                *(line for line in extra if line[0].lower() != "content-type"),
            ),
            b"",
        )
    if accept is not None and decision.edits.body is None:
        extra = (("vary", "accept"), *extra)
        if wants_problem(accept):
            body = problem_body(decision)
            headers = (("content-type", PROBLEM_JSON), ("content-length", str(len(body))), *extra)
            return Response(decision.status, headers, b"" if method == "HEAD" else body)
    body = decision.message.encode("utf-8") if decision.edits.body is None else decision.edits.body
    typed = not body or any(name.lower() == "content-type" for name, _ in extra)
    kind = () if typed and decision.edits.body is not None else (("content-type", "text/plain"),)
    headers = (*kind, ("content-length", str(len(body))), *extra)
    return Response(decision.status, headers, b"" if method == "HEAD" else body)


def _is_grpc(content_type: str) -> bool:
    return content_type == "application/grpc" or content_type.startswith(("application/grpc+", "application/grpc;"))
