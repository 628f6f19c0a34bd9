"""What users of Django expect to hold in their hands, behind the real middleware, under WSGI and ASGI."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.decorators import login_required, permission_required
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import Client, override_settings
from django.urls import path

from frameworks.apps import configure_django
from meshsec import Connection, Mesh, MeshConfig, Workload
from meshsec.frameworks.django import MeshUser
from meshsec.policy import CheckAnswer
from meshsec.resources import parse
from meshsec.testing import MeshClient, TestIssuer, TestPeers, assert_allowed, assert_denied

configure_django()

ISSUER = TestIssuer()
POLICIES = f"""
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: users, namespace: prod}}
spec: {{jwtRules: [{{issuer: {ISSUER.issuer}, outputClaimToHeaders: [{{header: x-user, claim: sub}}]}}]}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: no-admin, namespace: prod}}
spec: {{action: DENY, rules: [{{to: [{{operation: {{paths: [/admin]}}}}]}}]}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: ask, namespace: prod}}
spec: {{action: CUSTOM, provider: {{name: opa}}, rules: [{{to: [{{operation: {{paths: [/asked]}}}}]}}]}}
"""


def me(request: Any) -> JsonResponse:
    """Who calls, as Django says it."""
    user = request.user
    facts = [user.is_authenticated, user.is_anonymous, str(user), user.get_full_name()]
    return JsonResponse([*facts, request.mesh.decision.allowed, request.headers.get("x-user")], safe=False)


async def me_later(request: Any) -> JsonResponse:
    """The same in a coroutine."""
    user = await request.auser()
    return JsonResponse([user is request.user, user.username], safe=False)


@login_required
def private(request: HttpRequest) -> HttpResponse:
    """Only for users."""
    return HttpResponse("private")


@permission_required(["orders.read", "orders.write"], raise_exception=True)
def write(request: HttpRequest) -> HttpResponse:
    """Only with both scopes."""
    return HttpResponse("written")


def broken(request: HttpRequest) -> HttpResponse:
    """A view with a mistake."""
    raise ZeroDivisionError


class Urls:
    """A module of routes, as Django takes it."""

    urlpatterns = (
        path("me", me), path("later", me_later), path("private", private), path("write", write),
        path("broken", broken), path("asked", me), path("admin", me),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _project() -> Any:
    with override_settings(ROOT_URLCONF=Urls, MIDDLEWARE=["meshsec.frameworks.django.MeshMiddleware"]):
        yield


def mesh() -> Mesh:
    """Tokens are optional, /admin is nobody's, and /asked is somebody else's to say."""
    config = MeshConfig(extension_providers={"opa": None})
    workload = Workload(name="shop", namespace="prod")
    return Mesh(workload=workload, resources=parse(POLICIES), config=config)


def client(kind: type = WSGIHandler, token: str | None = None, **options: Any) -> MeshClient:
    """What ``mesh_client`` makes."""
    app = mesh().asgi(ASGIHandler()) if kind is ASGIHandler else mesh().wsgi(kind())
    return MeshClient(app, Connection(), [ISSUER], token, **options)


BOTH = pytest.mark.parametrize("kind", [WSGIHandler, ASGIHandler])


@BOTH
def test_django_knows_the_user(kind: type) -> None:
    """Name and identity are the token's; without one there is nobody; a client's own output header is gone."""
    nobody = client(kind).get("/me", headers={"x-user": "root"})
    assert nobody.json() == [False, True, "", "", True, None]
    found = client(kind, ISSUER.token(sub="alice", name="Alice A.")).get("/me", headers={"x-user": "root"})
    assert found.json() == [True, False, f"{ISSUER.issuer}/alice", "Alice A.", True, "alice"]
    assert client(kind, ISSUER.token(sub="bob", name=7)).get("/me").json()[3] == "bob"


@BOTH
def test_coroutines_know_it_too(kind: type) -> None:
    """A view that is one, and ``request.auser()``."""
    assert client(kind, ISSUER.token(sub="alice")).get("/later").json() == [True, f"{ISSUER.issuer}/alice"]


@BOTH
@pytest.mark.parametrize(
    ("scope", "status"),
    [
        (None, 403), ("orders.read", 403), ("orders.read orders.write", 200), (["orders.read", "orders.write"], 200),
        ("orders.readorders.write", 403), ({"orders.read": 1, "orders.write": 1}, 403),
    ],
)  # fmt: skip
def test_djangos_decorators_ask_for_scopes(kind: type, scope: Any, status: int) -> None:
    """``permission_required``: every word must be there."""
    assert client(kind, ISSUER.token(scope=scope)).get("/write").status_code == status


@BOTH
def test_djangos_decorators_ask_for_a_user(kind: type) -> None:
    """``login_required``."""
    assert client(kind, ISSUER.token()).get("/private").content == b"private"


def test_a_user_has_no_more_than_its_token() -> None:
    """No staff, no module permissions, none for single objects, no key of a database."""
    user = MeshUser(None)
    assert (user.is_staff, user.is_superuser, user.is_active, user.pk) == (False, False, True, None)
    assert not user.has_perm("a")
    assert not user.has_module_perms("a")
    assert user.get_username() == ""


@BOTH
def test_refusals_never_reach_django(kind: type) -> None:
    """A bad token and a denied path are answered by the mesh."""
    refused = client(kind, TestIssuer().token()).get("/me")
    assert_denied(refused, reason="jwt_signature")
    assert (refused.status_code, refused.content) == (401, b"Jwt verification fails")
    assert "invalid_token" in refused.headers["www-authenticate"]
    assert_denied(client(kind).get("/admin"), reason="deny_rule")


@BOTH
def test_an_unwrapped_project_does_not_run(kind: type) -> None:
    """Whoever forgot to wrap it learns it with the first request."""
    with pytest.raises(RuntimeError, match="not wrapped"):
        Client().get("/me")
    with pytest.raises(RuntimeError, match="not wrapped"):
        Client(headers={"meshsec": "x"}).get("/me")


# ------------------------------------------------------------------------------------------------ the test client


def test_responses_are_djangos_own() -> None:
    """With what Django's test client adds to them, of the view and of a refusal."""
    found = client().get("/me?page=1")
    assert isinstance(found, HttpResponse)
    assert_allowed(found)
    assert found.resolver_match.func is me
    assert found.wsgi_request.GET["page"] == "1"
    refused = client().get("/admin")
    assert isinstance(refused, HttpResponse)
    assert refused.wsgi_request.path == "/admin"
    posted = client().post("/me", {"a": "b"})
    assert posted.wsgi_request.POST["a"] == "b"
    with pytest.raises(ZeroDivisionError):
        client().get("/broken")


def test_a_peer_is_handed_on() -> None:
    """As with every other test client."""
    web = TestPeers().peer("spiffe://cluster.local/ns/prod/sa/web")
    app = mesh().wsgi(WSGIHandler())
    found = MeshClient(app, Connection(peer=web, tls=True), [ISSUER]).get("/me")
    assert found.wsgi_request.mesh.peer == web
    assert found.wsgi_request.scheme == "https"


@BOTH
@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (True, 200),
        (False, 403),
        (CheckAnswer(allowed=False, status=418, body=b"teapot"), 418),
        (lambda question: question.target == "/asked?yes", 200),
        (lambda _: 1 / 0, 403),
    ],
)
def test_an_authorizer_answers_what_the_test_says(kind: type, answer: Any, status: int) -> None:
    """True, False, an answer, or a function of the question; without one the test is told what is missing."""
    found = client(kind, providers={"opa": answer}).get("/asked?yes")
    assert found.status_code == status
    assert client(kind, providers={"opa": False}).get("/me").status_code == 200
    with pytest.raises(TypeError, match="say what opa answers"):
        client(kind).get("/asked")
