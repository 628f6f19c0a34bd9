"""The key store: one fetch at a time, rarely, in the background; good keys stay, bad ones never come in."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from forking import in_child
from meshsec.authn import KeySource, KeyState, NeedKeys
from meshsec.errors import KeysUnavailableError
from meshsec.jose import KeySet
from meshsec.resources import IssuerConfig, KeysConfig
from meshsec.sources import _keys
from meshsec.sources._fetch import FetchResult
from meshsec.sources._keys import KeyStore
from threadless import no_more_threads
from tokens import jwks, key_set, signing_key
from waiting import until

SOURCE = KeySource("https://issuer.example", "https://issuer.example/jwks")
OTHER = KeySource("https://other.example", "https://other.example/jwks")
NEED = NeedKeys((SOURCE,))
CONFIG = KeysConfig(refresh=300, max_stale=3600, cooldown=30, timeout=5)
OLD, NEW = key_set(signing_key("ES256", "old")), key_set(signing_key("ES256", "new"))
OLD_BODY, NEW_BODY = (jwks(signing_key("ES256", name)).encode() for name in ("old", "new"))

Script = bytes | FetchResult | Exception


class World:
    """A store with a clock that is moved by hand and an issuer that says what it is told to."""

    def __init__(self, *sources: KeySource, body: Script = OLD_BODY, config: KeysConfig = CONFIG) -> None:
        self.now = 1000.0
        self.body = body
        self.asked: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.store = KeyStore(sources or (SOURCE,), config, clock=lambda: self.now, fetch=self.fetch)

    def fetch(self, url: str, *, timeout: float) -> FetchResult:
        """Count, wait for the gate, then answer as scripted."""
        self.asked.append(url)
        assert self.gate.wait(10)
        if isinstance(self.body, Exception):
            raise self.body
        return FetchResult(200, self.body) if isinstance(self.body, bytes) else self.body

    def state(self, source: KeySource = SOURCE) -> KeyState:
        """What requests see."""
        return self.store.snapshot()[source]

    def refresh(self) -> None:
        """Fetch what is due, and wait for it."""
        self.store.refresh_due()
        self.settle()

    def settle(self) -> None:
        """Wait until nothing is in the air."""
        self.gate.set()
        for shelf in self.store._shelves.values():
            if flight := shelf.flight:
                flight.landed.result(10)

    def warm(self) -> World:
        """Fetch the first set; then let the cooldown pass."""
        self.refresh()
        assert self.state() == KeyState(OLD, fetchable=False)
        self.now += CONFIG.cooldown
        return self


def test_at_first_there_is_nothing_and_a_fetch_may_help() -> None:
    """Nothing is fetched before somebody asks or the store starts."""
    world = World()
    assert world.state() == KeyState(None, fetchable=True)
    assert world.asked == []


def test_a_question_brings_the_keys() -> None:
    """The fetch is made, and the snapshot has them when the wait is over."""
    world = World()
    world.store.wait(NEED)
    assert world.asked == ["https://issuer.example/jwks"]
    assert world.state() == KeyState(OLD, fetchable=False)


def test_an_attempt_starts_the_cooldown() -> None:
    """Well or badly: until it is over no request can cause another one."""
    for body in (OLD_BODY, b"<html>", KeysUnavailableError("down")):
        world = World(body=body)
        world.store.wait(NEED)
        for _ in range(3):
            assert not world.state().fetchable
            world.store.wait(NEED)
        world.now += 29.9
        assert not world.state().fetchable
        world.now += 0.1
        assert world.state().fetchable
        assert len(world.asked) == 1


@pytest.mark.parametrize("body", [OLD_BODY, KeysUnavailableError("down"), FetchResult(500, OLD_BODY)])
def test_a_flood_of_unknown_keys_makes_one_fetch_per_cooldown(body: Script) -> None:
    """1,000 requests over ten cooldowns, with the issuer up or down, with keys at hand or none."""
    for world in (World(body=body), World().warm()):
        world.body, world.asked = body, []
        for _ in range(1000):
            if world.state().fetchable:
                world.store.wait(NEED)
            world.now += CONFIG.cooldown * 10 / 1000
        assert len(world.asked) <= 11


def lost(*kids: str) -> NeedKeys:
    """A question about tokens that name these keys."""
    return NeedKeys((SOURCE,), kids)


def asks(world: World, question: NeedKeys, seconds: int) -> list[int]:
    """When, in whole seconds from now, somebody who asks all the time causes a fetch."""
    began, moments = world.now, []
    for second in range(seconds):
        world.now = began + second
        before = len(world.asked)
        world.store.wait(question)
        moments += [second] * (len(world.asked) - before)
    return moments


def test_a_key_that_is_not_there_is_looked_for_ever_more_rarely() -> None:
    """Twice the pause each time, at most ``refresh``; another name, or none, is not held up by it."""
    assert asks(World().warm(), lost("gone"), 1200) == [0, 30, 90, 210, 450, 750, 1050]
    assert asks(World().warm(), lost(), 100) == [0, 30, 60, 90]
    world = World().warm()
    asks(world, lost("gone"), 100)
    assert asks(world, lost("gone", "other"), 25) == [21]


def test_a_key_that_was_missed_is_found_when_it_comes() -> None:
    """With the next look, whoever asked for it; and nothing is remembered against it while the issuer is down."""
    world = World().warm()
    assert asks(world, lost("new"), 31) == [0, 30]
    world.body = KeysUnavailableError("down")
    assert asks(world, lost("new"), 200) == [60, 90, 120, 150, 180]
    world.body = NEW_BODY
    asks(world, lost("new"), 31)
    assert world.state().keys == NEW


def test_what_was_missed_is_remembered_within_bounds() -> None:
    """Many names, and long ones."""
    world = World().warm()
    for number in range(600):
        world.store.wait(lost(f"kid-{number}"))
        world.store.wait(lost("x" * 257))
        world.now += CONFIG.cooldown
    (shelf,) = world.store._shelves.values()
    assert len(shelf.missed) == 256
    assert "kid-599" in shelf.missed
    assert max(map(len, shelf.missed)) == 7


def test_threads_share_one_fetch() -> None:
    """Many threads ask at once for a cold set: one request goes out."""
    world = World()
    world.gate.clear()
    threads = [threading.Thread(target=world.store.wait, args=(NEED,)) for _ in range(12)]
    for thread in threads:
        thread.start()
    world.settle()
    for thread in threads:
        thread.join(10)
    assert len(world.asked) == 1
    assert world.state().keys == OLD


def seats(world: World) -> int:
    """How many of 40 askers get a seat; the others are told at once."""
    flights = [world.store._joined(NEED) for _ in range(40)]
    found = sum(len(flight.__enter__()) for flight in flights)
    for flight in flights:
        flight.__exit__(None, None, None)
    return found


def test_few_may_wait() -> None:
    """16 for a cold set, 4 for an unknown key; the seats are free again afterwards."""
    for world, expected in ((World(), 16), (World().warm(), 4)):
        world.gate.clear()
        assert seats(world) == expected
        assert seats(world) == expected
        world.settle()
        assert seats(world) == 0


def test_a_wait_has_an_end() -> None:
    """The caller's patience, whatever the fetch does; the fetch goes on for the others."""
    world = World()
    world.gate.clear()
    world.store.wait(NEED, 0.01)
    assert world.state() == KeyState(None, fetchable=True)
    world.settle()
    assert world.state().keys == OLD


