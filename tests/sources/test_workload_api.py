"""The Workload API as a source, against an agent that plays every rule of it over a real socket."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import StreamEnded

from agent import Agent, Refuse, bundle_der, given, messages, x509_answer
from live import free_port
from meshsec.ca import AuthorityFolder, CertificateAuthority
from meshsec.errors import ConfigError, SvidError, TokenError
from meshsec.resources import TrustBundle
from meshsec.sources import Federation, IdentityKeeper, WorkloadApi, WorkloadApiIdentity, _workload_api_stream
from meshsec.sources._workload_api_stream import Pauses, dial
from meshsec.sources._workload_api_wire import CallError, Code
from meshsec.spiffe import SpiffeId, TrustDomain, X509Bundle, X509BundleSet, X509Svid, verify_jwt_svid
from meshsec.tls import StaticMaterial, authorize_id, client_context, server_context
from pki import TestCA
from threadless import no_more_threads
from waiting import until
from wire import shake_hands, wired

TD = "cluster.local"
ID = SpiffeId.for_service_account(TD, "prod", "web")
OTHER = SpiffeId.for_service_account(TD, "prod", "other")
SOON = Pauses(first=0.02, longest=0.1, steady=60.0)
TIMEOUT = 20.0


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    """The one behind the agent."""
    return CertificateAuthority.create(TD)


@pytest.fixture(scope="module")
def partner() -> CertificateAuthority:
    """Of another trust domain."""
    return CertificateAuthority.create("partner.example")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: the address of a unix socket has 107 bytes."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture
def agent(folder: Path) -> Iterator[Agent]:
    """One that listens."""
    with Agent(f"unix://{folder}/agent.sock").serving() as agent:
        yield agent


@pytest.fixture
def source(agent: Agent) -> Iterator[WorkloadApiIdentity]:
    """Ours, in a hurry."""
    source = WorkloadApiIdentity(agent.address, ID, pauses=SOON)
    yield source
    source.close()


@pytest.fixture
def keeper(source: WorkloadApiIdentity) -> IdentityKeeper:
    """What a mesh has."""
    return IdentityKeeper(source, expected=ID)


def serial(keeper: IdentityKeeper) -> int | None:
    """What is served after another look."""
    keeper.refresh(time.time())
    svid = keeper.material.current().svid
    return svid.serial if svid else None


def failure(keeper: IdentityKeeper) -> str:
    """What last failed, after another look."""
    keeper.refresh(time.time())
    return str(keeper.status()["failure"] or "")


def shown(keeper: IdentityKeeper, authority: CertificateAuthority) -> int:
    """The serial number of what a client of this workload gets to see."""
    caller = StaticMaterial(fresh(authority, OTHER), X509BundleSet([authority.bundle]))
    ends = wired(server_context(keeper.material), client_context(caller, authorize=authorize_id(ID)))
    shake_hands(*ends)
    return int((ends[1].getpeercert() or {})["serialNumber"], 16)


def fresh(authority: CertificateAuthority, spiffe_id: SpiffeId = ID) -> X509Svid:
    """A new SVID."""
    return authority.issue_x509_svid(spiffe_id)


def serving(agent: Agent, keeper: IdentityKeeper, authority: CertificateAuthority) -> X509Svid:
    """Have it serve a first SVID."""
    svid = fresh(authority)
    agent.say(x509_answer(given(svid, authority.bundle)))
    keeper.load(time.time())
    return svid


def test_the_first_look_waits_for_an_answer(
    agent: Agent, keeper: IdentityKeeper, authority: CertificateAuthority
) -> None:
    """A mesh that has just been loaded can serve; every call says what the standard demands of it."""
    svid = serving(agent, keeper, authority)
    assert keeper.material.current().svid == svid
    assert agent.metadata[0]["workload.spiffe.io"] == "true"
    assert keeper.status()["origin"] == agent.address


def test_a_rotation_is_followed(agent: Agent, keeper: IdentityKeeper, authority: CertificateAuthority) -> None:
    """Certificate and key of the newest message, on the stream that is open."""
    serving(agent, keeper, authority)
    renewed = fresh(authority)
    agent.say(x509_answer(given(renewed, authority.bundle)))
    until(lambda: serial(keeper) == renewed.serial)
    assert len(agent.metadata) == 1


def test_a_root_that_is_gone_is_distrusted(
    agent: Agent, keeper: IdentityKeeper, authority: CertificateAuthority
) -> None:
    """What a message does not hold any longer counts no longer."""
    both = authority.rotate_root()
    svid = fresh(both)
    agent.say(x509_answer(given(svid, both.bundle)))
    keeper.load(time.time())
    assert len(next(iter(keeper.material.current().bundles)).x509_authorities) == 2
    alone = both.retire_old_roots()
    agent.say(x509_answer(given(svid, alone.bundle)))
    until(lambda: serial(keeper) and list(keeper.material.current().bundles) == [alone.bundle])


@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
def test_of_several_ours_is_taken(
    agent: Agent, keeper: IdentityKeeper, authority: CertificateAuthority, first: bool
) -> None:
    """By its ID, whatever its place and its hint."""
    ours, other = fresh(authority), fresh(authority, OTHER)
    entries = [given(ours, authority.bundle, hint="a"), given(other, authority.bundle, hint="a")]
    agent.say(x509_answer(*(entries if first else entries[::-1])))
    assert serial(keeper) == ours.serial


def test_two_of_our_own_are_no_riddle(agent: Agent, keeper: IdentityKeeper, authority: CertificateAuthority) -> None:
    """The first counts."""
    one, two = fresh(authority), fresh(authority)
    agent.say(x509_answer(given(one, authority.bundle), given(two, authority.bundle)))
    assert serial(keeper) == one.serial


def test_only_other_identities_are_an_error(
    agent: Agent, keeper: IdentityKeeper, authority: CertificateAuthority
) -> None:
    """Whoever waited for ours would wait in vain."""
    agent.say(x509_answer(given(fresh(authority, OTHER), authority.bundle)))
    with pytest.raises(SvidError, match="prod/sa/other") as caught:
        keeper.load(time.time())
    assert caught.value.code == "wrong_identity"


def test_federated_bundles_count_where_they_are_named(
    agent: Agent,
    source: WorkloadApiIdentity,
    authority: CertificateAuthority,
    partner: CertificateAuthority,
) -> None:
    """Each for its own trust domain; gone from the answer, it is gone from here."""
    federation = Federation({"partner.example": TrustBundle(workload_api=True)})
    keeper = IdentityKeeper(source, expected=ID, foreign=federation)
    svid, unnamed = fresh(authority), CertificateAuthority.create("unnamed.example")
    agent.say(x509_answer(given(svid, authority.bundle), federated=[partner.bundle, unnamed.bundle]))
    keeper.load(time.time())
    assert list(keeper.material.current().bundles) == [authority.bundle, partner.bundle]
    assert keeper.status()["federation"][0]["failure"] is None
    agent.say(x509_answer(given(svid, authority.bundle)))
    until(lambda: serial(keeper) and list(keeper.material.current().bundles) == [authority.bundle])
    assert keeper.status()["federation"][0]["failure"]


def test_a_federated_bundle_cannot_speak_for_us(
    agent: Agent, source: WorkloadApiIdentity, authority: CertificateAuthority, partner: CertificateAuthority
) -> None:
    """Our own trust domain's authorities come with our SVID."""
    imposing = X509Bundle(TD, partner.bundle.x509_authorities)
    agent.say(x509_answer(given(fresh(authority), authority.bundle), federated=[imposing]))
    identity = source.read(time.time())
    assert (identity.bundle, identity.federated) == (authority.bundle, ())


