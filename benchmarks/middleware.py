"""What protecting an application costs on the wire: ``python -m benchmarks.middleware``.

One uvicorn process (uvloop, httptools) for each variant, all up at once; a load generator in a process of its own
(:mod:`benchmarks.load`) visits them in turn, in random order, round after round. Where the machine has two processors
the servers have the one and the load generator the other. A ratio is the median of the rounds' ratios to another
variant of the same round. Every protected variant gets the same RS256 token; meshsec also judges eleven rules, and
serves with its own protocol class, as :func:`meshsec.servers.uvicorn.run` does.

``repeated``: the same request again and again. ``tagged``: each with another ``x-request-id``. ``anew``: each with
another path, so that every decision is made anew, for a caller who is known. ``whole``: the same without the memo,
all of every request judged, its token known. ``uncached``: every token verified, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from typing import Any, Final

from meshsec import Mesh, MeshConfig, Workload
from meshsec.resources import KeysConfig, parse
from meshsec.servers.uvicorn import protocol_class
from meshsec.testing import TestIssuer

CONNECTIONS: Final = 16
SECONDS: Final = 0.5
ROUNDS: Final = 7
PATIENCE: Final = 30.0
ISSUER: Final = "https://issuer.example"

# Variant, and those that it is compared with.
VARIANTS: Final = {
    "asgi_plain": (),
    "asgi_repeated": ("asgi_plain",),
    "asgi_tagged": ("asgi_plain",),
    "asgi_anew": ("asgi_plain",),
    "asgi_whole": ("asgi_plain",),
    "asgi_uncached": ("asgi_plain",),
    "fastapi_plain": (),
    "fastapi_repeated": ("fastapi_plain", "fastapi_pyjwt_client", "fastapi_pyjwt_key"),
    "fastapi_tagged": ("fastapi_plain", "fastapi_pyjwt_client", "fastapi_pyjwt_key"),
    "fastapi_anew": ("fastapi_plain", "fastapi_pyjwt_client", "fastapi_pyjwt_key"),
    "fastapi_pyjwt_client": ("fastapi_plain",),
    "fastapi_pyjwt_key": ("fastapi_plain",),
}
UNPROTECTED: Final = {name for name in VARIANTS if "plain" in name or "pyjwt" in name}


# ------------------------------------------------------------------------------------------------ the applications


def _policies() -> str:
    rules: list[dict[str, Any]] = [{"to": [{"operation": {"paths": [f"/nowhere/{number}"]}}]} for number in range(10)]
    rules.append({"to": [{"operation": {"paths": ["/items/*"], "methods": ["GET"]}}]})
    rules[-1]["when"] = [{"key": "request.auth.claims[groups]", "values": ["readers"]}]
    users = {"jwtRules": [{"issuer": ISSUER, "audiences": ["web"], "jwks": os.environ["BENCH_JWKS"]}]}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "List",
            "items": [
                _resource("RequestAuthentication", users),
                _resource("AuthorizationPolicy", {"rules": rules}),
            ],
        }
    )


def _resource(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": {"name": "bench"}, "spec": spec}


def _mesh(*, memo: bool = True, cached: bool = True) -> Mesh:
    config = MeshConfig(keys=KeysConfig(token_cache=cached), decision_memo=memo)
    return Mesh(workload=Workload(name="bench"), resources=parse(_policies()), config=config)


async def _hello(_scope: Any, _receive: Any, send: Any) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


def _fastapi(dependencies: list[Any] | None = None) -> Any:
    fastapi = import_module("fastapi")
    responses = import_module("fastapi.responses")
    app = fastapi.FastAPI(dependencies=dependencies)

    async def hello(number: int) -> Any:  # noqa: ARG001 - FastAPI reads it
        return responses.PlainTextResponse("hello")

    app.get("/items/{number}", response_model=None)(hello)
    return app


def asgi_plain() -> Any:
    """A bare ASGI application."""
    return _hello


def asgi_repeated() -> Any:
    """The same behind meshsec."""
    return _mesh().asgi(_hello)


asgi_tagged = asgi_anew = asgi_repeated


def asgi_whole() -> Any:
    """The same, nothing but tokens remembered."""
    return _mesh(memo=False).asgi(_hello)


def asgi_uncached() -> Any:
    """The same, every token verified anew."""
    return _mesh(memo=False, cached=False).asgi(_hello)


def fastapi_plain() -> Any:
    """A bare FastAPI application."""
    return _fastapi()


def fastapi_repeated() -> Any:
    """The same behind meshsec."""
    return _mesh().asgi(_fastapi())


fastapi_tagged = fastapi_anew = fastapi_repeated


def fastapi_pyjwt_key() -> Any:
    """The same with the dependency that many write by hand, its one key at hand."""
    jwt = import_module("jwt")
    key = jwt.PyJWK(json.loads(os.environ["BENCH_JWKS"])["keys"][0])
    return _by_hand(lambda _: key)


def fastapi_pyjwt_client() -> Any:
    """The same, its keys from PyJWKClient, as PyJWT's documentation has it."""
    client = import_module("jwt").PyJWKClient(os.environ["BENCH_JWKS_URL"])
    return _by_hand(client.get_signing_key_from_jwt)