def test_an_unknown_source_is_nobodys_wait() -> None:
    """A question about something that is not kept is answered at once."""
    world = World()
    world.store.wait(NeedKeys((OTHER,)))
    asyncio.run(world.store.wait_async(NeedKeys((OTHER,))))
    assert world.asked == []


# ------------------------------------------------------------------------------------------------ event loops


def test_an_event_loop_waits_without_blocking() -> None:
    """Other tasks run on, no pool thread is used, and cancelling one waiter leaves the others alone."""
    world = World()
    world.gate.clear()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        waiting = [asyncio.create_task(world.store.wait_async(NEED)) for _ in range(8)]
        await asyncio.sleep(0)
        assert getattr(loop, "_default_executor", None) is None
        for task in waiting[:5]:
            task.cancel()
        assert all(isinstance(item, asyncio.CancelledError) for item in await _all(waiting[:5]))
        world.gate.set()
        assert await _all(waiting[5:]) == [None] * 3

    asyncio.run(main())
    assert len(world.asked) == 1
    assert world.state().keys == OLD


async def _all(tasks: Iterable[asyncio.Task[None]]) -> list[Any]:
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_a_loop_that_ends_while_waiting_does_no_harm() -> None:
    """A fetch that lands after the loop is closed, and a wait that ends before it lands."""
    world = World()
    world.gate.clear()

    async def give_up() -> None:
        await world.store.wait_async(NEED, 0.01)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(world.store.wait_async(NEED), 0.01)

    asyncio.run(give_up())
    world.settle()
    assert world.state().keys == OLD