def test_an_svid_of_another_trust_domain_brings_its_bundle(
    agent: Agent, source: WorkloadApiIdentity, authority: CertificateAuthority, partner: CertificateAuthority
) -> None:
    """The agent says of both trust domains whom to trust."""
    there = partner.issue_x509_svid("spiffe://partner.example/ns/prod/sa/web")
    agent.say(x509_answer(given(fresh(authority), authority.bundle), given(there, partner.bundle)))
    assert source.read(time.time()).federated == (partner.bundle,)


def test_a_list_of_the_revoked_is_taken(agent: Agent, keeper: IdentityKeeper) -> None:
    """Whoever is on it is a peer no longer."""
    root = TestCA(TD)
    chain, key = root.leaf()
    message = given(X509Svid(chain, key), X509Bundle(TD, [root.certificate]))
    agent.say(x509_answer(message, crl=[root.crl(7)]))
    keeper.load(time.time())
    assert [number for _, number in keeper.material.current().revoked.entries] == [7]


Spoil = Callable[[CertificateAuthority], bytes]


def _spoilt(**changes: bytes | str) -> Spoil:
    return lambda authority: x509_answer(given(fresh(authority), authority.bundle, **changes))


def _foreign_key(authority: CertificateAuthority) -> bytes:
    key = given(fresh(authority), authority.bundle).x509_svid_key
    return x509_answer(given(fresh(authority), authority.bundle, x509_svid_key=key))


