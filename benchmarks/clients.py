"""What secure naming and rotation cost a client: ``python -m benchmarks.clients``.

Each HTTP client with a plain ``ssl.SSLContext``, which presents the same certificate, verifies the chain and looks at
no name, and with meshsec, which also finds the endpoint, judges who answers and follows renewals. One server, a
process of its own; requests over a connection that is kept, and requests that each need a new one. py-spiffe's
context stands beside them where it works, if spiffe-tls is installed. Times are the client's processor time; a ratio
is the median of the rounds' ratios, which are interleaved in random order.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any, Final

import aiohttp
import httpx
import httpx2
import requests
import requests.adapters
import urllib3

from meshsec import Mesh, MeshConfig, Workload
from meshsec.ca import CertificateAuthority, write_identity
from meshsec.clients.aiohttp import MeshConnector
from meshsec.clients.httpx import MeshTransport as HttpxTransport
from meshsec.clients.httpx2 import AsyncMeshTransport, MeshTransport
from meshsec.clients.requests import MeshAdapter
from meshsec.clients.urllib3 import MeshPoolManager
from meshsec.resources import Service
from meshsec.sources import Identity, StaticIdentity

ROUNDS: Final = 15
KEPT: Final = 200
NEW: Final = 25
ANSWER: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n%s\r\nok"
AUTHORITY: Final = CertificateAuthority.create("cluster.local")

Ask = Callable[..., None]
"""``ask(count, new=…)``: so many requests, each over a connection of its own or not."""


def account(name: str) -> str:
    """An identity of the mesh."""
    return f"spiffe://cluster.local/ns/prod/sa/{name}"


# ---------------------------------------------------------------- the server


def plain_context(role: int, folder: Path) -> ssl.SSLContext:
    """Python's own, mutual TLS 1.3."""
    context = ssl.SSLContext(role)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(folder / "cert-chain.pem", folder / "key.pem")
    context.load_verify_locations(folder / "root-cert.pem")
    return context


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        closing = False
        while not closing:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            closing = b"connection: close" in head
            writer.write(ANSWER % (b"connection: close\r\n" if closing else b""))
            await writer.drain()
    writer.close()


async def _serve(folder: Path) -> None:
    context = plain_context(ssl.PROTOCOL_TLS_SERVER, folder)
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    server = await asyncio.start_server(_answer, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[int]:
    command = [sys.executable, "-m", "benchmarks.clients", "serve", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield int(process.stdout.readline() if process.stdout else 0)
        finally:
            process.kill()


# ---------------------------------------------------------------- the clients

_CLOSE: Final = {"Connection": "close"}


class _PlainAdapter(requests.adapters.HTTPAdapter):
    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, ssl_context=self._context, assert_hostname=False, **options)

    def cert_verify(self, *_: Any) -> None:
        """The context is as it is to be."""


def _repeat(get: Callable[[dict[str, str]], Any]) -> Ask:
    def ask(count: int, *, new: bool) -> None:
        for _ in range(count):
            get(_CLOSE if new else {})

    return ask


def _requests(stack: ExitStack, adapter: requests.adapters.HTTPAdapter, url: str) -> Ask:
    session = stack.enter_context(requests.Session())
    session.trust_env = False
    session.mount("https://", adapter)
    return _repeat(lambda lines: session.get(url, headers=lines).content)


def _httpx(stack: ExitStack, module: Any, url: str, **options: Any) -> Ask:
    client = stack.enter_context(module.Client(trust_env=False, **options))
    return _repeat(lambda lines: client.get(url, headers=lines).content)


def _urllib3(stack: ExitStack, manager: urllib3.PoolManager, url: str) -> Ask:
    stack.enter_context(manager)
    return _repeat(lambda lines: manager.request("GET", url, headers=lines).data)


def _urllib(context: ssl.SSLContext, url: str) -> Ask:
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )

    def get(_: object) -> None:
        with opener.open(url) as response:
            response.read()

    return _repeat(get)


def _looped(
    stack: ExitStack, loop: asyncio.AbstractEventLoop, make: Callable[[], Any], get: Callable[..., Any]
) -> Ask:
    """A client of asyncio: made, used and closed in one loop."""
    inner = AsyncExitStack()
    client = loop.run_until_complete(inner.enter_async_context(_made(make)))
    stack.callback(lambda: loop.run_until_complete(inner.aclose()))

    async def many(count: int, *, new: bool) -> None:
        for _ in range(count):
            await get(client, _CLOSE if new else {})

    return lambda count, new: loop.run_until_complete(many(count, new=new))


@contextlib.asynccontextmanager
async def _made(make: Callable[[], Any]) -> Any:
    async with make() as client:
        yield client


def _of_httpx2(url: str) -> Callable[..., Any]:
    async def get(client: httpx2.AsyncClient, lines: dict[str, str]) -> None:
        await client.get(url, headers=lines)

    return get


def _of_aiohttp(url: str) -> Callable[..., Any]:
    async def get(client: aiohttp.ClientSession, lines: dict[str, str]) -> None:
        async with client.get(url, headers=lines) as response:
            await response.read()

    return get


def _plain(stack: ExitStack, loop: asyncio.AbstractEventLoop, context: Any, url: str) -> dict[str, Ask]:
    return {
        "urllib.request": _urllib(context, url),
        "urllib3": _urllib3(stack, urllib3.PoolManager(ssl_context=context, assert_hostname=False), url),
        "requests": _requests(stack, _PlainAdapter(context), url),
        "httpx2": _httpx(stack, httpx2, url, verify=context),
        "httpx": _httpx(stack, httpx, url, verify=context),
        "httpx2 async": _looped(
            stack, loop, lambda: httpx2.AsyncClient(verify=context, trust_env=False), _of_httpx2(url)
        ),
        "aiohttp": _looped(
            stack,
            loop,
            lambda: aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)),
            _of_aiohttp(url),
        ),
    }


