"""Mesh: loading, choosing a workload, living through forks and rotations, and never failing open."""

from __future__ import annotations

import asyncio
import os
import threading
import urllib.request
from pathlib import Path

import pytest

from meshsec import ConfigError, Connection, HttpRequest, Mesh, MeshConfig, Outcome, Reason, Workload, WorkloadPolicy
from meshsec.ca import CertificateAuthority, write_identity
from meshsec.mesh import _mesh
from meshsec.resources import PeerAuthentication, parse
from meshsec.testing import TestIssuer
from waiting import PATIENCE, until
from world import World, serve

ISSUER = TestIssuer()
MESH = """\
workloads:
  web: {namespace: prod, serviceAccount: web, identity: {files: certs}}
  reviews: {namespace: prod, serviceAccount: reviews}
services:
  web.prod: {ids: ["spiffe://cluster.local/ns/prod/sa/web"]}
allowNoPolicy: true
"""
POLICY = f"""\
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: users, namespace: prod}}
spec: {{jwtRules: [{{issuer: {ISSUER.issuer}, jwks: '{ISSUER.jwks}', presence: REQUIRED}}]}}
"""
REQUEST = HttpRequest("GET", "/", "web.prod", (), "http")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A central folder with two workloads and one policy."""
    (tmp_path / "mesh.yaml").write_text(MESH)
    (tmp_path / "users.yaml").write_text(POLICY)
    return tmp_path


def test_load_takes_folder_and_workload_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$MESHSEC_CONFIG and $MESHSEC_WORKLOAD stand in for the arguments."""
    monkeypatch.setenv("MESHSEC_CONFIG", str(folder))
    monkeypatch.setenv("MESHSEC_WORKLOAD", "reviews")
    assert Mesh.load().workload.name == "reviews"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({}, "no_folder"),
        ({"path": "."}, "no_workload"),
        ({"path": ".", "workload": "nobody"}, "unknown_workload"),
    ],
)
def test_load_says_what_is_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, str], code: str
) -> None:
    """Nothing is guessed: no folder, no workload and an unknown workload are errors with the known names."""
    monkeypatch.delenv("MESHSEC_CONFIG", raising=False)
    monkeypatch.delenv("MESHSEC_WORKLOAD", raising=False)
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError) as caught:
        Mesh.load(**arguments)
    assert caught.value.code == code


def test_decide_judges_the_loaded_policy(folder: Path) -> None:
    """The same request with a token and without; sync and async agree."""
    mesh = Mesh.load(folder, workload="reviews")
    refused = mesh.decide(Connection(), REQUEST)
    with_token = HttpRequest("GET", "/", "web.prod", (("authorization", f"Bearer {ISSUER.token()}"),), "http")
    assert (refused.outcome, refused.reason) == (Outcome.UNAUTHENTICATED, Reason.JWT_MISSING)
    assert mesh.decide(Connection(), with_token).allowed
    assert asyncio.run(mesh.decide_async(Connection(), with_token)).allowed