def _cut_chain(authority: CertificateAuthority) -> bytes:
    svid = fresh(authority)
    return x509_answer(given(svid, authority.bundle, x509_svid=svid.chain[0][:-1]))


def _leaf_as_bundle(authority: CertificateAuthority) -> bytes:
    svid = fresh(authority)
    return x509_answer(given(svid, authority.bundle, bundle=svid.chain[0]))


def _other_under_our_name(authority: CertificateAuthority) -> bytes:
    return x509_answer(given(fresh(authority, OTHER), authority.bundle, spiffe_id=str(ID)))


def _untrusted(authority: CertificateAuthority) -> bytes:
    return x509_answer(given(fresh(authority), CertificateAuthority.create(TD).bundle))


def _expired(authority: CertificateAuthority) -> bytes:
    then = time.time() - 7200
    old = CertificateAuthority.create(TD, now=then - 60)
    return x509_answer(given(old.issue_x509_svid(ID, ttl=600, now=then), old.bundle))


def _federated(key: str, value: bytes) -> Spoil:
    def answer(authority: CertificateAuthority) -> bytes:
        pair = messages()["Pair"](key=key, value=value)
        svid = given(fresh(authority), authority.bundle)
        return bytes(messages()["X509SVIDResponse"](svids=[svid], federated_bundles=[pair]).SerializeToString())

    return answer


BAD: dict[str, Spoil] = {
    "no protobuf": lambda _: b"\xff\xff",
    "empty": lambda _: b"",
    "no key": _spoilt(x509_svid_key=b""),
    "no bundle": _spoilt(bundle=b""),
    "no chain": _spoilt(x509_svid=b""),
    "key malformed": _spoilt(x509_svid_key=b"0\x03\x02\x01\x00"),
    "bundle malformed": _spoilt(bundle=b"0\x03\x02\x01\x00"),
    "another's key": _foreign_key,
    "chain cut": _cut_chain,
    "leaf as bundle": _leaf_as_bundle,
    "another under our name": _other_under_our_name,
    "untrusted": _untrusted,
    "expired": _expired,
    "federated malformed": _federated("spiffe://partner.example", b"0\x03\x02\x01\x00"),
    "federated workload": _federated("spiffe://partner.example/ns", b""),
    "federated nonsense": _federated("partner example", b""),
    "list malformed": lambda authority: x509_answer(given(fresh(authority), authority.bundle), crl=[b"0\x00"]),
}


@pytest.mark.parametrize("spoil", BAD.values(), ids=BAD.keys())
def test_an_answer_that_cannot_be_used_is_passed_over(
    agent: Agent,
    keeper: IdentityKeeper,
    authority: CertificateAuthority,
    caplog: pytest.LogCaptureFixture,
    spoil: Spoil,
) -> None:
    """It is reported, the last good one serves, and the next good one on the same stream is taken."""
    first = serving(agent, keeper, authority)
    caplog.set_level(logging.WARNING, "meshsec.identity")
    agent.say(spoil(authority))
    until(lambda: failure(keeper))
    assert shown(keeper, authority) == first.serial
    [line] = [record.getMessage() for record in caplog.records if record.name == "meshsec.identity"]
    assert line == f"{failure(keeper)} (the last good identity keeps serving)"
    good = fresh(authority)
    agent.say(x509_answer(given(good, authority.bundle)))
    until(lambda: serial(keeper) == good.serial)
    assert shown(keeper, authority) == good.serial
    assert not failure(keeper)
    assert len(agent.metadata) == 1


