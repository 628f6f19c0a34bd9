"""Two meshes that have their identities from an agent: a real server, a real client, and nothing in files."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from agent import Agent, Refuse, StandingAgent, given, x509_answer
from live import SERVER_ID, TIMEOUT, Served, command, free_port, serial, serving
from meshsec import Mesh
from meshsec.ca import CertificateAuthority
from meshsec.errors import ConfigError
from meshsec.spiffe import SpiffeId
from waiting import until

CLIENT_ID = SpiffeId.for_service_account("td.example", "prod", "client")
MESH = """
workloads:
  served: {{namespace: prod, serviceAccount: served, identity: {{workloadApi: unix://{folder}/served.sock}}}}
  client: {{namespace: prod, serviceAccount: client, identity: {{workloadApi: environment}}}}
meshConfig: {{trustDomain: td.example}}
services: {{served.prod: {{ids: [{server}]}}}}
allowNoPolicy: true
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A mesh, under a path that is short enough for a socket."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "mesh.yaml").write_text(MESH.format(folder=name, server=SERVER_ID))
        yield Path(name)


@pytest.fixture
def authority() -> CertificateAuthority:
    """Behind both agents."""
    return CertificateAuthority.create("td.example")


@pytest.fixture
def agents(folder: Path, authority: CertificateAuthority) -> Iterator[tuple[Agent, Agent]]:
    """The server's and the client's."""
    states = [
        x509_answer(given(authority.issue_x509_svid(name), authority.bundle)) for name in (SERVER_ID, CLIENT_ID)
    ]
    served = StandingAgent(f"unix://{folder}/served.sock", states[0])
    client = StandingAgent(f"unix://{folder}/client.sock", states[1])
    with served.serving(), client.serving():
        yield served, client


@pytest.fixture(params=["uvicorn h11 asyncio", "gunicorn gthread"])
def server(
    request: pytest.FixtureRequest,
    folder: Path,
    authority: CertificateAuthority,
    agents: tuple[Agent, Agent],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Served]:
    """A process of its own; gunicorn loads the mesh before it forks."""
    monkeypatch.setenv("MESHSEC_WORKLOAD", "served")
    port = free_port()
    arguments = command(request.param, folder, port)
    if "gunicorn" in request.param:
        conf = folder / "gunicorn.conf.py"
        conf.write_text(conf.read_text() + "preload_app = True\n")
    with serving(folder, arguments, port, authority) as served:
        yield served


def test_both_sides_have_their_identity_from_an_agent(
    folder: Path,
    authority: CertificateAuthority,
    agents: tuple[Agent, Agent],
    server: Served,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They talk; what the agent renews is served, what it denies is served no longer."""
    monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", f"unix://{folder}/client.sock")
    with Mesh.load(folder, workload="client") as mesh:
        context = mesh.client_context(authorize=SERVER_ID)
        with httpx.Client(verify=context, timeout=TIMEOUT) as client:
            answer = client.post(f"https://127.0.0.1:{server.port}/", content=b"").json()
        assert answer["peer"] == str(CLIENT_ID)
        renewed = authority.issue_x509_svid(SERVER_ID)
        agents[0].say(x509_answer(given(renewed, authority.bundle)))
        until(lambda: serial(server, context) == renewed.serial)
        agents[0].say(Refuse())
        until(lambda: serial(server, context) is None)


def test_a_missing_extra_is_an_error_at_the_start(
    folder: Path, agents: tuple[Agent, Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for a package."""
    monkeypatch.setitem(sys.modules, "meshsec.sources._workload_api_call", None)
    with pytest.raises(ConfigError, match=r"pip install 'meshsec\[workload-api\]'"):
        Mesh.load(folder, workload="served")


AGENT = "MESHSEC_IDENTITY_WORKLOAD_API"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "SPIFFE_ENDPOINT_SOCKET: a Workload API listens on"),
        ({"SPIFFE_ENDPOINT_SOCKET": "tcp://localhost:1"}, "SPIFFE_ENDPOINT_SOCKET: a Workload API listens on"),
        ({AGENT: "unix://relative"}, "a Workload API listens on"),
        ({AGENT: "unix:///a.sock", "MESHSEC_IDENTITY_FILES": "certs"}, "an identity has one source"),
    ],
)
def test_an_environment_that_says_nothing_usable_is_an_error(
    folder: Path, environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a mesh that waits for ever."""
    for name in ("SPIFFE_ENDPOINT_SOCKET", AGENT, "MESHSEC_IDENTITY_FILES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=expected):
        Mesh.load(folder, workload="client")


def test_our_own_variable_wins(folder: Path, agents: tuple[Agent, Agent], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an agent listens is the machine's affair; an identity of somebody else is an error all the same."""
    monkeypatch.setenv(AGENT, f"unix://{folder}/client.sock")
    with Mesh.load(folder, workload="client") as mesh:
        assert mesh.status()["identity"]["origin"] == os.environ[AGENT]
    with pytest.raises(ConfigError, match="this workload is"):
        Mesh.load(folder, workload="served")
