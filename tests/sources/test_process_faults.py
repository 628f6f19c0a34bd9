"""Clocks that jump, a process at its limits, workers that were forked: with real sockets where they matter."""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import pytest

from answering import answering
from forking import in_child
from issuing import ISSUER, POLICY, ask, unknown, warm
from live import free_port, serving
from meshsec import Mesh, MeshConfig, Reason, Workload
from meshsec.ca import CertificateAuthority
from meshsec.resources import KeysConfig, parse
from meshsec.testing import TestIssuer
from waiting import until

ROOT: Final = Path(__file__).parents[2]


@pytest.mark.parametrize("jump", [-3600, 3600, 86_400])
def test_the_wall_clock_moves_tokens_and_not_keys(jump: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys age by the clock that only grows; tokens are judged by the time that it is now."""
    with warm("well") as world:
        now, token = time.time(), ISSUER.token(nbf=int(time.time()))
        monkeypatch.setattr(time, "time", lambda: now + jump)
        expected = Reason.JWT_NOT_YET_VALID if jump < 0 else Reason.JWT_EXPIRED
        assert world.ask(token) is expected
        assert world.ask(ISSUER.token()) is Reason.ALLOW_RULE
        world.mesh._keys.refresh_due()
        assert world.fetches == 0


class Keys:
    """A real server with a key set that may be replaced."""

    def __init__(self, issuer: TestIssuer) -> None:
        self.body, outer = issuer.jwks.encode(), self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("content-length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks"


@pytest.fixture
def keys() -> Iterator[Keys]:
    """A running one."""
    found = Keys(ISSUER)
    with answering(found.server):
        yield found


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_without_descriptors_verifies_on(keys: Keys) -> None:
    """No socket is to be had for a fetch: what is known serves, what is not is refused, and nothing breaks."""
    config = MeshConfig(keys=KeysConfig(cooldown=0.01, token_cache=False))
    resources = parse(POLICY.replace("https://issuer.example/jwks", keys.url))
    with Mesh(workload=Workload(name="web", namespace="prod"), resources=resources, config=config) as mesh:
        assert ask(mesh, ISSUER.token()) is Reason.ALLOW_RULE

        def exhausted() -> bool:
            lowest = os.dup(0)
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            found = {ask(mesh, unknown(number)) for number in range(20)}
            [status] = mesh._keys.status()
            return (
                found == {Reason.JWT_UNKNOWN_KEY}
                and ask(mesh, ISSUER.token()) is Reason.ALLOW_RULE
                and "Too many open files" in status["last_error"]
            )

        assert in_child(exhausted)
        assert ask(mesh, ISSUER.token()) is Reason.ALLOW_RULE


SERVICE: Final = """
import os
from meshsec import Connection, HttpRequest, Mesh

mesh = Mesh.load()
mesh.start()
# Before the fork: keys are fetched, threads run, and a fetch may be in the air.
mesh.decide(Connection(), HttpRequest("GET", "/", "web", [("authorization", "Bearer " + os.environ["TOKEN"])]))

def app(environ, start_response):
    body = str(os.getpid()).encode()
    start_response("200 OK", [("content-length", str(len(body)))])
    return [body]

app = mesh.wsgi(app)
"""
MESH: Final = "workloads: {web: {namespace: prod}}\nkeys: {cooldown: 0.1, refresh: 600}\n"
WORKERS: Final = 4


def test_each_worker_of_a_preloaded_gunicorn_follows_a_rotation(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mesh was loaded, and in use, before the fork; each worker learns of a new key by itself."""
    (tmp_path / "service.py").write_text(SERVICE)
    (tmp_path / "mesh.yaml").write_text(MESH)
    (tmp_path / "policy.yaml").write_text(POLICY.replace("https://issuer.example/jwks", keys.url))
    old, new, port = ISSUER.token(), TestIssuer(key_id="test-2"), free_port()
    monkeypatch.setenv("TOKEN", old)
    options = ["--preload", "-w", str(WORKERS), "--bind", f"127.0.0.1:{port}", "--chdir", str(tmp_path)]
    command = [sys.executable, "-m", "gunicorn", *options, "service:app"]
    with serving(tmp_path, command, port, CertificateAuthority.create("td.example")):
        assert get(port, old)[0] == 200
        keys.body = new.jwks.encode()
        answered: dict[int, set[str]] = {}

        def by_all() -> bool:
            status, body = get(port, new.token())
            answered.setdefault(status, set()).add(body)
            return len(answered.get(200, ())) == WORKERS

        until(by_all)
        assert get(port, old) == (401, "Jwks doesn't have key to match kid or alg from Jwt")


def get(port: int, token: str) -> tuple[int, str]:
    """One request on a connection of its own."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/", headers={"authorization": f"Bearer {token}"})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_no_key_is_shipped() -> None:
    """Whoever has the package can sign nothing that a mesh would take."""
    private = re.compile(
        rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/]{16}|[\"']d[\"']:\s*[\"'][A-Za-z0-9_-]{16}"
    )
    files = [path for path in (ROOT / "src").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert len(files) > 200
    assert [path.name for path in files if private.search(path.read_bytes())] == []
    assert private.search(json.dumps({"kty": "EC", "d": "A" * 43}).encode())