PASSING = [
    Refuse(grpc.StatusCode.UNAVAILABLE),
    Refuse(grpc.StatusCode.INTERNAL),
    Refuse(grpc.StatusCode.RESOURCE_EXHAUSTED),
    Refuse(grpc.StatusCode.DEADLINE_EXCEEDED),
    Refuse(grpc.StatusCode.UNAUTHENTICATED),
    None,
]


@pytest.mark.parametrize("end", PASSING, ids=lambda end: end.code.name if end else "well")
def test_a_stream_that_ends_is_opened_again(
    agent: Agent, keeper: IdentityKeeper, authority: CertificateAuthority, end: Refuse | None
) -> None:
    """Whatever ended it; until then the last good answer serves."""
    first = serving(agent, keeper, authority)
    agent.say(end)
    assert agent.calls.acquire(timeout=TIMEOUT)
    assert agent.calls.acquire(timeout=TIMEOUT)
    assert serial(keeper) == first.serial
    renewed = fresh(authority)
    agent.say(x509_answer(given(renewed, authority.bundle)))
    until(lambda: serial(keeper) == renewed.serial)


def test_an_agent_that_is_gone_is_waited_for(
    folder: Path, authority: CertificateAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    """With its socket; what it said last serves until another one listens there."""
    caplog.set_level(logging.WARNING, "meshsec.identity")
    source = WorkloadApiIdentity(f"unix://{folder}/agent.sock", ID, pauses=SOON)
    keeper = IdentityKeeper(source, expected=ID)
    with closing(source):
        with Agent(source.origin).serving() as agent:
            first = serving(agent, keeper, authority)
        (folder / "agent.sock").unlink(missing_ok=True)
        until(lambda: "No such file" in failure(keeper))
        assert shown(keeper, authority) == first.serial
        assert f"{failure(keeper)} (the last good identity keeps serving)" in caplog.text
        with Agent(source.origin).serving() as agent:
            renewed = fresh(authority)
            agent.say(x509_answer(given(renewed, authority.bundle)))
            until(lambda: serial(keeper) == renewed.serial)
            assert not failure(keeper)


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED])
def test_what_is_our_own_error_is_not_tried_again(
    agent: Agent, keeper: IdentityKeeper, authority: CertificateAuthority, code: grpc.StatusCode
) -> None:
    """It is reported, and the thread ends (Workload Endpoint, section 6)."""
    first = serving(agent, keeper, authority)
    agent.say(Refuse(code))
    until(lambda: code.name in failure(keeper))
    until(lambda: "meshsec-workload-api" not in {thread.name for thread in threading.enumerate()})
    assert serial(keeper) == first.serial
    assert len(agent.metadata) == 1


