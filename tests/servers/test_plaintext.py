"""Real servers on a port that PeerAuthentication calls PERMISSIVE: plaintext and mutual TLS, and then STRICT."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from live import FULL, MESH_YAML, SERVERS, TIMEOUT, Served, ask, command, free_port, mesh, serving
from waiting import until
from wire import careless

SMALL: Final = ("uvicorn httptools uvloop", "gunicorn sync", "gunicorn gthread")
POLICY: Final = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: peers, namespace: prod}}
spec: {{mtls: {{mode: {mode}}}}}
"""


@pytest.fixture(params=SERVERS if FULL else SMALL)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    """Each of the servers in turn, its application behind the middleware, its port PERMISSIVE."""
    port, authority = free_port(), mesh(tmp_path)
    (tmp_path / "peers.yaml").write_text(POLICY.format(mode="PERMISSIVE"))
    with serving(tmp_path, command(request.param, tmp_path, port, "judged_"), port, authority) as served:
        yield served


def plainly(server: Served) -> tuple[int, dict[str, object]]:
    """One request in plaintext."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)) as connection:
        connection.request("POST", "/", body=b"x" * 1000)
        response = connection.getresponse()
        body = response.read()
        return response.status, json.loads(body) if response.status == 200 else {}


def passes(server: Served) -> bool:
    """Whether plaintext comes through."""
    try:
        return plainly(server)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def test_one_port_takes_both_until_the_policy_turns_strict(server: Served, tmp_path: Path) -> None:
    """Scheme and peer are the connection's; TLS still has to prove who it is; STRICT takes no plaintext."""
    status, facts = plainly(server)
    assert (status, facts["peer"], facts["scheme"], facts["length"]) == (200, None, "http", 1000)
    with closing(server.connect(server.caller("web"))) as connection:
        facts = ask(connection)
        assert (facts["peer"], facts["scheme"]) == ("spiffe://td.example/ns/prod/sa/web", "https")
    with (
        closing(server.connect(careless("client"))) as connection,
        pytest.raises((OSError, http.client.HTTPException)),
    ):
        ask(connection)
    (tmp_path / "peers.yaml").write_text(POLICY.format(mode="STRICT"))
    until(lambda: not passes(server))
    with pytest.raises((OSError, http.client.HTTPException)):
        plainly(server)
    with closing(server.connect(server.caller("web"))) as connection:
        assert ask(connection)["scheme"] == "https"


def test_without_a_peer_authentication_no_plaintext_passes(tmp_path: Path) -> None:
    """Istio's default judges plain listeners; ours takes only what was declared."""
    port, authority = free_port(), mesh(tmp_path)
    with serving(tmp_path, command(SMALL[0], tmp_path, port, "judged_"), port, authority) as server:
        assert not passes(server)
        with closing(server.connect(server.caller("web"))) as connection:
            facts = ask(connection)
            assert (facts["scheme"], facts["extension"]) == ("https", True)
            assert isinstance(connection.sock, ssl.SSLSocket)


LABELLED: Final = MESH_YAML.replace("served: {", "served: {labels: {app: served}, ")
OF_PORTS: Final = POLICY.replace(
    "spec: {{", "spec: {{selector: {{matchLabels: {{app: served}}}}, portLevelMtls: {ports}, "
)


@pytest.mark.parametrize("kind", SERVERS if FULL else SMALL[:1])
def test_a_ports_own_mode_counts_at_once(kind: str, tmp_path: Path) -> None:
    """Whatever the workload's is; a running server follows, and another port's is none of its business."""
    port, authority = free_port(), mesh(tmp_path)
    (tmp_path / "mesh.yaml").write_text(LABELLED)

    def say(mode: str, ports: str) -> None:
        (tmp_path / "peers.yaml").write_text(OF_PORTS.format(mode=mode, ports=ports))

    say("DISABLE", f"{{{port}: {{mode: STRICT}}}}")
    with serving(tmp_path, command(kind, tmp_path, port, "judged_"), port, authority) as server:
        caller = server.caller("web")
        for mode, ports, plain in (
            ("DISABLE", f"{{{port}: {{mode: STRICT}}}}", False),
            ("STRICT", f"{{{port}: {{mode: PERMISSIVE}}}}", True),
            ("STRICT", f"{{{port}: {{mode: UNSET}}, 1: {{mode: PERMISSIVE}}}}", False),
        ):
            say(mode, ports)
            until(lambda plain=plain: passes(server) is plain)
            with closing(server.connect(caller)) as connection:
                assert ask(connection)["peer"].endswith("/web")
