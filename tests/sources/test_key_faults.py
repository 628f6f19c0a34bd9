"""What time, machines and identity providers do to key sets, where no other test has it."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from meshsec.authn import KeySource, KeyState, NeedKeys
from meshsec.ca import CertificateAuthority
from meshsec.errors import KeysUnavailableError
from meshsec.resources import KeysConfig
from meshsec.sources import _line
from meshsec.sources._fetch import FetchResult, fetch
from meshsec.sources._keys import KeyStore
from tokens import jwks, key_set, signing_key
from world import serve

SOURCE = KeySource("https://issuer.example", "https://issuer.example/jwks")
NEED = NeedKeys((SOURCE,), ("nobody's",))
CONFIG = KeysConfig(refresh=300, max_stale=3600, cooldown=30, timeout=5)
KEYS = key_set(signing_key())
BODY = jwks(signing_key()).encode()
DAY = 86_400.0


class Issuer:
    """One that is up or down, and counts."""

    def __init__(self) -> None:
        self.up = True
        self.asked = 0

    def __call__(self, _: str, *, timeout: float) -> FetchResult:
        self.asked += 1
        if not self.up:
            raise KeysUnavailableError("down")
        return FetchResult(200, BODY)


def settled(store: KeyStore) -> KeyStore:
    """With nothing in the air."""
    for shelf in store._shelves.values():
        if flight := shelf.flight:
            flight.landed.result(10)
    return store


def test_an_issuer_that_flaps_loses_no_token() -> None:
    """Up and down each second for ten minutes, with somebody who asks all the time: the keys are always there."""
    now, issuer = 1000.0, Issuer()
    store = KeyStore([SOURCE], CONFIG, clock=lambda: now, fetch=issuer)
    store.wait(NEED)
    for second in range(600):
        now, issuer.up = 1000.0 + second, second % 2 == 0
        store.refresh_due()
        store.wait(NEED)
        assert settled(store).snapshot()[SOURCE].keys == KEYS
    assert issuer.asked <= 1 + 600 / CONFIG.cooldown + 600 / CONFIG.refresh


def test_the_wall_clock_may_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour back or forth fetches nothing, ages nothing and wakes nobody: only seconds that grow count."""
    issuer = Issuer()
    store = KeyStore([SOURCE], CONFIG, fetch=issuer)
    store.wait(NEED)
    before = store.snapshot()
    wall = time.time()
    for offset in (-3600.0, 3600.0, -1e9, 1e9):
        monkeypatch.setattr(time, "time", lambda offset=offset: wall + offset)
        store.refresh_due()
        assert store.snapshot() == before
        assert before[SOURCE].keys == KEYS
    assert issuer.asked == 1


@pytest.mark.parametrize(("asleep", "keys"), [(CONFIG.refresh + 1, KEYS), (CONFIG.max_stale + 1, None)])
def test_a_process_that_slept_serves_at_once(asleep: float, keys: object) -> None:
    """Past the refresh the old set still counts, and a new one is fetched; past its last hour it does not."""
    now, issuer = 1000.0, Issuer()
    store = KeyStore([SOURCE], CONFIG, clock=lambda: now, fetch=issuer)
    store.wait(NEED)
    now += asleep
    assert store.snapshot()[SOURCE] == KeyState(keys, fetchable=True, cache=store.snapshot()[SOURCE].cache)
    store.refresh_due()
    assert settled(store).snapshot()[SOURCE].keys == KEYS
    assert issuer.asked == 2


