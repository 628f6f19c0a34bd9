"""Problem details (RFC 9457): who gets them, what stands in them, and that nobody gets them unasked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient
from werkzeug.test import Client

from meshsec import Decision, Mesh, MeshConfig, Outcome, Reason, Workload
from meshsec.decision import Edits
from meshsec.middleware import render
from meshsec.middleware._problem import wants_problem
from meshsec.resources import parse

DENY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: prod}
spec: {action: DENY, rules: [{}]}
"""
JSON = "application/problem+json"
REFUSED = Decision(Outcome.DENY, Reason.DENY_RULE, "RBAC: access denied", "prod/nobody", 0)


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("application/problem+json", True),
        ("application/json", True),
        ("APPLICATION/JSON; q=0.5", True),
        ("application/*", True),
        ("text/html, application/json;q=0.9, */*;q=0.8", True),
        ("text/plain;q=0.5, application/json", True),
        ("text/plain, application/json", True),
        ("text/plain, application/json;q=0.9", False),
        ("text/*, application/json;q=0.9", False),
        ("application/json;q=0", False),
        ("application/problem+json;q=0, application/json", False),
        ("application/json;q=x", False),
        ("application/json;q=nan", False),
        ("application/json;q=0.12345", False),
        ("*/*", False),
        ("text/html", False),
        ("", False),
        ("application/json," + "x" * 2000, False),
    ],
)
def test_who_asks_gets_json(accept: str, *, wanted: bool) -> None:
    """JSON must be named, and not be rated lower than plain text."""
    assert wants_problem(accept) is wanted


@given(st.text(max_size=40))
def test_any_accept_is_read(accept: str) -> None:
    """Yes or no, and never an error."""
    assert wants_problem(accept) in (True, False)


def test_the_words_are_the_same() -> None:
    """Status and detail as in the text; no policy, no rule, no reason."""
    response = render(REFUSED, method="GET", content_type="", accept="application/json")
    headers = dict(response.headers)
    assert (response.status, headers["content-type"], headers["vary"]) == (403, JSON, "accept")
    assert headers["content-length"] == str(len(response.body))
    assert json.loads(response.body) == {
        "type": "about:blank", "title": "Forbidden", "status": 403, "detail": "RBAC: access denied",
    }  # fmt: skip
    head = render(REFUSED, method="HEAD", content_type="", accept="application/json")
    assert (head.headers, head.body) == (response.headers, b"")


def test_others_are_answered_as_before() -> None:
    """Without the switch, without asking, over gRPC, and where an authorizer wrote the answer itself."""
    plain = render(REFUSED, method="GET", content_type="")
    assert dict(plain.headers) == {"content-type": "text/plain", "content-length": "19"}
    unasked = render(REFUSED, method="GET", content_type="", accept="*/*")
    assert (unasked.body, dict(unasked.headers)) == (plain.body, {**dict(plain.headers), "vary": "accept"})
    grpc = render(REFUSED, method="POST", content_type="application/grpc", accept="application/json")
    assert grpc.body == b""
    assert dict(grpc.headers)["content-type"] == "application/grpc"
    own = Decision(Outcome.DENY, Reason.DENY_RULE, "no", edits=Edits(body=b"own"))
    assert render(own, method="GET", content_type="", accept="application/json").body == b"own"


async def hello(_scope: Any, _receive: Any, send: Any) -> None:
    """Never reached."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("switch", [True, False])
def test_both_middlewares_follow_the_switch(*, switch: bool) -> None:
    """``problemDetails`` in mesh.yaml; off by default."""
    mesh = Mesh(
        workload=Workload(name="web", namespace="prod"),
        resources=parse(DENY),
        config=MeshConfig(problem_details=switch),
    )
    expected = JSON if switch else "text/plain"
    asgi = TestClient(mesh.asgi(hello)).get("/", headers={"accept": JSON})
    wsgi = Client(mesh.wsgi(lambda *_: [b""])).get("/", headers={"accept": JSON})
    for found in (asgi, wsgi):
        assert found.status_code == 403
        assert found.headers["content-type"] == expected
        assert ("vary" in found.headers) is switch
    assert MeshConfig().problem_details is False