def test_what_is_denied_is_used_no_longer(
    agent: Agent, keeper: IdentityKeeper, authority: CertificateAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither our certificate nor anybody's authorities; asked again, it comes back (Workload API, 5.2.1)."""
    svid = serving(agent, keeper, authority)
    agent.say(Refuse())
    with caplog.at_level(logging.WARNING, "meshsec.identity"):
        until(lambda: serial(keeper) is None)
    assert len(keeper.material.current().bundles) == 0
    assert "PERMISSION_DENIED" in caplog.text
    assert "serves no longer" in caplog.text
    agent.say(x509_answer(given(svid, authority.bundle)))
    until(lambda: serial(keeper) == svid.serial)
    assert list(keeper.material.current().bundles) == [authority.bundle]


def test_what_was_denied_stays_so_while_the_agent_is_away(
    agent: Agent, keeper: IdentityKeeper, authority: CertificateAuthority
) -> None:
    """Nobody looked in between; an agent that dies does not give the identity back."""
    serving(agent, keeper, authority)
    agent.say(Refuse())
    assert agent.calls.acquire(timeout=TIMEOUT)
    assert agent.calls.acquire(timeout=TIMEOUT)
    agent.stop()
    assert serial(keeper) is None


def test_an_identity_that_was_taken_away_is_used_no_longer(
    agent: Agent, keeper: IdentityKeeper, authority: CertificateAuthority
) -> None:
    """The workload has another one left; ours is gone from the answer."""
    serving(agent, keeper, authority)
    agent.say(x509_answer(given(fresh(authority, OTHER), authority.bundle)))
    until(lambda: serial(keeper) is None)


def test_permission_may_come_later(agent: Agent, keeper: IdentityKeeper, authority: CertificateAuthority) -> None:
    """A workload may start before its entry is known."""
    agent.say(Refuse())
    assert serial(keeper) is None
    svid = fresh(authority)
    agent.say(x509_answer(given(svid, authority.bundle)))
    until(lambda: serial(keeper) == svid.serial)


def test_an_agent_may_come_later(folder: Path, authority: CertificateAuthority) -> None:
    """There is not even a socket yet; one that restarts is found again."""
    agent = Agent(f"unix://{folder}/agent.sock")
    source = WorkloadApiIdentity(agent.address, ID, pauses=SOON)
    keeper = IdentityKeeper(source, expected=ID)
    assert "No such file" in failure(keeper)
    for _ in range(2):
        svid = fresh(authority)
        agent.say(x509_answer(given(svid, authority.bundle)))
        with agent.serving():
            until(lambda: serial(keeper) == svid.serial)  # noqa: B023
        until(lambda: failure(keeper))
    source.close()


def test_a_slow_agent_is_waited_for_once(agent: Agent, authority: CertificateAuthority) -> None:
    """The first look has a bound, later ones do not wait at all."""
    source = WorkloadApiIdentity(agent.address, ID, first_look=0.05)
    with pytest.raises(SvidError, match="not answered yet"):
        source.read(time.time())
    keeper = IdentityKeeper(source, expected=ID)
    svid = fresh(authority)
    agent.say(x509_answer(given(svid, authority.bundle)))
    until(lambda: serial(keeper) == svid.serial)
    source.close()


def test_a_closed_source_begins_anew(
    agent: Agent, source: WorkloadApiIdentity, authority: CertificateAuthority
) -> None:
    """A mesh that was closed may be started again."""
    agent.say(x509_answer(given(fresh(authority), authority.bundle)))
    source.read(time.time())
    source.close()
    until(lambda: "meshsec-workload-api" not in {thread.name for thread in threading.enumerate()})
    source.read(time.time())
    assert all(agent.calls.acquire(timeout=TIMEOUT) for _ in range(2))
    svid = fresh(authority)
    agent.say(x509_answer(given(svid, authority.bundle)))
    until(lambda: source.read(time.time()).svid == svid)


def test_tcp_is_spoken(authority: CertificateAuthority) -> None:
    """Where a unix socket is not to be had."""
    svid = fresh(authority)
    with Agent(f"tcp://127.0.0.1:{free_port()}").serving() as agent:
        agent.say(x509_answer(given(svid, authority.bundle)))
        source = WorkloadApiIdentity(agent.address, ID)
        assert source.read(time.time()).svid == svid
        source.close()


# Seconds that each call lived and how it ended, and the pause after it.
PAUSES = [
    ([(0, Code.UNAVAILABLE)] * 7, [1, 2, 4, 8, 16, 30, 30]),
    ([(5, Code.UNAVAILABLE)] * 3, [1, 2, 4]),
    ([(0, Code.UNAVAILABLE), (31, Code.UNAVAILABLE), (0, Code.UNAVAILABLE)], [1, 0, 1]),
    ([(0, Code.UNKNOWN), (31, Code.PERMISSION_DENIED), (0, Code.PERMISSION_DENIED)], [1, 1, 2]),
]


@pytest.mark.parametrize(("ends", "expected"), PAUSES)
def test_pauses_grow_and_are_forgotten(ends: list[tuple[float, Code]], expected: list[float]) -> None:
    """A connection that held and was lost is made again at once; one that ends soon is not, however well it ended."""
    pause, found = 0.0, []
    for lived, code in ends:
        pause = Pauses().after(pause, lived, code)
        found.append(pause)
    assert found == expected


FORKED = """
import os, sys, time
from meshsec.sources import WorkloadApiIdentity
from meshsec.spiffe import SpiffeId
source = WorkloadApiIdentity(sys.argv[1], SpiffeId.parse(sys.argv[2]))
first = source.read(0).svid.serial
if not os.fork():
    assert source.read(0).svid.serial == first
    print(first, flush=True)
    while source.read(0).svid.serial == first:
        time.sleep(0.01)
    print(source.read(0).svid.serial, flush=True)
    os._exit(0)
os.wait()
"""


def test_a_forked_process_has_a_stream_of_its_own(agent: Agent, authority: CertificateAuthority) -> None:
    """What was known goes on; the parent's connection stays the parent's."""
    one, two = fresh(authority), fresh(authority)
    agent.say(x509_answer(given(one, authority.bundle)))
    command = [sys.executable, "-c", FORKED, agent.address, str(ID)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == one.serial
        assert all(agent.calls.acquire(timeout=TIMEOUT) for _ in range(2))
        agent.say(x509_answer(given(two, authority.bundle)))
        assert int(process.stdout.readline()) == two.serial


def test_the_extra_is_named_where_it_is_missing(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else needs h2."""
    monkeypatch.setitem(sys.modules, "meshsec.sources._workload_api_call", None)
    with pytest.raises(ConfigError, match=r"meshsec\[workload-api\]"):
        WorkloadApiIdentity(agent.address, ID).read(time.time())


def _tokens(authority: CertificateAuthority) -> Callable[[object], object]:
    """An agent's answers, of two identities."""

    def answer(request: Any) -> object:
        ids = [request.spiffe_id] if request.spiffe_id else [str(OTHER), str(ID)]
        made = [(spiffe_id, authority.issue_jwt_svid(spiffe_id, list(request.audience))) for spiffe_id in ids]
        svids = [messages()["JWTSVID"](spiffe_id=spiffe_id, svid=token) for spiffe_id, token in made]
        return messages()["JWTSVIDResponse"](svids=svids)

    return answer


def test_a_token_for_an_audience_is_had_and_holds(agent: Agent, source: WorkloadApiIdentity, tmp_path: Path) -> None:
    """It is ours, and the agent's own JWT bundles verify it."""
    authority = AuthorityFolder.create(tmp_path / "ca", CertificateAuthority.create(TD)).authority
    agent.tokens = _tokens(authority)
    keys = json.dumps(authority.jwks()).encode()
    pair = messages()["Pair"](key=f"spiffe://{TD}", value=keys)
    agent.say(messages()["JWTBundlesResponse"](bundles=[pair]).SerializeToString())
    stream = WorkloadApi(agent.address).jwt_bundles()
    known = stream.current()
    stream.close()
    token = source.jwt_svid("reviews")
    assert verify_jwt_svid(token, known, audience="reviews", now=time.time()).id == ID
    assert agent.metadata[-1]["workload.spiffe.io"] == "true"
    default = WorkloadApi(agent.address).jwt_svid("reviews")
    assert verify_jwt_svid(default, known, audience="reviews", now=time.time()).id == OTHER
    with pytest.raises(TokenError):
        verify_jwt_svid(token, {TrustDomain("partner.example"): known[TrustDomain(TD)]}, audience="reviews", now=0)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Refuse(), "source_failed"),
        (Refuse(grpc.StatusCode.UNAVAILABLE), "source_failed"),
        ([], "answer_malformed"),
        ([(str(OTHER), "t")], "answer_malformed"),
        ([(str(ID), "")], "answer_malformed"),
    ],
    ids=["denied", "away", "none", "another's", "empty"],
)
def test_no_token_is_an_error(agent: Agent, source: WorkloadApiIdentity, answer: Any, code: str) -> None:
    """Whoever asked is told."""
    if isinstance(answer, list):
        svids = [messages()["JWTSVID"](spiffe_id=name, svid=token) for name, token in answer]
        answer = messages()["JWTSVIDResponse"](svids=svids)
    agent.tokens = lambda _request: answer
    with pytest.raises(SvidError) as caught:
        source.jwt_svid("reviews")
    assert caught.value.code == code