@pytest.mark.parametrize(
    ("shift", "names", "taken"),
    [(0.0, ["localhost"], True), (-10 * DAY, ["localhost"], False), (0.0, ["elsewhere"], False), (0.0, [], False)],
)
def test_an_issuers_certificate_must_hold(
    shift: float, names: list[str], taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In time and for its name; an expired one is no answer, nor is one that names a workload alone."""
    now = time.time()
    authority = CertificateAuthority.create("idp.example", now=now - 20 * DAY)
    svid = authority.issue_x509_svid("spiffe://idp.example/server", dns_names=names, now=now + shift)
    (tmp_path / "pair.pem").write_bytes(svid.key_pem() + svid.chain_pem())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair.pem")
    trusting = ssl.create_default_context(cadata=authority.bundle.to_pem().decode())
    monkeypatch.setattr(_line, "_system_context", lambda: trusting)
    with serve(context) as server:
        if taken:
            assert fetch(server.url, timeout=5).status == 200
        else:
            with pytest.raises(KeysUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
                fetch(server.url, timeout=5)
            assert server.requests == []


def test_an_outage_is_told_when_it_begins(caplog: pytest.LogCaptureFixture) -> None:
    """With the first fetch that fails, not with a later one."""
    now, issuer = 1000.0, Issuer()
    store = KeyStore([SOURCE], CONFIG, clock=lambda: now, fetch=issuer)
    issuer.up = False
    for _ in range(3):
        store.wait(NEED)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        now += CONFIG.cooldown


def test_a_wait_is_as_long_as_the_caller_says() -> None:
    """And no longer, though the fetch may take its time."""
    asked, answer = threading.Event(), threading.Event()

    def fetch(_: str, *, timeout: float) -> FetchResult:
        asked.set()
        assert answer.wait(30)
        return FetchResult(200, BODY)

    store = KeyStore([SOURCE], replace(CONFIG, timeout=20), fetch=fetch)
    began = time.monotonic()
    store.wait(NEED, 0.01)
    assert asked.wait(10)
    assert time.monotonic() - began < 15
    answer.set()
    assert settled(store).snapshot()[SOURCE].keys == KEYS


def test_a_silent_issuer_is_waited_for_as_long_as_one_fetch_may_take() -> None:
    """From a cold start, by threads and an event loop: all are let go in time, and one fetch is in the air."""
    asked, answer = [], threading.Event()

    def fetch(url: str, *, timeout: float) -> FetchResult:
        asked.append(url)
        assert answer.wait(30)
        return FetchResult(200, BODY)

    store = KeyStore([SOURCE], replace(CONFIG, timeout=0.2), fetch=fetch)
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(store.wait, NEED) for _ in range(8)]
        waiting.append(pool.submit(asyncio.run, store.wait_async(NEED)))
    assert [one.result() for one in waiting] == [None] * 9
    assert 0.2 <= time.monotonic() - began < 5
    assert len(asked) == 1
    answer.set()
    assert settled(store).snapshot()[SOURCE].keys == KEYS


def test_another_issuers_document_leads_to_no_fetch_of_keys() -> None:
    """Where discovery names somebody else, his key set is not even looked at."""
    source = KeySource("https://issuer.example", None)
    asked: list[str] = []
    document = {"issuer": "https://other.example", "jwks_uri": "https://other.example/jwks"}

    def fetch(url: str, *, timeout: float) -> FetchResult:
        asked.append(url)
        return FetchResult(200, json.dumps(document).encode() if "well-known" in url else BODY)

    store = KeyStore([source], CONFIG, fetch=fetch)
    store.wait(NeedKeys((source,)))
    assert asked == ["https://issuer.example/.well-known/openid-configuration"]
    assert store.snapshot()[source].keys is None


def test_new_sources_are_fetched_where_the_store_runs() -> None:
    """At once, by a store that was started, and by nobody else; the same sources again change nothing."""
    other = KeySource("https://other.example", "https://other.example/jwks")
    for running in (False, True):
        issuer = Issuer()
        store = KeyStore([SOURCE], CONFIG, fetch=issuer)
        if running:
            store.start()
            settled(store)
        before = store.snapshot()
        store.replace([SOURCE])
        assert store.snapshot() is before
        store.replace([SOURCE, other])
        assert issuer.asked == (2 if settled(store) and running else 0)
        assert (store.snapshot()[other].keys == KEYS) == running
        store.close()
