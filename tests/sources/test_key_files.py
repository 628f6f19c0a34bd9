"""Key sets on disk: a restart during an outage serves, and nobody else's file ever counts."""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from answering import answering
from meshsec import Connection, HttpRequest, Mesh, Reason
from meshsec.authn import KeySource, KeyState, NeedKeys
from meshsec.errors import ConfigError, KeysUnavailableError
from meshsec.jose import KeySet
from meshsec.resources import KeysConfig, load_mesh
from meshsec.sources._fetch import FetchResult
from meshsec.sources._key_files import KeyFiles
from meshsec.sources._keys import KeyStore
from meshsec.testing import TestIssuer
from tokens import ALGORITHMS, jwks, key_set, signing_key

SOURCE = KeySource("https://issuer.example", "https://issuer.example/jwks")
KEYS = key_set(*(signing_key(algorithm, algorithm) for algorithm in ("ES256", "RS256", "EdDSA")))
BODY = jwks(*(signing_key(algorithm, algorithm) for algorithm in ("ES256", "RS256", "EdDSA"))).encode()
DAY = 86_400.0


class World:
    """Processes one after the other, with one folder and one wall clock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "below" / "keys"
        self.wall = 1_800_000_000.0
        self.down = False

    def store(self, source: KeySource = SOURCE) -> KeyStore:
        """A process that starts; its monotonic clock has nothing to do with the last one's."""
        config = KeysConfig(max_stale=DAY, cache=str(self.folder))
        start = self.wall
        return KeyStore([source], config, clock=lambda: 7.0 + self.wall - start, fetch=self.fetch, files=self.files())

    def files(self) -> KeyFiles:
        """The folder, by itself."""
        return KeyFiles(self.folder, clock=lambda: self.wall)

    def fetch(self, url: str, *, timeout: float) -> FetchResult:
        """The issuer."""
        if self.down:
            raise KeysUnavailableError("down")
        return FetchResult(200, BODY)

    def warm(self) -> Path:
        """A process that fetched, and is gone; the file it left."""
        store = self.store()
        store.wait(NeedKeys((SOURCE,)))
        for shelf in store._shelves.values():
            assert shelf.keys == KEYS
        [file] = until_one(self.folder)
        self.down = True
        return file


def until_one(folder: Path) -> list[Path]:
    """The file is written after those who wait were let go."""
    patience = threading.Event()
    for _ in range(1000):
        if found := list(folder.glob("*.jwks")):
            return found
        patience.wait(0.01)
    raise AssertionError("nothing was written")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """An empty disk."""
    return World(tmp_path)


def state(store: KeyStore, source: KeySource = SOURCE) -> KeyState:
    """What requests see."""
    return store.snapshot()[source]


def test_a_restart_during_an_outage_serves(world: World) -> None:
    """With the very same keys, at once, and the issuer is asked at once."""
    world.warm()
    world.wall += 3600
    store = world.store()
    assert state(store).keys == KEYS
    assert state(store).cache is not None
    [status] = store.status()
    assert status["age"] == pytest.approx(3600)
    store.refresh_due()
    store.wait(NeedKeys((SOURCE,)))
    assert (state(store).keys, store.status()[0]["failures"]) == (KEYS, 1)


def test_an_age_outlives_restarts(world: World) -> None:
    """``maxStale`` counts from when the issuer last answered, however often the process starts anew."""
    world.warm()
    for _ in range(23):
        world.wall += 3600
        assert state(world.store()).keys == KEYS
    store = world.store()
    world.wall += 3599
    assert state(store).keys == KEYS
    world.wall += 1
    assert state(store).keys is None
    assert state(world.store()).keys is None


def test_nothing_is_kept_where_nobody_asked_for_it(world: World, tmp_path: Path) -> None:
    """It is off by default."""
    store = KeyStore([SOURCE], KeysConfig(), fetch=world.fetch)
    store.wait(NeedKeys((SOURCE,)))
    assert state(store).keys == KEYS
    assert list(tmp_path.iterdir()) == []


