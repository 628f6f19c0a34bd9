"""The WSGI middleware over real policies, called as a server calls it."""

from __future__ import annotations

from typing import Any

import pytest
from werkzeug.test import EnvironBuilder, run_wsgi_app

from meshsec import Mesh, MeshConfig, Workload
from meshsec.resources import parse
from meshsec.testing import TestIssuer

ISSUER = TestIssuer()
POLICIES = f"""
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: users, namespace: prod, annotations: {{meshsec.dev/exclude-paths: /health}}}}
spec:
  jwtRules:
  - issuer: {ISSUER.issuer}
    jwks: '{ISSUER.jwks}'
    outputClaimToHeaders: [{{header: x-user, claim: sub}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: no-admin, namespace: prod}}
spec:
  action: DENY
  rules:
  - to: [{{operation: {{paths: ["/admin*"]}}}}]
  - when: [{{key: 'request.headers[x-role]', values: [guest]}}]
"""


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    """A mesh of one workload, without an identity."""
    return Mesh(workload=Workload(name="web", namespace="prod"), resources=parse(POLICIES), config=MeshConfig())


def call(mesh: Mesh, path: str, *, headers: dict[str, str] | None = None, **environ: Any) -> tuple[str, bytes, Any]:
    """One request; returns the status line, the body and the environ the application saw, if it was called."""
    seen: list[dict[str, Any]] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ)
        start_response("200 OK", [])
        return [b"hello"]

    built = EnvironBuilder(path=path, headers={"host": "web.prod", **(headers or {})}).get_environ()
    built.update(environ)
    body, status, _ = run_wsgi_app(mesh.wsgi(app), built)
    return status, b"".join(body), seen[0] if seen else None


def bearer(**claims: Any) -> dict[str, str]:
    """The header of a good token."""
    return {"authorization": f"Bearer {ISSUER.token(**claims)}"}


def test_allowed_request_reaches_the_app_with_its_context(mesh: Mesh) -> None:
    """A good token lets the request in, and environ["meshsec"] says who calls."""
    status, _, environ = call(mesh, "/x", headers=bearer(sub="ada"))
    assert status == "200 OK"
    assert environ["meshsec"].principal.subject == "ada"
    assert environ["HTTP_X_USER"] == "ada"
    assert "HTTP_AUTHORIZATION" not in environ


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/x", "401 Unauthorized", b"Jwt is missing"),
        ("/health", "200 OK", b"hello"),
    ],
)
def test_token_is_demanded_where_the_rule_triggers(mesh: Mesh, path: str, status: str, body: bytes) -> None:
    """An excluded path is open; every other one asks for a token."""
    assert call(mesh, path)[:2] == (status, body)


@pytest.mark.parametrize("key", ["RAW_URI", "REQUEST_URI"])
@pytest.mark.parametrize(
    ("raw", "decoded", "status"),
    [
        ("/admin", "/admin", "403 Forbidden"),
        ("//admin", "//admin", "403 Forbidden"),
        ("/%61dmin", "/admin", "403 Forbidden"),
        ("/x/../admin", "/x/../admin", "403 Forbidden"),
        ("/admin%0a", "/admin\n", "400 Bad Request"),
        ("/admin%2fx", "/admin/x", "400 Bad Request"),
        ("http://web.prod/admin", "/admin", "403 Forbidden"),
        ("/x", "/admin", "403 Forbidden"),
        ("/admin", "/x", "200 OK"),
    ],
)
def test_path_is_the_raw_one_where_it_is_what_is_routed(
    mesh: Mesh, key: str, raw: str, decoded: str, status: str
) -> None:
    """The raw target is judged only if it decodes to the path that the application will route on."""
    environ = {key: raw, "PATH_INFO": decoded}
    other = "REQUEST_URI" if key == "RAW_URI" else "RAW_URI"
    environ[other] = ""
    assert call(mesh, "/", headers=bearer(), **environ)[0] == status


def test_app_sees_the_path_that_was_judged(mesh: Mesh) -> None:
    """PATH_INFO and the raw target are both of the normalized path."""
    environ = call(
        mesh, "/", headers=bearer(), RAW_URI="/a/../b%20c?q=%20", PATH_INFO="/a/../b c", QUERY_STRING="q=%20"
    )[2]
    assert (environ["PATH_INFO"], environ["RAW_URI"], environ["QUERY_STRING"]) == ("/b c", "/b%20c?q=%20", "q=%20")


def test_mount_stays_out_of_path_info(mesh: Mesh) -> None:
    """Under SCRIPT_NAME only the rest of the path is rewritten, and leaving the mount is refused."""
    mounted = {"SCRIPT_NAME": "/api", "PATH_INFO": "/a/../b", "RAW_URI": "/api/a/../b", "REQUEST_URI": ""}
    assert call(mesh, "/", headers=bearer(), **mounted)[2]["PATH_INFO"] == "/b"
    left = {**mounted, "PATH_INFO": "/../b", "RAW_URI": "/api/../b"}
    assert call(mesh, "/", headers=bearer(), **left)[0] == "400 Bad Request"


@pytest.mark.parametrize(
    ("value", "status"), [("guest", "403 Forbidden"), ("a,guest", "403 Forbidden"), ("a", "200 OK")]
)
def test_joined_headers_are_judged_piece_by_piece(mesh: Mesh, value: str, status: str) -> None:
    """A DENY on a header cannot be escaped by a second line that the server joins to it."""
    assert call(mesh, "/x", headers={**bearer(), "x-role": value})[0] == status


@pytest.mark.parametrize("name", ["Script-Name", "Path-Info"])
def test_a_client_cannot_choose_the_mount(mesh: Mesh, name: str) -> None:
    """A header that some servers take for SCRIPT_NAME or PATH_INFO is refused before it could move the path."""
    assert call(mesh, "/public/x", headers={**bearer(), name: "/public"})[0] == "400 Bad Request"
    assert call(mesh, "/public/x", headers={**bearer(), "x-script-name": "/public"})[0] == "200 OK"


def test_app_does_not_see_a_raw_target_that_was_not_judged(mesh: Mesh) -> None:
    """Where an outer layer rewrote the path, the old raw target goes."""
    environ = call(mesh, "/", headers=bearer(), RAW_URI="/admin?x=1", PATH_INFO="/y", QUERY_STRING="x=1")[2]
    assert (environ["PATH_INFO"], environ["RAW_URI"], environ["REQUEST_URI"]) == ("/y", "/y?x=1", "/y?x=1")
