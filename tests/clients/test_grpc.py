"""gRPC both ways: grpcio and grpclib serve and call, under the same policies as any other server and client."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import stat
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from hashlib import sha256
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Semaphore
from typing import Any

import grpc
import grpc.aio
import grpclib.client
import grpclib.config
import grpclib.const
import grpclib.exceptions
import pytest

from forking import in_child
from grpcs import METHODS, SERVERS, Raw, Serving, add_to, by_aio, by_grpcio, by_grpclib
from live import FULL, free_port
from meshsec import Connection, Decision, Mesh, MeshConfig, Reason, SvidError, Workload, WorkloadPolicy
from meshsec.ca import write_identity
from meshsec.clients import JwtSvidToken
from meshsec.clients import tunnel as tunnel_module
from meshsec.clients.grpclib import MeshChannel
from meshsec.clients.tunnel import Tunnel
from meshsec.resources import Service, parse
from meshsec.servers._grpc import called
from meshsec.sources import Identity
from meshsec.testing import TestIssuer
from threadless import no_more_threads
from world import World

POLICY = """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: users, namespace: prod}
spec: {jwtRules: [{issuer: https://issuer.example, jwks: JWKS}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web, namespace: prod}
spec:
  rules:
  - from: [{source: {principals: [cluster.local/ns/prod/sa/web]}}]
    to: [{operation: {methods: [POST], hosts: [reviews.prod], paths: [/demo.Whom/*]}}]
    when: [{key: "request.headers[x-tenant]", values: [red]}]
"""
TENANT = (("x-tenant", "red"),)
ONE_HOST = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: shop, namespace: default}
spec: {action: DENY, rules: [{to: [{operation: {hosts: [shop.prod]}}]}]}
"""


class Place:
    """One trust domain, its users' issuer, and reviews' policy."""

    def __init__(self) -> None:
        self.world = World()
        self.issuer = TestIssuer()
        self.reviews = self.serving("reviews")

    def serving(self, account: str) -> Mesh:
        """The mesh of a server that has an account's SVID."""
        return Mesh(
            workload=Workload(name="reviews", namespace="prod", service_account=account),
            resources=parse(POLICY.replace("JWKS", json.dumps(self.issuer.jwks))),
            identity=self.world.identity(account),
        )

    def caller(self, account: str, *ports: int) -> Mesh:
        """The mesh of a caller that knows where reviews is."""
        endpoints = tuple(f"127.0.0.1:{port}" for port in ports)
        service = Service(ids=(str(self.world.id("reviews")),), endpoints=endpoints)
        return self.world.mesh(account, {"reviews.prod": service})


@pytest.fixture(scope="module")
def place() -> Place:
    """One for all tests."""
    return Place()


@pytest.fixture(scope="module", params=SERVERS, ids=lambda serving: serving.__name__)
def port(place: Place, request: pytest.FixtureRequest) -> Iterator[int]:
    """Where each kind of server serves reviews."""
    with request.param(place.reviews) as port:
        yield port


def ask(channel: grpc.Channel, method: str = "One", metadata: Any = TENANT) -> list[bytes]:
    """One call of any kind, and its answers."""
    path, options = f"/demo.Whom/{method}", {"metadata": metadata, "timeout": 20}
    if method == "One":
        return [channel.unary_unary(path)(b"", **options)]
    if method == "Many":
        return list(channel.unary_stream(path)(b"", **options))
    if method == "Sum":
        return [channel.stream_unary(path)(iter([b"", b""]), **options)]
    return list(channel.stream_stream(path)(iter([b"", b""]), **options))


def through(mesh: Mesh, method: str = "One", metadata: Any = TENANT) -> list[bytes]:
    """The same through a tunnel of its own."""
    with Tunnel(mesh, "reviews.prod") as tunnel, grpc.insecure_channel(tunnel.target, options=tunnel.options) as it:
        return ask(it, method, metadata)


def refused(mesh: Mesh, metadata: Any = TENANT, method: str = "One") -> Any:
    """With which status a call ends."""
    with pytest.raises(grpc.RpcError) as error:
        through(mesh, method, metadata)
    return error.value.code()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def honest(place: Place) -> Iterator[int]:
    """One server of reviews."""
    with by_grpcio(place.reviews) as port:
        yield port


class Changing:
    """An identity that is issued anew at will."""

    origin = "memory"

    def __init__(self, world: World, account: str) -> None:
        self._world, self._account = world, account
        self.identity = world.identity(account).identity

    def renew(self, mesh: Mesh) -> bytes:
        """Another certificate, put in force as the mesh's thread would; its digest in hexadecimal."""
        self.identity = self._world.identity(self._account).identity
        mesh._identity.refresh(time.time())  # type: ignore[union-attr]
        return sha256(self.identity.svid.chain[0]).hexdigest().encode()

    def read(self, now: float) -> Identity:
        return self.identity


@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_call_reaches_its_handler_judged(place: Place, port: int, method: str) -> None:
    """The handler knows who calls, and gets no token."""
    token = place.issuer.token(sub="ada")
    answers = through(place.caller("web", port), method, (*TENANT, ("authorization", f"Bearer {token}")))
    assert {answer.rpartition(b" ")[0] for answer in answers} == {b"spiffe://cluster.local/ns/prod/sa/web ada None"}


@pytest.mark.parametrize("method", METHODS)
def test_a_call_that_no_rule_allows_is_permission_denied(place: Place, port: int, method: str) -> None:
    """Another workload; another tenant in the metadata."""
    assert refused(place.caller("other", port), method=method) is grpc.StatusCode.PERMISSION_DENIED
    assert refused(place.caller("web", port), (("x-tenant", "blue"),), method) is grpc.StatusCode.PERMISSION_DENIED


def test_a_bad_token_is_unauthenticated(place: Place, port: int) -> None:
    """Whoever the workload is."""
    token = place.issuer.token(lifetime=-600)
    metadata = (*TENANT, ("authorization", f"Bearer {token}"))
    assert refused(place.caller("web", port), metadata) is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("compatibility", ["safe", "istio"])
@pytest.mark.parametrize("metadata", [[], [("host", "elsewhere")], [("Host", "elsewhere"), ("host", "x")]])
def test_no_client_chooses_the_host(compatibility: Any, metadata: list[tuple[str, str]]) -> None:
    """What rules see is the host that the server is, whatever stands in the metadata."""
    config = MeshConfig(compatibility=compatibility, allow_no_policy=True)
    policy = WorkloadPolicy.compile(parse(ONE_HOST), Workload(name="web"), config)
    for host, reason in (("shop.prod", Reason.DENY_RULE), ("elsewhere.prod", Reason.NO_ALLOW_POLICY)):
        asked = called("/a.B/C", metadata, host, Connection())
        decision = policy.decide(Connection(), asked, {}, now=1.0)
        assert isinstance(decision, Decision)
        assert decision.reason is reason


def test_a_client_of_another_authority_gets_no_call_through(place: Place, port: int) -> None:
    """The handshake fails, or the call does; the client trusts the server, not the other way round."""
    stranger = World()
    identity = stranger.identity("web").identity
    mixed = type(identity)(identity.svid, place.world.authority.bundle)
    mesh = Mesh(
        workload=Workload(name="web", namespace="prod", service_account="web"),
        config=MeshConfig(services=place.caller("web", port).config.services, allow_no_policy=True),
        identity=type(stranger.identity("web"))(mixed),
    )
    assert refused(mesh) in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED)


def test_a_client_without_a_certificate_is_not_served(port: int, place: Place) -> None:
    """gRPC's own TLS, which trusts the server by a name that it has not: the door is shut before that counts."""
    credentials = grpc.ssl_channel_credentials(place.world.authority.bundle.to_pem())
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel, pytest.raises(grpc.RpcError) as error:
        ask(channel)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]


async def everything_closed() -> None:
    """grpclib does not wait for what it closes; nothing but the loop's own pipe is open then."""
    async with asyncio.timeout(20):
        while len(asyncio.get_running_loop()._selector.get_map()) > 1:  # noqa: ASYNC110
            await asyncio.sleep(0)


def test_grpclib_calls_with_our_context(place: Place, port: int) -> None:
    """Its own channel takes an SSLContext."""
    mesh = place.caller("web", port)
    context = mesh.client_context()
    context.set_alpn_protocols(["h2"])

    async def call() -> bytes:
        config = grpclib.config.Configuration(ssl_target_name_override="reviews.prod")
        async with grpclib.client.Channel("127.0.0.1", port, ssl=context, config=config, codec=Raw()) as channel:
            answer = await asked(channel)
            channel._protocol.connection._transport.abort()  # gRPC's own servers never say goodbye
        await everything_closed()
        return answer[0]

    assert asyncio.run(call()).startswith(b"spiffe://cluster.local/ns/prod/sa/web")


# ---------------------------------------------------------------- grpclib's channel

KINDS = dict(
    zip(
        METHODS,
        (
            grpclib.client.UnaryUnaryMethod,
            grpclib.client.UnaryStreamMethod,
            grpclib.client.StreamUnaryMethod,
            grpclib.client.StreamStreamMethod,
        ),
        strict=True,
    )
)


async def asked(channel: grpclib.client.Channel, method: str = "One", metadata: Any = TENANT) -> list[bytes]:
    """One call of any kind, and its answers."""
    call: Any = KINDS[method](channel, f"/demo.Whom/{method}", bytes, bytes)
    answer = await call(b"" if method in ("One", "Many") else [b"", b""], metadata=dict(metadata), timeout=20)
    return answer if isinstance(answer, list) else [answer]


@asynccontextmanager
async def channel_of(mesh: Mesh, host: str = "reviews.prod", **options: Any) -> AsyncIterator[MeshChannel]:
    """A channel; nothing of it is open any more afterwards."""
    async with MeshChannel(mesh, host, codec=Raw(), **options) as channel:
        yield channel
    await everything_closed()


def by_channel(mesh: Mesh, method: str = "One", metadata: Any = TENANT, **options: Any) -> list[bytes]:
    """One call over a channel of its own."""

    async def call() -> list[bytes]:
        async with channel_of(mesh, **options) as channel:
            return await asked(channel, method, metadata)

    return asyncio.run(call())


@pytest.mark.parametrize("method", METHODS)
def test_a_channel_makes_every_kind_of_call(place: Place, port: int, method: str) -> None:
    """Over mutual TLS, to the mesh's endpoint."""
    answers = by_channel(place.caller("web", port), method)
    assert {answer.split()[0] for answer in answers} == {b"spiffe://cluster.local/ns/prod/sa/web"}


def test_a_channel_is_told_of_a_refusal(place: Place, port: int) -> None:
    """The twin: another workload calls."""
    with pytest.raises(grpclib.exceptions.GRPCError) as error:
        by_channel(place.caller("other", port))
    assert error.value.status is grpclib.const.Status.PERMISSION_DENIED


def test_a_channel_tries_the_next_endpoint(place: Place, honest: int) -> None:
    """Where the first is an impostor, or nobody."""
    with by_grpcio(place.serving("intruder")) as impostor:
        assert by_channel(place.caller("web", impostor, 1, honest))


def test_a_channel_does_not_call_an_impostor(place: Place) -> None:
    """Under the right name with a wrong SVID; no call arrives."""
    with by_grpcio(place.serving("intruder")) as impostor, pytest.raises(OSError, match="intruder"):
        by_channel(place.caller("web", impostor))


def test_an_unknown_service_has_no_channel(place: Place, honest: int) -> None:
    """The nearest name is told."""
    with pytest.raises(SvidError, match=r"reviews\.prod"):
        by_channel(place.caller("web", honest), host="review.prod")


def test_nothing_but_calls_makes_connections_of_a_channel(place: Place, honest: int) -> None:
    """The one that it would make by itself knows nothing of the mesh."""

    async def connect() -> None:
        async with channel_of(place.caller("web", honest)) as channel:
            await channel.__connect__()

    with pytest.raises(RuntimeError, match="bring their connection along"):
        asyncio.run(connect())


def test_a_token_travels_over_a_channel(place: Place, honest: int) -> None:
    """To the service that is listed for it; what the call says in authorization comes first."""
    token, other = place.issuer.token(sub="ada"), place.issuer.token(sub="eve")
    mesh = place.caller("web", honest)

    def users(*metadata: tuple[str, str], host: str = "reviews.prod") -> bytes:
        source = JwtSvidToken(lambda _: token, "reviews")
        return by_channel(mesh, metadata=(*TENANT, *metadata), tokens={host: source})[0].split()[1]

    assert users() == b"ada"
    assert users(host="ratings.prod") == b"None"
    assert users(("authorization", f"Bearer {other}")) == b"eve"


def renewing(place: Place, port: int) -> tuple[Mesh, Changing]:
    """A caller whose certificate is issued anew at will."""
    source = Changing(place.world, "web")
    known = place.caller("web", port)
    return Mesh(workload=known.workload, config=known.config, identity=source), source


def test_a_channel_shows_the_newest_certificate(place: Place, honest: int) -> None:
    """From the first call after it was renewed on; until then the connection is kept."""
    mesh, source = renewing(place, honest)

    async def calls() -> None:
        async with channel_of(mesh) as channel:
            for _ in range(3):
                digest = source.renew(mesh)
                links = set()
                for _ in range(3):
                    assert (await asked(channel))[0].endswith(digest)
                    links |= {lease.pool for lease in channel._services._leases.values()}
                assert len(links) == 1

    asyncio.run(calls())


def test_a_channels_connection_is_kept_for_a_limited_time(place: Place, honest: int) -> None:
    """With no time at all, each call has its own; with some, it is shared."""

    async def connections(**options: float) -> int:
        seen = set()
        async with channel_of(place.caller("web", honest), **options) as channel:
            for _ in range(3):
                await asked(channel)
                seen |= {lease.pool for lease in channel._services._leases.values()}
        return len(seen)

    assert asyncio.run(connections()) == 1
    assert asyncio.run(connections(max_age=0)) == 3


def test_a_channels_call_under_way_is_not_cut_off(place: Place, honest: int) -> None:
    """The stream that is open goes on over the old connection, which ends with it."""
    mesh, source = renewing(place, honest)

    async def calls() -> None:
        async with channel_of(mesh) as channel:
            method = grpclib.client.StreamStreamMethod(channel, "/demo.Whom/Talk", bytes, bytes)
            async with method.open(metadata=dict(TENANT), timeout=20) as talk:
                await talk.send_message(b"")
                before = await talk.recv_message()
                (old,) = (lease.pool for lease in channel._services._leases.values())
                digest = source.renew(mesh)
                assert (await asked(channel))[0].endswith(digest)
                await talk.send_message(b"", end=True)
                assert await talk.recv_message() == before
                assert await talk.recv_message() is None
            assert old._protocol is None

    asyncio.run(calls())


@pytest.mark.parametrize("serving", [by_grpcio, by_grpclib])
def test_a_channels_traffic_does_not_notice_rotations(place: Place, serving: Serving) -> None:
    """Four callers without a pause, and both ends get new certificates again and again: no call fails."""
    renewals, between = (100, 40) if FULL else (6, 12)
    mesh, source = renewing(place, 1)
    theirs = Changing(place.world, "reviews")
    reviews = Mesh(workload=place.reviews.workload, config=MeshConfig(allow_no_policy=True), identity=theirs)

    async def run(mesh: Mesh) -> tuple[int, set[bytes]]:
        count, done, seen = 0, False, set[bytes]()

        async def call(channel: MeshChannel) -> None:
            nonlocal count
            while not done:
                seen.update(await asked(channel, METHODS[count % 4]))
                count += 1

        async with channel_of(mesh) as channel, asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(call(channel))
            for round_ in range(renewals):
                while count < between * (round_ + 1):  # noqa: ASYNC110 - each turn of the loop lets calls go on
                    await asyncio.sleep(0)
                source.renew(mesh)
                theirs.renew(reviews)
            done = True
        return count, seen

    with serving(reviews) as port:
        known = place.caller("web", port)
        mesh = Mesh(workload=known.workload, config=known.config, identity=source)
        count, seen = asyncio.run(run(mesh))
    assert count >= renewals * between
    assert len({answer.rpartition(b" ")[2] for answer in seen}) >= renewals


# ---------------------------------------------------------------- the tunnel


def test_an_impostor_is_unavailable(place: Place) -> None:
    """Under the right name with a wrong SVID; no call arrives."""
    with by_grpcio(place.serving("intruder")) as port:
        assert refused(place.caller("web", port)) is grpc.StatusCode.UNAVAILABLE


def test_the_next_endpoint_is_dialled(place: Place, honest: int) -> None:
    """Where the first is an impostor, or nobody."""
    with by_grpcio(place.serving("intruder")) as impostor:
        assert through(place.caller("web", impostor, 1, honest))


def test_an_unknown_service_has_no_tunnel(place: Place, honest: int) -> None:
    """The nearest name is told."""
    with pytest.raises(SvidError, match=r"reviews\.prod"):
        Tunnel(place.caller("web", honest), "review.prod")


def test_the_socket_is_this_users_alone(place: Place, honest: int) -> None:
    """A folder that nobody else may enter, which goes with the tunnel."""
    with Tunnel(place.caller("web", honest), "reviews.prod") as tunnel:
        path = Path(tunnel.target.removeprefix("unix:"))
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert path.parent.stat().st_uid == os.getuid()
    assert not path.parent.exists()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_leaves_its_parents_tunnel(place: Place, honest: int) -> None:
    """Whatever a child ends with, the socket is its parent's."""
    with Tunnel(place.caller("web", honest), "reviews.prod") as tunnel:
        path = Path(tunnel.target.removeprefix("unix:"))
        assert in_child(lambda: tunnel.close() or path.is_socket())
        assert path.is_socket()
    assert not path.parent.exists()


def test_a_tunnel_without_a_socket_is_an_error(
    place: Place, honest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the folder's path is too long for one, or no thread can begin; nothing is left behind."""
    mesh = place.caller("web", honest)
    for length, limit, refused in (("x" * 100, nullcontext, OSError), ("y", no_more_threads, RuntimeError)):
        (tmp_path / length).mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / length))
        with limit(), pytest.raises(refused):
            Tunnel(mesh, "reviews.prod")
        assert list((tmp_path / length).iterdir()) == []


def test_the_asyncio_channel_goes_through_it_too(place: Place, honest: int) -> None:
    """grpc.aio takes the same address."""

    async def call() -> bytes:
        with Tunnel(place.caller("web", honest), "reviews.prod") as tunnel:
            async with grpc.aio.insecure_channel(tunnel.target, options=tunnel.options) as channel:
                return bytes(await channel.unary_unary("/demo.Whom/One")(b"", metadata=TENANT))

    assert asyncio.run(call()).startswith(b"spiffe://cluster.local/ns/prod/sa/web")


def test_a_big_message_passes(place: Place, honest: int) -> None:
    """Frames are kept whole, however many there are."""
    mesh = place.caller("web", honest)
    metadata = (*TENANT, *((f"x-{index}", "y" * 500) for index in range(10)))
    with Tunnel(mesh, "reviews.prod") as tunnel, grpc.insecure_channel(tunnel.target, options=tunnel.options) as it:
        assert it.unary_unary("/demo.Whom/One")(bytes(3_000_000), metadata=metadata, timeout=20)


def test_a_renewed_certificate_retires_the_connection(place: Place, honest: int) -> None:
    """Calls go on without a failure, and from the second one on they come with the new certificate."""
    mesh, source = renewing(place, honest)
    with Tunnel(mesh, "reviews.prod") as tunnel, grpc.insecure_channel(tunnel.target, options=tunnel.options) as it:
        for _ in range(5):
            ask(it)
            digest = source.renew(mesh)
            ask(it)
            seen = [ask(it, "Talk")[0].rpartition(b" ")[2] for _ in range(20)]
            assert seen[-1] == digest
            assert seen == sorted(seen, key=digest.__eq__)
        assert (tunnel._services._retired, len(tunnel._services._closable)) == (set(), 0)


def test_traffic_does_not_notice_rotations(place: Place, honest: int) -> None:
    """Four callers without a pause, and a new certificate again and again: no call fails."""
    renewals = 100 if FULL else 6
    mesh, source = renewing(place, honest)
    done, turn, seen = Event(), Semaphore(0), set[bytes]()

    def call(it: grpc.Channel) -> int:
        count = 0
        while not done.is_set():
            seen.update(ask(it, METHODS[count % 4]))
            count += 1
            turn.release()
        return count

    with (
        Tunnel(mesh, "reviews.prod") as tunnel,
        grpc.insecure_channel(tunnel.target, options=tunnel.options) as it,
        ThreadPoolExecutor(4) as pool,
    ):
        callers = [pool.submit(call, it) for _ in range(4)]
        try:
            for _ in range(renewals):
                for _ in range(24):
                    assert turn.acquire(timeout=20)
                source.renew(mesh)
        finally:
            done.set()
        assert sum(one.result() for one in callers) >= 24 * renewals
    assert len({answer.rpartition(b" ")[2] for answer in seen}) >= renewals


def test_a_call_under_way_outlives_its_connections_retirement(place: Place, honest: int) -> None:
    """The stream that is open goes on over the old connection."""
    mesh, source = renewing(place, honest)
    questions: SimpleQueue[bytes | None] = SimpleQueue()
    with Tunnel(mesh, "reviews.prod") as tunnel, grpc.insecure_channel(tunnel.target, options=tunnel.options) as it:
        talk = it.stream_stream("/demo.Whom/Talk")(iter(questions.get, None), metadata=TENANT, timeout=20)
        questions.put(b"")
        before = next(talk)
        source.renew(mesh)
        ask(it)
        ask(it)
        questions.put(b"")
        assert next(talk) == before
        questions.put(None)
        assert list(talk) == []


def frame(kind: int, flags: int = 0, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame on stream 0."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags, 0, 0, 0, 0]) + payload


SETTINGS, HEADERS, CONTINUATION, DATA = 4, 1, 9, 0


@pytest.mark.parametrize(
    ("frames", "may"),
    [
        ([], False),
        ([frame(SETTINGS)], True),
        ([frame(SETTINGS), frame(HEADERS, 0, b"half")], False),
        ([frame(SETTINGS), frame(HEADERS, 0, b"half"), frame(CONTINUATION, 0, b"more")], False),
        ([frame(SETTINGS), frame(HEADERS, 0, b"half"), frame(CONTINUATION, 4, b"rest")], True),
        ([frame(SETTINGS), frame(HEADERS, 4, b"all"), frame(DATA, 1, bytes(70_000))], True),
    ],
)
def test_a_frame_of_ours_comes_only_where_one_may(frames: list[bytes], may: bool) -> None:
    """Not before the server's first, nor within a block of headers; every other byte passes unchanged."""

    class Writer:
        written = b""

        def write(self, data: bytes) -> None:
            self.written += data

        async def drain(self) -> None:
            """At once."""

    async def run() -> tuple[bool, bytes]:
        reader, writer = asyncio.StreamReader(), Writer()
        reader.feed_data(b"".join(frames))
        reader.feed_eof()
        link = tunnel_module._Link(writer, None)  # type: ignore[arg-type]
        with pytest.raises(asyncio.IncompleteReadError):
            await tunnel_module._copy_frames(reader, link)
        return link.open_to_frames, writer.written

    assert asyncio.run(run()) == (may, b"".join(frames))


@pytest.mark.parametrize("serving", [by_grpcio, by_aio])
def test_grpcs_own_tls_serves_the_newest_certificate(place: Place, serving: Serving) -> None:
    """At the next handshake; and whoever lost its authority is shut out."""
    source = Changing(place.world, "reviews")
    mesh = Mesh(
        workload=place.reviews.workload,
        config=MeshConfig(allow_no_policy=True),
        identity=source,
    )
    seen: list[str] = []
    with serving(mesh) as port:
        for _ in range(2):
            context = place.caller("web", port).client_context()
            context.set_alpn_protocols(["h2"])
            line = socket.create_connection(("127.0.0.1", port))
            with context.wrap_socket(line, server_hostname="reviews.prod") as secured:
                seen.append(sha256(secured.getpeercert(True) or b"").hexdigest())
            digest = source.renew(mesh)
    assert seen[0] != seen[1] != digest.decode()


PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "grpc.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
MESH = """
workloads:
  reviews: {namespace: prod, serviceAccount: reviews, identity: {files: reviews}}
  web: {namespace: prod, serviceAccount: web, identity: {files: web}}
services: {reviews.prod: {ids: ["spiffe://cluster.local/ns/prod/sa/reviews"], endpoints: ["127.0.0.1:PORT"]}}
allowNoPolicy: true
"""


def test_the_page_runs(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it is printed, but for the port and the service: its server, then its callers."""
    served, *callers = BLOCKS
    port = free_port()
    for account in ("reviews", "web"):
        identity = place.world.identity(account).identity
        write_identity(tmp_path / account, identity.svid, identity.bundle)
    (tmp_path / "mesh.yaml").write_text(MESH.replace("PORT", str(port)), encoding="utf-8")
    monkeypatch.setenv("MESHSEC_CONFIG", str(tmp_path))
    monkeypatch.setenv("MESHSEC_WORKLOAD", "reviews")
    running: dict[str, Any] = {"add_to": add_to}
    exec(compile(served.replace("8443", str(port)), str(PAGE), "exec"), running)
    try:
        monkeypatch.setenv("MESHSEC_WORKLOAD", "web")
        for block in callers:
            exec(compile(block, str(PAGE), "exec"), {"__name__": "a_page"})
        assert capsys.readouterr().out.count("spiffe://cluster.local/ns/prod/sa/web") == 1
    finally:
        running["server"].stop(None).wait()
        running["mesh"].close()
