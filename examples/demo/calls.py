"""The calls from outside, as a table of data, and how one is made: plain sockets of the standard library.

The impostor alone is called with meshsec's own client, because it is that client which must see through it.
"""

from __future__ import annotations

import http.client
import re
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from socket import SHUT_RDWR, create_server, socket
from typing import Final

import httpx2

from meshsec import ConfigError, Mesh, MeshsecError
from meshsec.clients.httpx2 import MeshTransport

from .world import WRITTEN, World, copy_mesh, wait_for

__all__ = ["CALLS", "Call", "Result", "make"]

NO_TLS: Final = "no TLS"  # the handshake was refused: no HTTP was spoken
NO_CALL: Final = "no call"  # our client refused: not one byte of a request left


@dataclass(frozen=True, slots=True)
class Call:
    """One row: who asks whom for what with which token, and what must come back.

    Attributes:
        caller: whose certificate is shown; see ``_MADE_BY`` for those that show none.
        service: who is asked.
        path: the request target, exactly as it goes out.
        token: a name in ``tokens.TOKENS``; empty for no token.
        expected: the status, and for a refusal its reason code; or that no HTTP is spoken.
    """

    caller: str
    service: str
    path: str
    token: str
    expected: str


CALLS: Final = (
    Call("ingress", "productpage", "/health", "", "200"),
    Call("ingress", "productpage", "/health", "expired", "200"),
    Call("ingress", "productpage", "/reviews/1", "", "401 jwt_missing"),
    Call("ingress", "productpage", "/reviews/1", "alice", "200"),
    Call("ingress", "productpage", "/reviews/1", "alice (ES256)", "200"),
    Call("ingress", "productpage", "/reviews/1", "expired", "401 jwt_expired"),
    Call("ingress", "productpage", "/reviews/1", "other audience", "403 jwt_audience"),
    Call("ingress", "productpage", "/reviews/1", "other issuer", "401 jwt_issuer"),
    Call("ingress", "productpage", "/reviews/1", "tampered", "401 jwt_signature"),
    Call("ingress", "productpage", "/reviews/1", "alg: none", "401 jwt_malformed"),
    Call("ingress", "productpage", "/reviews/1", "alg: none, padded", "401 jwt_algorithm"),
    Call("ingress", "productpage", "/reviews/1", "unknown key", "401 jwt_unknown_key"),
    Call("ingress", "productpage", "/admin", "ada, an admin", "200"),
    Call("ingress", "productpage", "/admin", "alice", "403 deny_rule"),
    Call("ingress", "productpage", "//admin", "alice", "403 deny_rule"),
    Call("ingress", "productpage", "/%61dmin", "alice", "403 deny_rule"),
    Call("ingress", "productpage", "/%61dmin", "ada, an admin", "200"),
    Call("ingress", "productpage", "/x/../admin", "alice", "403 deny_rule"),
    Call("ingress", "productpage", "/admin%0a", "alice", "400 target_control_character"),
    Call("ingress", "reviews", "/reviews/1", "alice", "403 no_allow_rule"),
    Call("intruder", "productpage", "/reviews/1", "alice", "403 no_allow_rule"),
    Call("intruder", "reviews", "/reviews/1", "ada, an admin", "403 no_allow_rule"),
    Call("foreign CA", "productpage", "/health", "alice", NO_TLS),
    Call("foreign CA", "reviews", "/health", "alice", NO_TLS),
    Call("no certificate", "productpage", "/health", "alice", NO_TLS),
    Call("plain HTTP", "reviews", "/health", "alice", NO_TLS),
    Call("productpage", "an impostor", "/reviews/1", "alice", NO_CALL),
)


@dataclass(frozen=True, slots=True)
class Result:
    """What came back, and why, in one line."""

    call: Call
    came: str
    why: str

    @property
    def as_expected(self) -> bool:
        """Whether the row holds."""
        return self.came == self.call.expected


def make(world: World, call: Call, tokens: Mapping[str, str]) -> Result:
    """Make one call and find out why it ended as it did."""
    headers = {"x-request-id": uuid.uuid4().hex}
    if call.token:
        headers["authorization"] = f"Bearer {tokens[call.token]}"
    came, why = _MADE_BY.get(call.caller, _over_tls)(world, call, headers)
    return Result(call, came, why)


Headers = Mapping[str, str]


def _over_tls(world: World, call: Call, headers: Headers) -> tuple[str, str]:
    """With the caller's certificate, as any client of the mesh would."""
    certificate = {"foreign CA": "foreign", "no certificate": None}.get(call.caller, call.caller)
    seen = len(_handshakes(world, call.service))
    try:
        status, _ = world.ask(certificate, call.service, call.path, headers=headers)
    except (ssl.SSLError, ConnectionError, http.client.HTTPException):
        # TLS 1.3: the client's side is done before the server has judged, so the refusal shows at the first read.
        return NO_TLS, _new_handshake_line(world, call.service, seen)
    why = _decision_line(world, call.service, headers["x-request-id"])
    reason = "" if status == 200 else f" {why.partition('(')[2].partition(')')[0]}"
    return f"{status}{reason}", _in_one_line(why)


