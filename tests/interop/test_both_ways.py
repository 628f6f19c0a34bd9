"""A real Envoy with Istio's TLS settings on one side, and a server or a client of ours on the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest

from callers import CALLERS, Get, by_httpx2_over_http2
from interop import fronts
from live import FULL, SERVER_ID, SERVERS, command, free_port, mesh, serving
from meshsec import Mesh, MeshConfig, Workload
from meshsec.resources import ForwardedIdentity, Service
from meshsec.servers.uvicorn import context_factory
from world import World

# What istiod writes: what a sidecar offers, and the inbound chain that takes it for the mesh's.
OFFERED: Final = ["istio-peer-exchange", "istio"]
MESH_ALPN: Final = ["istio-peer-exchange", "istio", "istio-http/1.0", "istio-http/1.1", "istio-h2"]
VERSIONS: Final = {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"}
ONE_OF_EACH: Final = ("uvicorn httptools uvloop", "gunicorn gthread")


def exactly(*ids: str) -> dict[str, Any]:
    """Which names a certificate may have."""
    return {"match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": one}} for one in ids]}


def upstream(front: fronts.Front, port: int, *ids: str) -> dict[str, Any]:
    """A service of the mesh, as a sidecar calls it: ISTIO_MUTUAL."""
    tls = fronts.mutual_tls(
        front,
        "Upstream",
        sni=f"outbound_.{port}_._.served.prod.svc.cluster.local",
        validation=exactly(*ids),
        common={"alpn_protocols": OFFERED, "tls_params": VERSIONS},
    )
    return fronts.cluster({"socket_address": {"address": "127.0.0.1", "port_value": port}}, transport_socket=tls)


ROUTE: Final = {"match": {"prefix": ""}, "route": {"cluster": "app"}}


def get(port: int) -> httpx2.Response:
    """Ask a sidecar, as the program beside it would."""
    return httpx2.get(f"http://127.0.0.1:{port}/", trust_env=False, timeout=30)


@pytest.mark.parametrize("name", SERVERS if FULL else ONE_OF_EACH)
def test_an_envoy_calls_our_servers(name: str, tmp_path: Path) -> None:
    """It takes our certificate for the service's, we know who it is; another name it does not take."""
    ours = tmp_path / "ours"
    ours.mkdir()
    authority, port = mesh(ours), free_port()
    web = authority.issue_x509_svid("spiffe://td.example/ns/prod/sa/web")
    with serving(ours, command(name, ours, port, "judged_"), port, authority) as served:
        for expected, status in ((SERVER_ID, 200), (SERVER_ID + "x", 503)):
            there, folder = free_port(), tmp_path / expected[-1]
            folder.mkdir()
            front = fronts.Front(folder, web, authority)
            with fronts.envoy(front, [fronts.http_listener(there, {}, ROUTE)], [upstream(front, port, expected)]):
                response = get(there)
                assert response.status_code == status, (response.text, served.log)
                if status == 200:
                    assert json.loads(response.text)["peer"] == "spiffe://td.example/ns/prod/sa/web"


def test_a_gateway_proves_itself_by_its_own_certificate(tmp_path: Path) -> None:
    """Envoy ends a client's mutual TLS and hands its certificate on over its own: the client is the peer."""
    world, port, there = World(), free_port(), free_port()
    gateway = str(world.id("ingress"))
    reviews = Mesh(
        workload=Workload(name="reviews", namespace="prod", service_account="reviews"),
        config=MeshConfig(forwarded_identity=ForwardedIdentity(format="xfcc", ids=(gateway,)), allow_no_policy=True),
        identity=world.identity("reviews"),
    )
    front = fronts.Front(tmp_path, world.identity("ingress").identity.svid, world.authority)
    manager = {
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"cert": True, "uri": True, "subject": True, "dns": True},
    }
    listener = fronts.http_listener(
        there,
        manager,
        ROUTE,
        {"transport_socket": fronts.mutual_tls(front, "Downstream", require_client_certificate=True)},
    )
    served = fronts.application(
        reviews, host="127.0.0.1", port=port, ssl_context_factory=context_factory(reviews, port)
    )
    caller = world.mesh("web", {"gateway.prod": Service(ids=(gateway,), endpoints=(f"127.0.0.1:{there}",))})
    direct = world.mesh(
        "web", {"reviews.prod": Service(ids=(str(world.id("reviews")),), endpoints=(f"127.0.0.1:{port}",))}
    )
    with served, fronts.envoy(front, [listener], [upstream(front, port, str(world.id("reviews")))]):
        for client, url in ((caller, "https://gateway.prod/"), (direct, "https://reviews.prod/")):
            status, text = CALLERS[0](client, url)
            assert (status, json.loads(text)["peer"]) == (200, str(world.id("web")))


@pytest.fixture(scope="module")
def world() -> World:
    """One trust domain."""
    return World()


@pytest.fixture(scope="module", params=["reviews", "intruder"])
def sidecar(request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Envoy as a PERMISSIVE sidecar: TLS without Istio's ALPN is not for it to end. Whose it is, and its port."""
    port, folder = free_port(), tmp_path_factory.mktemp(request.param)
    front = fronts.Front(folder, world.identity(request.param).identity.svid, world.authority)
    tls = fronts.mutual_tls(
        front,
        "Downstream",
        require_client_certificate=True,
        validation=exactly(str(world.id("web"))),
        common={"alpn_protocols": ["h2", "http/1.1"]},
    )
    chain = {
        "transport_socket": tls,
        "filter_chain_match": {"transport_protocol": "tls", "application_protocols": MESH_ALPN},
    }
    route = {"match": {"prefix": ""}, "direct_response": {"status": 200, "body": {"inline_string": "by a sidecar"}}}
    with fronts.envoy(front, [fronts.http_listener(port, {}, route, chain)]):
        yield request.param, port


@pytest.mark.parametrize("caller", [*CALLERS, by_httpx2_over_http2], ids=lambda caller: caller.__name__)
def test_our_clients_call_an_envoy(sidecar: Any, world: World, caller: Get) -> None:
    """It takes our TLS for the mesh's; under another account's certificate it gets no request."""
    account, port = sidecar
    service = Service(ids=(str(world.id("reviews")),), endpoints=(f"127.0.0.1:{port}",))
    web = world.mesh("web", {"reviews.prod": service})
    if account == "reviews":
        assert caller(web, "https://reviews.prod/") == (200, "by a sidecar")
    else:
        with pytest.raises(Exception, match=r"(?i)intruder|certificate|ssl"):
            caller(web, "https://reviews.prod/")