def test_loops_and_threads_share_one_store() -> None:
    """Two loops and four threads at once: one fetch, everyone sees the keys."""
    world = World()
    world.gate.clear()
    seen: list[KeySet | None] = []

    def in_thread() -> None:
        world.store.wait(NEED)
        seen.append(world.state().keys)

    async def in_loop() -> None:
        await asyncio.gather(*(world.store.wait_async(NEED) for _ in range(3)))
        seen.append(world.state().keys)

    threads = [threading.Thread(target=in_thread) for _ in range(4)]
    threads += [threading.Thread(target=lambda: asyncio.run(in_loop())) for _ in range(2)]
    for thread in threads:
        thread.start()
    world.settle()
    for thread in threads:
        thread.join(10)
    assert seen == [OLD] * 6
    assert len(world.asked) == 1


# ------------------------------------------------------------------------------------------------ refreshing


def test_a_set_is_refreshed_before_it_is_needed() -> None:
    """In the last fifth of the interval, never all at the same moment, and not twice."""
    moments = set()
    for _ in range(20):
        world = World().warm()
        world.body = NEW_BODY
        while world.state().keys == OLD:
            world.now += 1
            world.refresh()
        moments.add(world.now - 1000)
        assert len(world.asked) == 2
    assert min(moments) >= 239
    assert max(moments) <= 301
    assert len(moments) > 1