def _in_plain(world: World, call: Call, headers: Headers) -> tuple[str, str]:
    """HTTP without TLS, to the port that speaks TLS."""
    with closing(http.client.HTTPConnection("127.0.0.1", world.port(call.service), timeout=10)) as connection:
        seen = len(_handshakes(world, call.service))
        try:
            connection.request("GET", call.path, headers=dict(headers))
            return str(connection.getresponse().status), ""
        except (OSError, http.client.HTTPException):
            return NO_TLS, _new_handshake_line(world, call.service, seen)


def _to_an_impostor(world: World, call: Call, headers: Headers) -> tuple[str, str]:
    """With meshsec's client, in a mesh whose table of services has an impostor's endpoint for reviews."""
    with _impostor(world) as (port, received):
        folder = world.folder / "impostor"
        copy_mesh(folder, {name: world.port(name) for name in WRITTEN.values()} | {"reviews": port})
        (folder / "mesh.yaml").write_text(_with_identity(folder, world.identity(call.caller)), encoding="utf-8")
        with Mesh.load(folder, workload=call.caller) as mesh, httpx2.Client(transport=MeshTransport(mesh)) as client:
            try:
                answer = client.get(f"https://reviews.prod{call.path}", headers=headers)
            except (MeshsecError, httpx2.TransportError) as error:
                heard = sum(map(len, received))
                return NO_CALL if not heard else f"{heard} bytes sent", _cause(error)
            return str(answer.status_code), "the impostor was believed"


_MADE_BY: Final[dict[str, Callable[[World, Call, Headers], tuple[str, str]]]] = {
    "plain HTTP": _in_plain,
    "productpage": _to_an_impostor,
}


def _with_identity(folder: Path, identity: Path) -> str:
    """mesh.yaml with one line more: where productpage's certificates are."""
    text = (folder / "mesh.yaml").read_text(encoding="utf-8")
    here = "    serviceAccount: productpage\n"
    if text.count(here) != 1:
        raise ConfigError("mesh.yaml does not name productpage's service account once")
    return text.replace(here, f"{here}    identity: {{files: {identity}}}\n")


@contextmanager
def _impostor(world: World) -> Iterator[tuple[int, list[bytes]]]:
    """A TLS server under the intruder's certificate; it takes down every byte of HTTP that it hears."""
    folder = world.identity("intruder")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert-chain.pem", folder / "key.pem")
    received: list[bytes] = []

    def serve(listener: socket) -> None:
        with suppress(OSError):
            while True:
                plain, _ = listener.accept()
                with suppress(OSError), context.wrap_socket(plain, server_side=True) as connection:
                    connection.settimeout(5)
                    received.append(connection.recv(65536))
                    if received[-1]:
                        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    with create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1], received
        finally:
            with suppress(OSError):
                listener.shutdown(SHUT_RDWR)
            thread.join(10)


def _cause(error: BaseException) -> str:
    """The innermost reason: HTTP clients wrap what a TLS layer raises."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return str(error)


def _handshakes(world: World, service: str) -> list[str]:
    return [line for line in world.log(service) if line.startswith("meshsec.tls ")]


def _new_handshake_line(world: World, service: str, seen: int) -> str:
    """Why a service refused a handshake: the newest line of its logger."""
    lines: list[str] = []

    def logged() -> bool:
        lines[:] = _handshakes(world, service)[seen:]
        return bool(lines)

    with suppress(TimeoutError):
        wait_for(logged, "the refused handshake in the log", patience=3)
    return lines[-1].partition(" ")[2] if lines else "(nothing was logged)"


def _decision_line(world: World, service: str, request_id: str) -> str:
    """Why a service decided as it did: the line with this request's id."""
    mark = f"request_id='{request_id}': "
    lines: list[str] = []

    def logged() -> bool:
        lines[:] = [line.partition(mark)[2] for line in world.log(service) if mark in line]
        return bool(lines)

    with suppress(TimeoutError):
        wait_for(logged, "the decision in the log", patience=3)
    return lines[0] if lines else "(nothing was logged)"


def _in_one_line(explanation: str) -> str:
    """The summary's words and the rule they speak of; status and reason stand in a column of their own."""
    summary = re.split(r" \| +", explanation)[0]
    by, _, words = summary.partition(")")[2].partition(": ")
    return f"{by.strip().removeprefix('by ')}: {words}" if by else words
