"""A real Envoy and meshsec ask one external authorizer about the same requests, and do the same with its answers."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from typing import Any, Final

import pytest

from authorizer import Authorizer, running
from interop import sidecar
from interop.sidecar import Site, sites
from meshsec import Connection, HttpRequest, Mesh, MeshConfig, Workload, WorkloadPolicy
from meshsec.middleware import render
from meshsec.resources import ExtAuthzHttp, Resource, parse

SHOWN: Final = ("x-a", "cookie", "p-*")
UPSTREAM: Final = ("x-sub", "authorization")
DOWNSTREAM: Final = ("set-cookie",)
DENIED: Final = {"listed": ("x-why",), "all": ()}
POLICY: Final = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: checked, namespace: prod}
spec: {action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {notPaths: [/free]}}]}]}
"""
WEB: Final = Workload(name="web", namespace="prod")

Lines = list[tuple[str, str]]
REQUESTS: Final[list[tuple[str, str, Lines]]] = [
    ("GET", "/a/../b?c=1", [("authorization", "Bearer t"), ("x-a", "1"), ("p-x", "3"), ("y", "4"), ("x-sub", "eve")]),
    ("POST", "/x", [("cookie", "a=b"), ("content-length", "0")]),
    ("OPTIONS", "/o", []),
    ("PROPFIND", "/", []),
    ("GET", "/free", [("x-sub", "eve")]),
]  # fmt: skip
ANSWERS: Final[list[tuple[int, Lines, bytes]]] = [
    (200, [], b""),
    (200, [("x-sub", "ada"), ("x-o", "1"), ("set-cookie", "a"), ("set-cookie", "b"), ("authorization", "N")], b""),
    (302, [("location", "/in"), ("x-why", "w")], b""),
    (401, [("www-authenticate", "Basic"), ("x-why", "w"), ("x-int", "1"), ("content-type", "text/html")], b"log in"),
    (403, [("x-why", "w"), ("x-int", "2")], b"no"),
    (404, [], b""),
    (429, [], b""),
    (500, [("x-why", "1")], b"broken"),
    (503, [], b""),
]  # fmt: skip

# What each side's own HTTP library adds.
ON_THE_WAY: Final = {"accept-encoding", "user-agent", "x-forwarded-for", "x-forwarded-proto", "x-request-id"}
OF_THE_SERVER: Final = {
    "connection",
    "content-length",
    "date",
    "server",
    "transfer-encoding",
    "x-envoy-upstream-service-time",
}


def settings(authorizer: Authorizer, denied: tuple[str, ...]) -> ExtAuthzHttp:
    """The provider, for meshsec."""
    return authorizer.settings(
        status_on_error="503",
        path_prefix="/check",
        include_request_headers_in_check=SHOWN,
        include_additional_headers_in_check={"x-from": "web"},
        headers_to_upstream_on_allow=UPSTREAM,
        headers_to_downstream_on_allow=DOWNSTREAM,
        headers_to_downstream_on_deny=denied,
    )


def compiled(provider: ExtAuthzHttp) -> tuple[list[Resource], MeshConfig]:
    """What meshsec judges by, and Envoy by its export."""
    return parse(POLICY), MeshConfig(compatibility="istio", extension_providers={"opa": provider})


def exported(provider: ExtAuthzHttp) -> dict[str, Any]:
    """The policy, for Envoy, and where it finds the provider."""
    resources, config = compiled(provider)
    found = WorkloadPolicy.compile(resources, WEB, config).to_envoy()
    name = found["http_filters"][1]["typed_config"]["http_service"]["server_uri"]["cluster"]
    address = {"socket_address": {"address": provider.host, "port_value": provider.port}}
    endpoints = {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}
    return {**found, "clusters": [{"name": name, "type": "STATIC", "load_assignment": endpoints}]}


@pytest.fixture(scope="module")
def authorizer() -> Iterator[Authorizer]:
    """Whom both ask."""
    with running() as found:
        yield found


@pytest.fixture(scope="module")
def places(authorizer: Authorizer) -> Iterator[dict[str, Site]]:
    """Where Envoy serves each setting."""
    found = dict(zip(DENIED, sites(len(DENIED), v6_every=100), strict=True))
    configured = [(found[name], exported(settings(authorizer, denied))) for name, denied in DENIED.items()]
    with sidecar.running(configured, ["cluster.local"]):
        yield found


def envoys(place: Site, method: str, target: str, headers: Lines) -> tuple[int, Lines, bytes]:
    """What Envoy answers."""
    connection = http.client.HTTPConnection(place.ip, place.plain_port, timeout=30)
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    for name, value in [("host", "web.prod"), *headers]:
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    lines = [(name.lower(), value) for name, value in response.getheaders() if name.lower() not in OF_THE_SERVER]
    body = response.read()
    connection.close()
    return response.status, sorted(lines), body


def ours(mesh: Mesh, method: str, target: str, headers: Lines) -> tuple[int, Lines, bytes]:
    """What meshsec answers; for a request that passes, what the same application as Envoy's would."""
    decision = mesh.decide(Connection(), HttpRequest(method, target, "web.prod", headers, "http"))
    if not decision.allowed:
        response = render(decision, method=method, content_type="")
        lines = [line for line in response.headers if line[0] not in OF_THE_SERVER]
        return response.status, sorted(lines), response.body
    kept = [line for line in headers if line[0] not in decision.edits.remove_headers]
    seen = dict([(":path", decision.edits.target or target), *kept, *decision.edits.add_headers])
    echoed = [(f"echo-{name.lstrip(':')}", seen[name]) for name in sidecar.ECHOED if name in seen]
    return 200, sorted([*echoed, *decision.edits.response_headers]), b""


def asked(authorizer: Authorizer) -> list[tuple[str, str, Lines]]:
    """What the authorizer was asked since it was last looked at."""
    found = [
        (method, path, sorted(line for line in lines if line[0] not in ON_THE_WAY and "envoy" not in line[0]))
        for method, path, lines in authorizer.asked
    ]
    authorizer.asked.clear()
    return found


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: f"{answer[0]} {len(answer[1])}")
@pytest.mark.parametrize("denied", DENIED)
def test_both_ask_and_do_the_same(
    authorizer: Authorizer, places: dict[str, Site], denied: str, answer: tuple[int, Lines, bytes]
) -> None:
    """The check, the answer to the client, and what reaches the application."""
    authorizer.status, authorizer.headers, authorizer.body = answer
    resources, config = compiled(settings(authorizer, DENIED[denied]))
    with Mesh(workload=WEB, resources=resources, config=config) as mesh:
        for request in REQUESTS:
            theirs = envoys(places[denied], *request), asked(authorizer)
            assert (ours(mesh, *request), asked(authorizer)) == theirs
