"""The plain listener for probes: declared paths, and nothing else."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from threading import Thread

import pytest

from forking import in_child
from live import free_port
from meshsec import Mesh, MeshConfig, Workload
from meshsec.errors import ConfigError, SvidError
from meshsec.servers.probes import ProbeListener, is_ready, listen
from meshsec.sources import Identity
from threadless import no_more_threads
from world import World


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    """A mesh with an identity."""
    with World().mesh("reviews") as found:
        yield found


class Nowhere:
    """A source that has nothing yet."""

    origin = "nowhere"

    def read(self, now: float) -> Identity:
        raise SvidError("not yet", code="no_svid")


def ask(listener: ProbeListener, target: str, method: str = "GET") -> tuple[int, bytes]:
    """One request."""
    with closing(http.client.HTTPConnection("127.0.0.1", listener.port, timeout=20)) as connection:
        connection.request(method, target)
        response = connection.getresponse()
        return response.status, response.read()


@pytest.fixture(scope="module")
def listener() -> Iterator[ProbeListener]:
    """One for all questions."""
    with World().mesh("reviews") as mesh, listen(mesh, port=0, host="127.0.0.1") as found:
        yield found


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/livez", 200),
        ("/readyz", 200),
        ("/readyz?verbose", 200),
        ("/", 404),
        ("/livez/", 404),
        ("/LIVEZ", 404),
        ("/livez/../secret", 404),
        ("/%6Civez", 404),
        ("/reviews/1", 404),
        ("http://x/livez", 404),
    ],
)
def test_only_declared_paths_are_answered(target: str, status: int, listener: ProbeListener) -> None:
    """Exactly as written; nothing is ever said but the status."""
    assert ask(listener, target) == (status, b"")
    assert ask(listener, target, "HEAD") == (status, b"")
    assert ask(listener, target, "POST")[0] == 501


def test_a_workload_without_an_identity_is_not_ready(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one whose certificate has ended; one that needs none is."""
    config, workload = MeshConfig(allow_no_policy=True), Workload(name="reviews", namespace="prod")
    assert is_ready(Mesh(workload=workload, config=config))
    late = Mesh(workload=workload, config=config, identity=Nowhere())
    with listen(late, port=0, host="127.0.0.1") as listener:
        assert (ask(listener, "/readyz")[0], ask(listener, "/livez")[0]) == (503, 200)
    assert is_ready(mesh)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 10 * 365 * 86400)
    assert not is_ready(mesh)


def test_a_check_of_ones_own_that_fails_is_not_well(mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    """Its error stays in the log."""

    def broken() -> bool:
        raise KeyError("private")

    checks = {"/db": lambda: False, "/broken": broken, "/fine": lambda: True}
    with listen(mesh, port=0, host="127.0.0.1", checks=checks) as listener:
        found = {path: ask(listener, path) for path in (*checks, "/livez")}
    assert found == {"/db": (503, b""), "/broken": (503, b""), "/fine": (200, b""), "/livez": (404, b"")}
    assert "a probe's check failed" in caplog.text


@pytest.mark.parametrize("path", ["livez", "", "/livez?x=1"])
def test_a_path_that_could_never_match_is_refused(path: str, mesh: Mesh) -> None:
    """Before anything listens; so is a listener for nothing."""
    with pytest.raises(ConfigError, match="slash"):
        listen(mesh, port=0, checks={path: lambda: True})
    with pytest.raises(ConfigError, match="none given"):
        listen(mesh, port=0, checks={})


def test_a_listener_without_a_thread_leaves_nothing_open(mesh: Mesh) -> None:
    """Else probes would connect to a port at which nobody ever answers."""

    port = free_port()
    with no_more_threads(), pytest.raises(RuntimeError) as held:
        listen(mesh, port=port, host="127.0.0.1")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=20)
    assert held.value.args  # so long the listener that failed is not collected


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_closes_its_own_and_no_more(mesh: Mesh) -> None:
    """Its parent's thread did not come along: there is nothing to wait for, and the parent listens on."""
    with listen(mesh, port=0, host="127.0.0.1") as listener:

        def closed() -> bool:
            thread = Thread(target=listener.close, daemon=True)
            thread.start()
            thread.join(20)
            return not thread.is_alive()

        assert in_child(closed)
        assert ask(listener, "/livez") == (200, b"")