def _by_hand(key_of: Callable[[str], Any]) -> Any:
    fastapi, security, jwt = import_module("fastapi"), import_module("fastapi.security"), import_module("jwt")
    bearer = security.HTTPBearer()

    async def user(credentials: Any) -> Any:
        token = credentials.credentials
        try:
            return jwt.decode(token, key_of(token), algorithms=["RS256"], audience="web", issuer=ISSUER)
        except jwt.PyJWTError as error:
            raise fastapi.HTTPException(401) from error

    user.__annotations__ = {"credentials": security.HTTPAuthorizationCredentials}
    user.__defaults__ = (fastapi.Depends(bearer),)
    return _fastapi([fastapi.Depends(user)])


# ------------------------------------------------------------------------------------------------ the load


@contextlib.contextmanager
def key_server(jwks: str) -> Iterator[str]:
    """The URL of a key set."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(jwks)))
            self.end_headers()
            self.wfile.write(jwks.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/jwks"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def serving(variant: str, keys: dict[str, str]) -> Iterator[int]:
    """A uvicorn process; its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = ["--factory", f"benchmarks.middleware:{variant}", "--port", str(port), "--no-access-log"]
    protocol = "httptools" if variant in UNPROTECTED else protocol_class("httptools")
    command = [sys.executable, "-m", "uvicorn", *arguments, "--loop", "uvloop", "--http", protocol]
    server = subprocess.Popen([*command, "--log-level", "warning"], env={**os.environ, **keys})
    _pin(server.pid, 0)
    try:
        _wait_for(port, server)
        yield port
    finally:
        server.terminate()
        server.wait()


def _pin(process: int, which: int) -> None:
    """To one of two processors; where there is only one, or no way to say so, nothing."""
    allowed = _processors()
    if len(allowed) > 1:
        os.sched_setaffinity(process, {allowed[which]})


def _processors() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise SystemExit("a server did not start")


def _load(port: int, request: bytes) -> float:
    """Answers in one second."""
    patience = 0 if len(_processors()) > 1 else 1
    command = [sys.executable, "-m", "benchmarks.load", *map(str, (port, CONNECTIONS, SECONDS, patience))]
    client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    _pin(client.pid, 1)
    told, _ = client.communicate(request)
    if client.returncode:
        raise SystemExit("the load generator failed")
    return float(told)


def main() -> None:
    """Print one line for each variant."""
    issuer = TestIssuer(ISSUER, algorithm="RS256")
    token = issuer.token(aud="web", groups=["readers"], scope="read write", lifetime=3600)
    head = f"HTTP/1.1\r\nhost: bench\r\naccept: */*\r\nauthorization: Bearer {token}\r\n"
    usual = f"GET /items/1 {head}\r\n"
    requests = {
        "anew": f"GET /items/{{number}} {head}\r\n",
        "tagged": f"GET /items/1 {head}x-request-id: {{number}}\r\n\r\n",
    }
    rates: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    with contextlib.ExitStack() as stack:
        keys = {"BENCH_JWKS": issuer.jwks, "BENCH_JWKS_URL": stack.enter_context(key_server(issuer.jwks))}
        ports = {variant: stack.enter_context(serving(variant, keys)) for variant in VARIANTS}
        order = list(VARIANTS)
        for number in range(ROUNDS + 1):
            random.shuffle(order)
            for variant in order:
                rate = _load(ports[variant], requests.get(variant.partition("_")[2], usual).encode())
                if number:  # the first round warms up
                    rates[variant].append(rate)
    for variant, others in VARIANTS.items():
        ratios = (
            (statistics.median(one / it for one, it in zip(rates[variant], rates[other], strict=True)), other)
            for other in others
        )
        told = ", ".join(f"{ratio:.2f} x {other}" for ratio, other in ratios)
        print(f"{statistics.median(rates[variant]):9.0f} requests/s  {variant:21} {told}")


if __name__ == "__main__":
    main()