def test_only_public_keys_are_written_and_for_us_alone(world: World) -> None:
    """Not what else the issuer says; in a folder and a file of our own."""
    file = world.warm()
    document = json.loads(file.read_bytes())
    assert set(document) == {"issuer", "jwksUri", "fetched", "keys"}
    assert {name for key in document["keys"] for name in key} == {
        "kty",
        "n",
        "e",
        "crv",
        "x",
        "y",
        "kid",
        "use",
        "alg",
    }
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [path.name for path in world.folder.iterdir()] == [file.name]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_comes_back_as_it_was(world: World, algorithm: str) -> None:
    """Type, curve, name and algorithm; with an ``alg`` of its own and without."""
    jwk = signing_key(algorithm).public_jwk()
    for member in (jwk, {name: value for name, value in jwk.items() if name not in ("alg", "kid", "use")}):
        keys = KeySet.parse({"keys": [member]})
        world.files().write(SOURCE, keys)
        found = world.files().read(SOURCE, max_age=1)
        assert found is not None
        assert found.keys == keys
        assert found.keys.keys[0].declares_algorithm == ("alg" in member)


def test_a_shared_secret_has_nothing_to_write() -> None:
    """A set with one never comes here; if it did, nothing would be written."""
    [key] = KeySet.parse({"keys": [{"kty": "oct", "alg": "HS256", "k": "A" * 43}]}, allow_symmetric=True).keys
    with pytest.raises(ValueError, match="no public half"):
        key.public_jwk()


def changed(**members: Any) -> Callable[[Path], object]:
    """A file that somebody edited."""

    def change(file: Path) -> None:
        document = {**json.loads(file.read_bytes()), **members}
        file.write_text(json.dumps({name: value for name, value in document.items() if value is not None}))

    return change


def linked(file: Path) -> None:
    """A file that is only a link to one."""
    file.rename(file.with_suffix(".real"))
    file.symlink_to(file.with_suffix(".real"))


