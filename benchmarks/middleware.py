"""What protecting an application costs on the wire: ``python -m benchmarks.middleware``.

One uvicorn process for each variant, all up at once; a small load generator (keep-alive connections, one request in
flight on each) visits them in turn, in random order, round after round. A ratio is the median of the rounds' ratios
to the bare application of the same kind. Every protected variant gets the same RS256 token; meshsec also judges
eleven rules. Server and load generator share the machine, so only ratios mean anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Final

from meshsec import Mesh, MeshConfig, Workload
from meshsec.resources import KeysConfig, parse
from meshsec.testing import TestIssuer

CONNECTIONS: Final = 16
SECONDS: Final = 1.0
ROUNDS: Final = 7
PATIENCE: Final = 30.0
ISSUER: Final = "https://issuer.example"

# Variant, and the bare application that it is compared with.
VARIANTS: Final = {
    "asgi_plain": "asgi_plain",
    "asgi_cached": "asgi_plain",
    "asgi_uncached": "asgi_plain",
    "fastapi_plain": "fastapi_plain",
    "fastapi_cached": "fastapi_plain",
    "fastapi_pyjwt": "fastapi_plain",
}


# ------------------------------------------------------------------------------------------------ the applications


def _policies() -> str:
    rules: list[dict[str, Any]] = [{"to": [{"operation": {"paths": [f"/nowhere/{number}"]}}]} for number in range(10)]
    rules.append({"to": [{"operation": {"paths": ["/"], "methods": ["GET"]}}]})
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


def _mesh(*, cached: bool) -> Mesh:
    config = MeshConfig(keys=KeysConfig(token_cache=cached))
    return Mesh(workload=Workload(name="bench"), resources=parse(_policies()), config=config)


async def _hello(_scope: Any, _receive: Any, send: Any) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


def _fastapi(dependencies: list[Any] | None = None) -> Any:
    fastapi = import_module("fastapi")
    responses = import_module("fastapi.responses")
    app = fastapi.FastAPI(dependencies=dependencies)

    async def hello() -> Any:
        return responses.PlainTextResponse("hello")

    app.get("/", response_model=None)(hello)
    return app


def asgi_plain() -> Any:
    """A bare ASGI application."""
    return _hello


def asgi_cached() -> Any:
    """The same behind meshsec."""
    return _mesh(cached=True).asgi(_hello)


def asgi_uncached() -> Any:
    """The same, every token verified anew."""
    return _mesh(cached=False).asgi(_hello)


def fastapi_plain() -> Any:
    """A bare FastAPI application."""
    return _fastapi()


def fastapi_cached() -> Any:
    """The same behind meshsec."""
    return _mesh(cached=True).asgi(_fastapi())


def fastapi_pyjwt() -> Any:
    """The same with the dependency that many write by hand."""
    fastapi, security, jwt = import_module("fastapi"), import_module("fastapi.security"), import_module("jwt")
    key = jwt.PyJWK(json.loads(os.environ["BENCH_JWKS"])["keys"][0])
    bearer = security.HTTPBearer()

    async def user(credentials: Any) -> Any:
        try:
            return jwt.decode(credentials.credentials, key, algorithms=["RS256"], audience="web", issuer=ISSUER)
        except jwt.PyJWTError as error:
            raise fastapi.HTTPException(401) from error

    user.__annotations__ = {"credentials": security.HTTPAuthorizationCredentials}
    user.__defaults__ = (fastapi.Depends(bearer),)
    return _fastapi([fastapi.Depends(user)])


# ------------------------------------------------------------------------------------------------ the load


class _Client(asyncio.Protocol):
    """One connection: the next request goes out when the answer is in."""

    def __init__(self, request: bytes, until: float) -> None:
        self.request = request
        self.until = until
        self.answers = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.WriteTransport):
            raise TypeError("not a connection")
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if not self._seen.endswith(b"hello"):
            return
        if not self._seen.startswith(b"HTTP/1.1 200"):
            raise SystemExit(self._seen.decode())
        self._seen = b""
        self.answers += 1
        if time.perf_counter() < self.until:
            self.transport.write(self.request)
        else:
            self.transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None)


async def _load(port: int, request: bytes) -> float:
    """Answers in one second."""
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    clients = []
    for _ in range(CONNECTIONS):
        _, client = await loop.create_connection(lambda: _Client(request, began + SECONDS), "127.0.0.1", port)
        clients.append(client)
    for client in clients:
        await client.over
    return sum(client.answers for client in clients) / (time.perf_counter() - began)


@contextlib.contextmanager
def serving(variant: str, jwks: str) -> Iterator[int]:
    """A uvicorn process; its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = ["--factory", f"benchmarks.middleware:{variant}", "--port", str(port), "--no-access-log"]
    command = [sys.executable, "-m", "uvicorn", *arguments, "--log-level", "warning"]
    server = subprocess.Popen(command, env={**os.environ, "BENCH_JWKS": jwks})
    try:
        _wait_for(port, server)
        yield port
    finally:
        server.terminate()
        server.wait()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise SystemExit("a server did not start")


def main() -> None:
    """Print one line for each variant."""
    issuer = TestIssuer(ISSUER, algorithm="RS256")
    token = issuer.token(aud="web", groups=["readers"], scope="read write", lifetime=3600)
    request = f"GET / HTTP/1.1\r\nhost: bench\r\naccept: */*\r\nauthorization: Bearer {token}\r\n\r\n".encode()
    rates: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    with contextlib.ExitStack() as stack:
        ports = {variant: stack.enter_context(serving(variant, issuer.jwks)) for variant in VARIANTS}
        order = list(VARIANTS)
        for number in range(ROUNDS + 1):
            random.shuffle(order)
            for variant in order:
                rate = asyncio.run(_load(ports[variant], request))
                if number:  # the first round warms up
                    rates[variant].append(rate)
    for variant, bare in VARIANTS.items():
        ratio = statistics.median(one / other for one, other in zip(rates[variant], rates[bare], strict=True))
        print(f"{statistics.median(rates[variant]):9.0f} requests/s  {ratio:6.3f} x {bare:14} {variant}")


if __name__ == "__main__":
    main()