BAD: dict[str, Script] = {
    "HTML": b"<html>busy</html>",
    "list": b"[]",
    "other JSON": b"{}",
    "no key": b'{"keys": []}',
    "no usable key": b'{"keys": [{"kty": "RSA"}]}',
    "truncated": OLD_BODY[:-3],
    "empty": b"",
    "10 MB": b" " * (10 << 20),
    "secret": json.dumps({"keys": [{"kty": "oct", "alg": "HS256", "k": "A" * 43}]}).encode(),
    "500": FetchResult(500, NEW_BODY),
    "302": FetchResult(302, NEW_BODY),
    "204": FetchResult(204, b""),
    "206": FetchResult(206, NEW_BODY),
    "no answer": KeysUnavailableError("timed out"),
    "bug": RuntimeError("a bug"),
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
def test_a_bad_answer_never_replaces_good_keys(body: Script, caplog: pytest.LogCaptureFixture) -> None:
    """HTML, other JSON, 10 MB, no usable key, a secret, another status, an error: the last good set serves on."""
    world = World().warm()
    world.body = body
    world.store.wait(NEED)
    assert world.state().keys == OLD
    [status] = world.store.status()
    assert status["failures"] == 1
    assert status["last_error"]
    world.body = NEW_BODY
    world.now += CONFIG.cooldown
    world.store.wait(NEED)
    assert world.state().keys == NEW
    assert world.store.status()[0]["last_error"] is None


def test_an_outage_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Its beginning as a warning, its end too; not every attempt."""
    caplog.set_level("INFO", "meshsec.keys")
    world = World().warm()
    for body in (KeysUnavailableError("down"), KeysUnavailableError("down"), OLD_BODY):
        world.body = body
        world.store.wait(NEED)
        world.now += CONFIG.cooldown
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_an_outage_keeps_the_keys_until_they_are_too_old() -> None:
    """To max_stale and not beyond, with ever rarer attempts; then the set is cold, and comes back by itself."""
    world = World().warm()
    world.body = KeysUnavailableError("down")
    while world.now < 1000 + CONFIG.max_stale:
        assert world.state().keys == OLD
        world.now += 1
        world.refresh()
    assert world.state().keys is None
    assert len(world.asked) <= 1 + 5 + 3600 / 300
    world.asked.clear()
    for _ in range(120):
        world.now += 1
        world.refresh()
    assert 3 <= len(world.asked) <= 4
    world.body, back = NEW_BODY, world.now
    while world.state().keys is None:
        world.now += 1
        world.refresh()
    assert world.now - back <= 35


def test_a_cold_start_with_the_issuer_down_recovers_within_a_cooldown() -> None:
    """Nothing is accepted meanwhile, and no request speeds it up."""
    world = World(body=KeysUnavailableError("down"))
    world.refresh()
    assert world.state() == KeyState(None, fetchable=False)
    world.body = OLD_BODY
    for _ in range(34):
        world.now += 1
        world.refresh()
    assert world.state().keys == OLD
    assert len(world.asked) == 2


def test_one_issuer_does_not_hold_up_another() -> None:
    """While one hangs, the other's keys come."""
    world = World(SOURCE, OTHER)
    slow = threading.Event()
    quick = world.fetch

    def fetch(url: str, *, timeout: float) -> FetchResult:
        if url == SOURCE.jwks_uri:
            assert slow.wait(10)
        return quick(url, timeout=timeout)

    world.store._fetch = fetch
    world.store.refresh_due()
    world.store.wait(NeedKeys((OTHER,)))
    assert world.state(OTHER).keys == OLD
    assert world.state(SOURCE) == KeyState(None, fetchable=True)
    slow.set()
    world.settle()
    assert world.state(SOURCE).keys == OLD


def test_discovery_leads_to_the_keys_within_one_budget() -> None:
    """Two requests for one attempt; a slow first leaves less for the second, or nothing."""
    source = KeySource("https://issuer.example", None, timeout=2.0)
    world = World(source)
    document = json.dumps({"issuer": source.issuer, "jwks_uri": "https://keys.example/k"}).encode()
    budgets: list[float] = []
    delay = 0.5

    def fetch(url: str, *, timeout: float) -> FetchResult:
        budgets.append(timeout)
        world.now += delay
        return FetchResult(200, document if "well-known" in url else OLD_BODY)

    world.store._fetch = fetch
    world.store.wait(NeedKeys((source,)))
    assert world.state(source).keys == OLD
    assert budgets == [2.0, 1.5]
    world.now += CONFIG.cooldown
    delay = 2.0
    world.store.wait(NeedKeys((source,)))
    assert budgets[2:] == [2.0]
    assert "took too long" in world.store.status()[0]["last_error"]


def test_the_snapshot_is_immutable_and_stays_as_it_was() -> None:
    """A request that holds one is not surprised in the middle."""
    world = World().warm()
    before = world.store.snapshot()
    with pytest.raises(TypeError):
        before[SOURCE] = KeyState()  # type: ignore[index]
    world.body = NEW_BODY
    world.store.wait(NEED)
    assert before[SOURCE].keys == OLD
    assert world.state().keys == NEW
    assert world.store.snapshot() is world.store.snapshot()


def test_status_is_plain_data_without_key_material() -> None:
    """For mesh.status(): JSON can write it."""
    world = World(SOURCE, OTHER).warm()
    text = json.dumps(world.store.status())
    assert json.loads(text)[0] == {
        "issuer": SOURCE.issuer,
        "jwks_uri": SOURCE.jwks_uri,
        "keys": 1,
        "age": 30.0,
        "fetching": False,
        "failures": 0,
        "last_error": None,
    }
    assert json.loads(OLD_BODY)["keys"][0]["x"] not in text


# ------------------------------------------------------------------------------------------------ living


def test_start_fetches_and_close_lets_go() -> None:
    """Starting twice is once; closing frees who waits and keeps what was fetched; a later start goes on."""
    world = World()
    threads = threading.active_count()
    world.gate.clear()
    world.store.start()
    world.store.start()
    waiter = threading.Thread(target=world.store.wait, args=(NEED, 10))
    waiter.start()
    world.store.close()
    waiter.join(10)
    assert not waiter.is_alive()
    assert world.state().keys is None
    world.gate.set()
    world.now += CONFIG.cooldown
    world.store.start()
    world.settle()
    assert world.state().keys == OLD
    world.store.close()
    assert world.state().keys == OLD
    until(lambda: threading.active_count() == threads)


def test_the_background_thread_refreshes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asks, and the new set comes."""
    monkeypatch.setattr(_keys, "_TICK", 0.01)
    world = World().warm()
    world.store.start()
    world.body = NEW_BODY
    world.now += CONFIG.refresh
    until(lambda: world.state().keys == NEW)
    world.store.close()


def test_a_store_without_sources_starts_no_thread() -> None:
    """Nothing to keep, nothing to do."""
    threads = threading.active_count()
    store = KeyStore(())
    store.start()
    assert threading.active_count() == threads
    assert dict(store.snapshot()) == {}
    assert store.status() == []
    store.close()


def test_no_thread_to_be_had_is_a_failed_fetch() -> None:
    """The process is at its limit: the source is not stuck, and nobody waits."""
    world = World()

    with no_more_threads():
        world.store.wait(NEED)
    assert world.state() == KeyState(None, fetchable=False)
    assert world.store.status()[0]["last_error"] == "can't start new thread"
    world.now += CONFIG.cooldown
    world.store.wait(NEED)
    assert world.state().keys == OLD


def test_a_background_that_cannot_begin_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the next start, or by the next look at the policies; new sources count meanwhile."""
    monkeypatch.setattr(_keys, "_TICK", 0.01)
    world = World()

    with no_more_threads():
        with pytest.raises(RuntimeError, match="new thread"):
            world.store.start()
        world.store.replace([SOURCE, OTHER])
        assert set(world.store.snapshot()) == {SOURCE, OTHER}
    world.store.replace([SOURCE, OTHER])
    world.now += 2 * CONFIG.cooldown
    until(lambda: world.state(OTHER).keys == OLD)
    world.store.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_during_a_fetch_leaves_the_child_able() -> None:
    """The child's store has no thread in the air, no held lock and may fetch at once."""
    world = World()
    world.gate.clear()
    world.store.refresh_due()

    def check() -> bool:
        world.gate = threading.Event()
        world.gate.set()
        assert world.state() == KeyState(None, fetchable=True)
        world.store.wait(NEED, 5)
        return world.state().keys == OLD

    with world.store._lock:
        assert in_child(check)
    world.settle()
    assert world.state().keys == OLD


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_keeps_keys_and_starts_anew() -> None:
    """What was fetched before serves in the child, and its own background thread starts."""
    world = World().warm()
    world.store.start()

    def check() -> bool:
        assert world.state().keys == OLD
        world.body = NEW_BODY
        world.store.start()
        world.store.wait(NEED, 5)
        return world.state().keys == NEW and threading.active_count() >= 2

    assert in_child(check)
    world.store.close()


@pytest.mark.usefixtures("short_turns")
def test_readers_and_swaps_do_not_disturb_each_other() -> None:
    """While sets are swapped, each is seen, and every reader sees one of them, whole."""
    world = World(config=KeysConfig(cooldown=0))
    world.refresh()
    stop = threading.Event()
    odd: list[object] = []
    latest: list[object] = [None]

    def read() -> None:
        while not stop.is_set():
            latest[0] = keys = world.state().keys
            if keys not in (OLD, NEW):
                odd.append(keys)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for body, keys in ((NEW_BODY, NEW), (OLD_BODY, OLD)) * 25:
            world.body = body
            world.store.wait(NEED)
            until(lambda keys=keys: latest[0] == keys)  # type: ignore[misc]
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert odd == []


# ------------------------------------------------------------------------------------------------ what servers say


def test_an_equal_set_keeps_what_it_verified() -> None:
    """A refresh that changes nothing forgets nothing; one that does forgets everything."""
    world = World().warm()
    cache = world.state().cache
    assert cache is not None
    world.now += 300
    world.refresh()
    assert world.state().cache is cache
    world.body = NEW_BODY
    world.now += 300
    world.refresh()
    assert world.state().keys == NEW
    assert world.state().cache not in (None, cache)


def test_a_stale_set_verifies_nothing_from_memory() -> None:
    """With the keys goes the cache."""
    world = World().warm()
    world.now += CONFIG.max_stale
    assert (world.state().keys, world.state().cache) == (None, None)


def test_no_cache_where_it_is_switched_off() -> None:
    """``keys.tokenCache: false``."""
    world = World(config=replace(CONFIG, token_cache=False))
    world.store.wait(NEED)
    assert world.state() == KeyState(OLD)
    assert world.state().cache is None


NOW_DATE, LATER_DATE = "Sun, 22 Nov 2026 12:00:00 GMT", "Sun, 22 Nov 2026 12:01:40 GMT"


@pytest.mark.parametrize(
    ("headers", "soonest", "latest"),
    [
        ({}, 240, 300),
        ({"cache-control": "public"}, 240, 300),
        ({"cache-control": "max-age=100"}, 80, 100),
        ({"cache-control": 'public, Max-Age="100", must-revalidate'}, 80, 100),
        ({"cache-control": "max-age=0"}, 24, 30),
        ({"cache-control": "no-store"}, 24, 30),
        ({"cache-control": "no-cache, max-age=900"}, 24, 30),
        ({"cache-control": "max-age=-1"}, 24, 30),
        ({"cache-control": "max-age=1e9"}, 24, 30),
        ({"cache-control": "max-age=99999999999999999999"}, 240, 300),
        ({"cache-control": "max-age=150", "age": "50"}, 80, 100),
        ({"cache-control": "max-age=100", "age": "900"}, 24, 30),
        ({"cache-control": "max-age=100", "age": "soon"}, 80, 100),
        ({"expires": LATER_DATE, "date": NOW_DATE}, 80, 100),
        ({"expires": LATER_DATE, "date": NOW_DATE, "cache-control": "max-age=200"}, 160, 200),
        ({"expires": NOW_DATE, "date": LATER_DATE}, 24, 30),
        ({"expires": "0", "date": NOW_DATE}, 24, 30),
        ({"expires": "Sun, 99 Nov 2026 12:00:00 GMT", "date": NOW_DATE}, 24, 30),
        ({"expires": "Fri, 31 Dec 9999 23:59:59 GMT", "date": NOW_DATE}, 240, 300),
        ({"expires": LATER_DATE}, 240, 300),
    ],
)
def test_a_server_may_ask_to_be_fetched_sooner(headers: dict[str, str], soonest: float, latest: float) -> None:
    """Within bounds: never more often than the cooldown, never more rarely than ``refresh``."""
    world = World(body=FetchResult(200, OLD_BODY, headers))
    world.store.wait(NEED)
    (shelf,) = world.store._shelves.values()
    assert soonest <= shelf.due_at - world.now <= latest


def test_an_issuer_may_have_its_own_pace() -> None:
    """What it does not name is everybody's."""
    own = {OTHER.issuer: IssuerConfig(refresh=60, cooldown=5)}
    store = KeyStore([SOURCE, OTHER], CONFIG, issuers=own)
    configs = {source.issuer: shelf.config for source, shelf in store._shelves.items()}
    assert configs[SOURCE.issuer] == CONFIG
    assert configs[OTHER.issuer] == replace(CONFIG, refresh=60, cooldown=5)


@pytest.mark.parametrize(
    ("hint", "headers", "soonest", "latest"),
    [(100, {}, 80, 100), (100, {"cache-control": "max-age=50"}, 40, 50), (7000, {}, 240, 300), (1, {}, 24, 30)],
)
def test_a_bundle_says_itself_how_long_it_is_good(
    hint: int, headers: dict[str, str], soonest: float, latest: float
) -> None:
    """A trust domain's JWT authorities, of whose keys only those for JWT-SVIDs count; the shorter time does."""
    domain = KeySource("spiffe://cluster.local", "https://spire.example/bundle")
    key = json.loads(NEW_BODY)["keys"][0]
    other = {**json.loads(OLD_BODY)["keys"][0], "use": "sig"}
    bundle = {"keys": [other, {**key, "use": "jwt-svid"}], "spiffe_refresh_hint": hint, "spiffe_sequence": 1}
    own = {domain.issuer: IssuerConfig(jwt_svid=True)}
    answer = FetchResult(200, json.dumps(bundle).encode(), headers)
    store = KeyStore([domain], CONFIG, issuers=own, clock=lambda: 1000.0, fetch=lambda _, timeout: answer)
    store.wait(NeedKeys((domain,)))
    (shelf,) = store._shelves.values()
    assert shelf.keys is not None
    assert [found.kid for found in shelf.keys.keys] == ["new"]
    assert soonest <= shelf.due_at - 1000.0 <= latest