def test_an_agent_verifies_a_token_for_us(agent: Agent) -> None:
    """Whoever has no bundles is told whose it is."""

    def verified(request: Any) -> object:
        assert (request.audience, request.svid) == ("reviews", "a.b.c")
        return messages()["ValidateJWTSVIDResponse"](spiffe_id=str(ID), claims=b"")

    agent.validated = verified
    assert WorkloadApi(agent.address).validate_jwt_svid("a.b.c", "reviews") == ID
    assert agent.metadata[0]["workload.spiffe.io"] == "true"
    with pytest.raises(TokenError, match="letters"):
        WorkloadApi(agent.address).validate_jwt_svid("a.\udcff.c", "reviews")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Refuse(grpc.StatusCode.INVALID_ARGUMENT, "a.b.c does not hold"), "jwt_signature"),
        (Refuse(grpc.StatusCode.UNAVAILABLE), "source_failed"),
        (Refuse(grpc.StatusCode.PERMISSION_DENIED), "source_failed"),
        ("", "answer_malformed"),
        ("https://reviews", "answer_malformed"),
    ],
)
def test_a_token_that_an_agent_does_not_vouch_for_is_refused(agent: Agent, answer: Any, code: str) -> None:
    """Whatever is wrong; no message holds the token."""
    if isinstance(answer, str):
        answer = messages()["ValidateJWTSVIDResponse"](spiffe_id=answer)
    agent.validated = lambda _request: answer
    with pytest.raises((SvidError, TokenError)) as caught:
        WorkloadApi(agent.address).validate_jwt_svid("a.b.c", "reviews")
    assert caught.value.code == code
    assert "a.b.c" not in str(caught.value)