SPOILED: dict[str, Callable[[Path], object]] = {
    "others may write the file": lambda file: file.chmod(0o602),
    "the group may write the file": lambda file: file.chmod(0o620),
    "others may write the folder": lambda file: file.parent.chmod(0o777),
    "a link": linked,
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "a pipe": lambda file: (file.unlink(), os.mkfifo(file)),
    "empty": lambda file: file.write_bytes(b""),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "no JSON": lambda file: file.write_bytes(b"<html>"),
    "a list": lambda file: file.write_bytes(b"[]"),
    "too large": lambda file: file.write_bytes(b" " * (3 << 20) + file.read_bytes()),
    "another issuer's": changed(issuer="https://other.example"),
    "another place's": changed(jwksUri="https://other.example/jwks"),
    "without a date": changed(fetched=None),
    "a text for a date": changed(fetched="1800000000"),
    "a boolean date": changed(fetched=True),
    "from the future": changed(fetched=1_800_000_061),
    "without keys": changed(keys=None),
    "no key": changed(keys=[]),
    "keys that are none": changed(keys={"kty": "RSA"}),
    "a secret": changed(keys=[{"kty": "oct", "alg": "HS256", "k": "A" * 43}]),
    "a weak key": changed(keys=[{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]),
    "twice": lambda file: file.write_bytes(file.read_bytes().replace(b"{", b'{"issuer": "a", ', 1)),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED.keys())
def test_what_may_not_be_ours_does_not_count(
    world: World, spoil: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    """One line in the log, and the store is cold, as without a file; the untouched one counts."""
    file = world.warm()
    assert state(world.store()).keys == KEYS
    caplog.set_level(logging.WARNING, "meshsec.keys")
    spoil(file)
    assert state(world.store()) == KeyState(None, fetchable=True)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "do not count" in caplog.text


def test_a_foreign_owner_does_not_count(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither this user nor root."""
    world.warm()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    if world.folder.stat().st_uid:
        assert state(world.store()).keys is None
    files = world.files()
    monkeypatch.setattr(os, "fstat", lambda _: os.stat_result((stat.S_IFREG | 0o600, 1, 1, 1, 54321, 1, 1, 1, 1, 1)))
    assert files.read(SOURCE, max_age=DAY) is None


def test_sources_do_not_share_a_file(world: World) -> None:
    """The same issuer at another place is another source."""
    world.warm()
    for other in (replace(SOURCE, jwks_uri=None), replace(SOURCE, issuer="https://b.example")):
        assert state(world.store(other), other).keys is None


@pytest.mark.parametrize(
    "spoil", [lambda folder: folder.chmod(0o500), lambda folder: (folder.rmdir(), folder.touch())]
)
def test_a_disk_that_fails_is_logged_once_and_nothing_else(
    world: World, spoil: Callable[[Path], object], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys serve from memory; what was on disk stays whole."""
    caplog.set_level(logging.WARNING, "meshsec.keys")
    world.folder.mkdir(parents=True)
    spoil(world.folder)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    files = world.files()
    for _ in range(3):
        files.write(SOURCE, KEYS)
    assert len(caplog.records) == 1
    assert not world.folder.is_dir() or list(world.folder.iterdir()) == []


def test_a_full_disk_leaves_the_last_file_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file is replaced by another, never written over."""
    world.warm()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        world.files().write(SOURCE, key_set(signing_key("ES256", "new")))
    assert state(world.store()).keys == KEYS
    assert len(list(world.folder.iterdir())) == 1


def test_the_folder_stands_in_mesh_yaml(tmp_path: Path) -> None:
    """Relative to it, like every other path."""
    (tmp_path / "mesh.yaml").write_text("keys: {cache: state/keys}")
    assert load_mesh(tmp_path).config.keys.cache == str(tmp_path / "state" / "keys")
    (tmp_path / "mesh.yaml").write_text("keys: {cache: ''}")
    with pytest.raises(ConfigError, match=r"mesh.yaml:1:.*cache"):
        load_mesh(tmp_path)


POLICY = """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: users, namespace: prod}}
spec: {{jwtRules: [{{issuer: https://issuer.example, jwksUri: "{url}", presence: REQUIRED}}]}}
"""


def test_a_service_restarts_while_its_issuer_is_away(tmp_path: Path) -> None:
    """From mesh.yaml to the decision, over a real socket: with the folder it serves at once, without it is cold.

    The folder stands in the mesh's own, where policies are looked for.
    """
    issuer = TestIssuer()
    (tmp_path / "mesh.yaml").write_text("workloads: {web: {namespace: prod}}\nkeys: {cache: state, timeout: 1}")

    def reason(token: str) -> Reason:
        request = HttpRequest("GET", "/", "web.prod", [("authorization", f"Bearer {token}")])
        with Mesh.load(tmp_path) as mesh:
            return mesh.decide(Connection(), request).reason

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(issuer.jwks)))
            self.end_headers()
            self.wfile.write(issuer.jwks.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with answering(HTTPServer(("127.0.0.1", 0), Handler)) as server:
        (tmp_path / "users.yaml").write_text(POLICY.format(url=f"http://127.0.0.1:{server.server_port}/"))
        assert reason(issuer.token()) is Reason.NO_ALLOW_POLICY
        until_one(tmp_path / "state")
    assert reason(issuer.token()) is Reason.NO_ALLOW_POLICY
    assert reason(TestIssuer().token()) is Reason.JWT_SIGNATURE
    (tmp_path / "mesh.yaml").write_text("workloads: {web: {namespace: prod}}\nkeys: {timeout: 1}")
    assert reason(issuer.token()) is Reason.KEYS_UNAVAILABLE