def _meshsec(stack: ExitStack, loop: asyncio.AbstractEventLoop, mesh: Mesh, direct: str) -> dict[str, Ask]:
    url = "https://reviews.prod/"
    return {
        "urllib.request": _urllib(mesh.client_context(account("reviews")), direct),
        "urllib3": _urllib3(stack, MeshPoolManager(mesh), url),
        "requests": _requests(stack, MeshAdapter(mesh), url),
        "httpx2": _httpx(stack, httpx2, url, transport=MeshTransport(mesh)),
        "httpx": _httpx(stack, httpx, url, transport=HttpxTransport(mesh)),
        "httpx2 async": _looped(
            stack,
            loop,
            lambda: httpx2.AsyncClient(transport=AsyncMeshTransport(mesh), trust_env=False),
            _of_httpx2(url),
        ),
        "aiohttp": _looped(
            stack, loop, lambda: aiohttp.ClientSession(connector=MeshConnector(mesh)), _of_aiohttp(url)
        ),
    }


# ---------------------------------------------------------------- py-spiffe


def _pyspiffe(folder: Path, url: str) -> dict[str, Ask]:
    """Where its context works: not under asyncio, nor where a client sets it up for each connection anew."""
    from spiffetls import SpiffeSSLContext  # type: ignore[import-not-found, unused-ignore]

    from spiffe import SpiffeId, TrustDomain, X509Bundle, X509Svid

    class Source:
        """Its own source, without an agent."""

        svid = X509Svid.load(str(folder / "cert-chain.pem"), str(folder / "key.pem"), _encoding())
        bundle = X509Bundle.parse(TrustDomain("cluster.local"), (folder / "root-cert.pem").read_bytes())
        bundles = frozenset({bundle})

        def get_bundle_for_trust_domain(self, _domain: object) -> Any:
            return self.bundle

        def subscribe_for_updates(self, _callback: object) -> None:
            """Nothing changes."""

    if Source.svid.spiffe_id != SpiffeId(account("web")):
        raise RuntimeError("py-spiffe reads another identity")

    return {"urllib.request": _urllib(SpiffeSSLContext(Source()), url)}


def _encoding() -> Any:
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.PEM


# ---------------------------------------------------------------- measuring


def _microseconds(ask: Ask, count: int, *, new: bool) -> float:
    gc.collect()
    start = time.process_time()
    ask(count, new=new)
    return (time.process_time() - start) / count * 1e6


def _measured(variants: dict[str, dict[str, Ask]]) -> dict[tuple[str, str, bool], list[float]]:
    cases = [(name, kind, new) for kind, asks in variants.items() for name in asks for new in (False, True)]
    found: dict[tuple[str, str, bool], list[float]] = {case: [] for case in cases}
    for name, kind, new in cases:
        variants[kind][name](5, new=new)
    for _ in range(ROUNDS):
        for case in random.sample(cases, len(cases)):
            name, kind, new = case
            found[case].append(_microseconds(variants[kind][name], NEW if new else KEPT, new=new))
    return found


def _print(found: dict[tuple[str, str, bool], list[float]]) -> None:
    names = list(dict.fromkeys(name for name, _, _ in found))
    print("client            kept: plain  meshsec  ratio     new: plain  meshsec  ratio  py-spiffe")
    for name in names:
        line = f"{name:15}"
        for new in (False, True):
            if name == "urllib.request" and not new:
                line += f"{'it keeps no connection':>30}"
                continue
            plain, ours = found[name, "plain", new], found[name, "meshsec", new]
            ratio = statistics.median(b / a for a, b in zip(plain, ours, strict=True))
            line += f"{statistics.median(plain):14.0f}{statistics.median(ours):9.0f}{ratio:7.2f}"
        theirs = found.get((name, "py-spiffe", True))
        print(line + (f"{statistics.median(theirs):11.0f}" if theirs else ""))


def main() -> None:
    """Print a line for each client, in microseconds of the client's processor time for each request."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_identity(folder / "reviews", AUTHORITY.issue_x509_svid(account("reviews")), AUTHORITY.bundle)
        own = AUTHORITY.issue_x509_svid(account("web"))
        write_identity(folder / "web", own, AUTHORITY.bundle)
        port = stack.enter_context(_server(folder / "reviews"))
        service = Service(ids=(account("reviews"),), endpoints=(f"127.0.0.1:{port}",))
        mesh = stack.enter_context(
            Mesh(
                workload=Workload(name="web", namespace="prod", service_account="web"),
                config=MeshConfig(services={"reviews.prod": service}, allow_no_policy=True),
                identity=StaticIdentity(Identity(own, AUTHORITY.bundle)),
            )
        )
        loop = asyncio.new_event_loop()
        stack.callback(loop.close)
        url = f"https://127.0.0.1:{port}/"
        variants = {
            "plain": _plain(stack, loop, plain_context(ssl.PROTOCOL_TLS_CLIENT, folder / "web"), url),
            "meshsec": _meshsec(stack, loop, mesh, url),
        }
        try:
            variants["py-spiffe"] = _pyspiffe(folder / "web", url)
        except ImportError:
            print("spiffe-tls is not installed", file=sys.stderr)
        _print(_measured(variants))


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(_serve(Path(sys.argv[2])))
    else:
        main()