@pytest.mark.parametrize("use", ["x509-svid", "wit-svid"])
def test_keys_for_something_else_verify_no_token(agent: Agent, tmp_path: Path, use: str) -> None:
    """An agent should not send them; a verifier must not use them."""
    authority = AuthorityFolder.create(tmp_path / "ca", CertificateAuthority.create(TD)).authority
    wrong = {"keys": [{**key, "use": use} for key in authority.jwks()["keys"]]}
    pair = messages()["Pair"](key=f"spiffe://{TD}", value=json.dumps(wrong).encode())
    agent.say(messages()["JWTBundlesResponse"](bundles=[pair]).SerializeToString())
    stream = WorkloadApi(agent.address).jwt_bundles()
    assert len(stream.current()[TrustDomain(TD)]) == 0
    stream.close()


def test_bundles_are_had_without_an_identity(
    agent: Agent, authority: CertificateAuthority, partner: CertificateAuthority
) -> None:
    """For whoever only verifies."""
    pairs = [
        messages()["Pair"](key=f"spiffe://{bundle.trust_domain}", value=bundle_der(bundle))
        for bundle in (authority.bundle, partner.bundle)
    ]
    agent.say(messages()["X509BundlesResponse"](bundles=pairs).SerializeToString())
    stream = WorkloadApi(agent.address).x509_bundles()
    assert list(stream.current().bundles) == [authority.bundle, partner.bundle]
    stream.close()