def test_broken_core_refuses(folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """An exception while judging is a refusal with a traceback in the log, never an open door."""
    mesh = Mesh.load(folder, workload="reviews")
    monkeypatch.setattr(WorkloadPolicy, "judge", lambda *_, **__: 1 / 0)
    decision = mesh.decide(Connection(), REQUEST)
    assert (decision.outcome, decision.status, decision.reason) == (Outcome.DENY, 500, Reason.INTERNAL_ERROR)
    assert "ZeroDivisionError" in caplog.text


class _Limit:
    """A process in which only so many more threads can begin."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, left: int) -> None:
        self.left = left
        self.begun: list[threading.Thread] = []
        begin = threading.Thread.start

        def start(thread: threading.Thread) -> None:
            if not self.left:
                raise RuntimeError("can't start new thread")
            self.left -= 1
            self.begun.append(thread)
            begin(thread)

        monkeypatch.setattr(threading.Thread, "start", start)

    def lasting(self) -> list[str]:
        """The names of those that live, but for fetches."""
        return sorted(one.name for one in self.begun if one.is_alive() and one.name != "meshsec-fetch")


def _threefold() -> Mesh:
    """A mesh with keys, policies and an identity to keep fresh."""
    mesh = Mesh(
        workload=Workload(name="web", namespace="prod", service_account="web"),
        resources=parse(
            POLICY.replace(f"jwks: '{ISSUER.jwks}', presence: REQUIRED", "jwksUri: 'http://127.0.0.1:1'")
        ),
        config=MeshConfig(allow_no_policy=True),
        identity=World().identity("web"),
    )
    assert mesh.status()["keys"]
    return mesh


THREADS = ["meshsec", "meshsec-identity", "meshsec-keys"]


@pytest.mark.parametrize("left", range(4))
def test_without_threads_requests_are_refused_until_there_are(left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Policies and certificates would grow old unseen; whichever thread is lacking, none lives twice in the end."""
    mesh, limit = _threefold(), _Limit(monkeypatch, left)
    refused = mesh.decide(Connection(), REQUEST)
    assert (refused.outcome, refused.status, refused.reason) == (Outcome.DENY, 500, Reason.INTERNAL_ERROR)
    limit.left = 0
    assert asyncio.run(mesh.decide_async(Connection(), REQUEST)) == refused
    assert mesh.recall(Connection(), (), (), ()) is None
    with pytest.raises(RuntimeError, match="new thread"):
        mesh.start()
    limit.left = 10
    assert mesh.decide(Connection(), REQUEST).allowed
    until(lambda: limit.lasting() == THREADS)
    mesh.close()
    until(lambda: limit.lasting() == [])


def test_a_request_that_waits_while_its_mesh_is_closed_begins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is answered with what is known, and no thread comes back."""
    mesh, asked, leave = _threefold(), threading.Event(), threading.Event()
    monkeypatch.setattr(mesh._keys, "_fetch", lambda *_, **__: (asked.set(), leave.wait(PATIENCE)))
    request = HttpRequest("GET", "/", "web.prod", (("authorization", f"Bearer {ISSUER.token()}"),), "http")
    found: list[Reason] = []
    waiting = threading.Thread(target=lambda: found.append(mesh.decide(Connection(), request).reason))
    waiting.start()
    assert asked.wait(PATIENCE)
    until(lambda: any(shelf.flight and shelf.flight.waiters for shelf in mesh._keys._shelves.values()))
    mesh.close()
    waiting.join(PATIENCE)
    leave.set()
    assert (found, mesh._running) == ([Reason.KEYS_UNAVAILABLE], False)


def test_a_turn_that_outlasts_a_close_is_the_last_of_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begun again meanwhile, the mesh has one thread of each kind."""
    monkeypatch.setattr(_mesh, "_POLL_SECONDS", 0.01)
    mesh, limit = _threefold(), _Limit(monkeypatch, 100)
    entered, leave = threading.Event(), threading.Event()
    monkeypatch.setattr(mesh._policies, "refresh", lambda: (entered.set(), leave.wait(PATIENCE)))
    mesh.start()
    assert entered.wait(PATIENCE)
    mesh.close()
    mesh.start()
    leave.set()
    until(lambda: limit.lasting() == THREADS)
    mesh.close()


def test_identity_is_optional_until_tls_is_asked_for(folder: Path) -> None:
    """Without an identity policies work; a TLS context is an error that names the workload."""
    mesh = Mesh.load(folder, workload="reviews")
    with pytest.raises(ConfigError, match="reviews has no identity"):
        mesh.server_context()


def test_identity_may_come_late(folder: Path) -> None:
    """A pod whose certificates are not mounted yet starts; once they are there the contexts work."""
    mesh = Mesh.load(folder, workload="web")
    context = mesh.server_context()
    authority = CertificateAuthority.create("cluster.local")
    web = "spiffe://cluster.local/ns/prod/sa/web"
    with serve(context) as server:
        write_identity(folder / "certs", authority.issue_x509_svid(web), authority.bundle)
        mesh._identity.refresh(authority.issue_x509_svid(web).not_before + 120)  # type: ignore[union-attr]
        with urllib.request.urlopen(
            f"https://127.0.0.1:{server.server_port}/", context=mesh.client_context(web)
        ) as response:
            assert response.status == 200


def test_identity_of_another_account_is_an_error(folder: Path) -> None:
    """A certificate of someone else is a mistake in the mount, and is said at once."""
    authority = CertificateAuthority.create("cluster.local")
    other = authority.issue_x509_svid("spiffe://cluster.local/ns/prod/sa/reviews")
    write_identity(folder / "certs", other, authority.bundle)
    with pytest.raises(ConfigError) as caught:
        Mesh.load(folder, workload="web")
    assert caught.value.code == "wrong_identity"


def test_environment_says_where_certificates_are(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """$MESHSEC_IDENTITY_FILES wins over mesh.yaml: mounts are the machine's affair."""
    authority = CertificateAuthority.create("cluster.local")
    svid = authority.issue_x509_svid("spiffe://cluster.local/ns/prod/sa/web")
    write_identity(tmp_path / "elsewhere", svid, authority.bundle)
    monkeypatch.setenv("MESHSEC_IDENTITY_FILES", str(tmp_path / "elsewhere"))
    status = Mesh.load(folder, workload="web").status()
    assert status["identity"]["serial"] == f"{svid.serial:x}"


def test_disabled_port_has_no_context() -> None:
    """Where PeerAuthentication says DISABLE, asking for a context is an error."""
    world = World()
    disabled = PeerAuthentication(
        metadata={"name": "default", "namespace": "istio-system"}, spec={"mtls": {"mode": "DISABLE"}}
    )
    mesh = Mesh(
        workload=Workload(name="web", namespace="prod", service_account="web"),
        resources=[disabled],
        config=MeshConfig(),
        identity=world.identity("web"),
    )
    with pytest.raises(ConfigError, match="disables TLS"):
        mesh.server_context(8443)


def test_thread_starts_anew_after_a_fork() -> None:
    """A forked worker has its own background thread, and no lock that was held in the parent."""
    mesh = World().mesh("web")
    mesh.start()
    with mesh._lock:
        child = os.fork()
        if child == 0:
            alive = not mesh._running
            mesh.start()
            os._exit(0 if alive and mesh._running else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    mesh.close()


def test_several_meshes_live_in_one_process() -> None:
    """Each mesh has its own identity, thread and status."""
    world = World()
    with world.mesh("web") as web, world.mesh("reviews") as reviews:
        assert web.status()["workload"] == "prod/web"
        assert reviews.status()["identity"]["id"].endswith("/sa/reviews")
        assert web.status()["identity"]["serial"] != reviews.status()["identity"]["serial"]