@contextmanager
def raw_server(
    folder: Path, headers: list[tuple[str, str]], data: bytes, trailers: list[tuple[str, str]]
) -> Iterator[str]:
    """HTTP/2 without any of gRPC's manners; without headers, none of HTTP/2's either."""
    path = str(folder / "raw.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=_answer, args=(listener, headers, data, trailers), daemon=True)
        thread.start()
        yield f"unix://{path}"
        thread.join(TIMEOUT)


def _answer(listener: socket.socket, headers: Any, data: bytes, trailers: Any) -> None:
    sock, _ = listener.accept()
    with sock:
        if not headers:
            sock.sendall(data)
            return
        http = H2Connection(H2Configuration(client_side=False))
        http.initiate_connection()
        while not any(isinstance(event, StreamEnded) for event in http.receive_data(sock.recv(65536))):
            pass
        http.send_headers(1, headers)
        http.send_data(1, data, end_stream=not trailers)
        if trailers:
            http.send_headers(1, trailers, end_stream=True)
        sock.sendall(http.data_to_send())
        sock.recv(65536)


GRPC = [(":status", "200"), ("content-type", "application/grpc")]
ANSWER = b"\0\0\0\0\x02ab"
RAW = [
    ([], b"HTTP/1.1 400 Bad Request\r\n\r\n", [], "UNAVAILABLE"),
    ([(":status", "503"), ("content-type", "text/html")], b"no", [], "UNKNOWN"),
    ([(":status", "403"), ("content-type", "application/grpc")], b"", [], "UNKNOWN"),
    ([(":status", "200"), ("content-type", "text/html")], ANSWER, [("grpc-status", "0")], "UNKNOWN"),
    (GRPC, ANSWER, [], "UNKNOWN"),
    (GRPC, ANSWER, [("grpc-status", "")], "UNKNOWN"),
    (GRPC, ANSWER, [("grpc-status", "-1")], "UNKNOWN"),
    (GRPC, ANSWER, [("grpc-status", "7"), ("grpc-message", "%0a%1b[31m")], "PERMISSION_DENIED"),
    (GRPC, b"\1\0\0\0\x02ab", [("grpc-status", "0")], "INTERNAL"),
    (GRPC, ANSWER + ANSWER[:-1], [("grpc-status", "0")], "INTERNAL"),
    (GRPC, b"\0\xff\0\0\0ab", [("grpc-status", "0")], "INTERNAL"),
    (GRPC, ANSWER, [("grpc-status", "0")], None),
]


@pytest.mark.parametrize(("headers", "data", "trailers", "code"), RAW)
def test_what_is_not_grpc_is_refused(
    folder: Path, headers: list[tuple[str, str]], data: bytes, trailers: list[tuple[str, str]], code: str | None
) -> None:
    """Whatever listens there: a code, and a message without control characters."""
    with raw_server(folder, headers, data, trailers) as address:
        call = dial(address, "Method", b"", patience=TIMEOUT, streaming=True)
        if code is None:
            assert list(call.messages()) == [b"ab"]
            return
        with pytest.raises(CallError) as caught:
            list(call.messages())
    assert caught.value.code.name == code
    assert str(caught.value).isprintable()


def _good_response() -> bytes:
    """What a server sends for two messages, HTTP/2's preface included."""
    client, server = H2Connection(H2Configuration()), H2Connection(H2Configuration(client_side=False))
    for http in (client, server):
        http.initiate_connection()
    request = {":method": "POST", ":scheme": "http", ":path": "/", ":authority": "localhost"}
    client.send_headers(1, list(request.items()), end_stream=True)
    server.receive_data(client.data_to_send())
    server.send_headers(1, GRPC)
    server.send_data(1, ANSWER * 2)
    server.send_headers(1, [("grpc-status", "0")], end_stream=True)
    return server.data_to_send()


def _mutated(data: bytes, random: Random) -> bytes:
    """With up to three bytes changed, lost or added."""
    found = bytearray(data)
    for _ in range(random.randrange(1, 4)):
        at, size = random.randrange(len(found)), random.randrange(4)
        found[at : at + size] = random.randbytes(random.randrange(4))
    return bytes(found)


def test_a_server_that_says_anything_breaks_nothing(folder: Path) -> None:
    """The messages, or a CallError; never anything else, and never half a message."""
    random, good = Random(7), _good_response()
    for number in range(200):
        (folder / str(number)).mkdir()
        data = _mutated(good, random) if number else good
        with raw_server(folder / str(number), [], data, []) as address, suppress(CallError):
            found = list(dial(address, "Method", b"", patience=TIMEOUT, streaming=True).messages())
            assert number or len(found) == 2
            assert all(len(message) <= 2 for message in found[:-1])


def test_a_thread_that_broke_goes_on(
    agent: Agent, keeper: IdentityKeeper, authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens in it: without it no identity would ever be renewed."""

    def broken(*_: object, **__: object) -> Any:
        monkeypatch.undo()
        raise LookupError("a mistake of ours")

    monkeypatch.setattr(_workload_api_stream, "dial", broken)
    assert "LookupError" in failure(keeper)
    svid = fresh(authority)
    agent.say(x509_answer(given(svid, authority.bundle)))
    until(lambda: serial(keeper) == svid.serial)


def test_a_thread_that_cannot_begin_is_tried_again(
    agent: Agent, keeper: IdentityKeeper, authority: CertificateAuthority
) -> None:
    """At a process's limit of threads, when the next look is taken: nothing else would ever renew the identity."""

    with no_more_threads():
        assert "new thread" in failure(keeper)
    serving(agent, keeper, authority)


def test_a_call_that_is_not_a_stream_has_one_bound(folder: Path) -> None:
    """A server that gives half an answer holds nobody for long."""
    with raw_server(folder, GRPC, ANSWER[:-1], [("x", "y")]) as address, pytest.raises(CallError):
        list(dial(address, "Method", b"", patience=0.2, streaming=False).messages())
