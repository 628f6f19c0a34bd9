"""No token reaches a log: whatever stands where in a request, whatever rule looks at it, at the level DEBUG."""

from __future__ import annotations

import logging
from base64 import b64encode
from typing import Any

import pytest
from starlette.testclient import TestClient
from werkzeug.test import Client as WsgiClient

from meshsec import Mesh, Workload
from meshsec.resources import parse
from meshsec.testing import TestIssuer
from tokens import encode

ISSUER = TestIssuer()
PLACES = """
    fromHeaders: [{name: authorization, prefix: "Bearer "}, {name: x-id}, {name: x_odd}]
    fromParams: [t]
    fromCookies: [c]
    outputPayloadToHeader: x-who
    outputClaimToHeaders: [{header: x-claim, claim: sub}]
    forwardOriginalToken: true
"""
TODAY = f"""
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: users, namespace: prod}}
spec:
  jwtRules:
  - issuer: {ISSUER.issuer}
    jwks: '{ISSUER.jwks}'
    audiences: [web]{PLACES}"""
LEGACY = f"""
apiVersion: authentication.istio.io/v1alpha1
kind: Policy
metadata: {{name: default, namespace: prod}}
spec:
  peers: [{{mtls: {{mode: PERMISSIVE}}}}]
  origins:
  - jwt: {{issuer: "{ISSUER.issuer}", jwks: '{ISSUER.jwks}', audiences: [web], jwtHeaders: [x-id], jwtParams: [t]}}
"""
RULE = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: rule, namespace: prod}}
spec: {{action: {action}, rules: [{{when: [{{key: "request.headers[{header}]", {values}}}]}}]}}
"""


def pieces(token: str) -> list[str]:
    """What of a token would be worth something to a reader, also where it became a header of claims."""
    payload = b64encode(token.split(".")[1].encode()).decode()
    return [part[at : at + 16] for part in (*token.split("."), payload) for at in range(0, len(part) - 16, 16)]


def requests(token: str) -> list[tuple[str, dict[str, str]]]:
    """The token in every place, alone and with another one beside it."""
    return [
        ("/", {"authorization": f"Bearer {token}"}),
        ("/", {"authorization": token}),
        ("/", {"x-id": token}),
        ("/", {"x-odd": token}),
        ("/", {"cookie": f"c={token}"}),
        (f"/?t={token}", {}),
        (f"/?t={token}&t={token}", {"x-id": token}),
    ]


@pytest.mark.parametrize("kind", ["today", "legacy"])
@pytest.mark.parametrize("header", ["authorization", "x-id", "cookie", "x-who", "x-jwt-assertion", "x_odd"])
def test_no_token_reaches_a_log(kind: str, header: str, caplog: pytest.LogCaptureFixture) -> None:
    """Good, bound to others, expired, forged, cut; allowed and refused; by every logger, and in every explanation."""
    caplog.set_level(logging.DEBUG)
    good = ISSUER.token(aud="web")
    expired, forged = ISSUER.token(aud="web", lifetime=-900), TestIssuer().token(aud="web")
    tokens = [good, ISSUER.token(aud="other"), expired, forged, good[:-3]]
    told: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        told.extend([repr(scope["meshsec"]), scope["meshsec"].decision.explain()])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def wsgi(environ: Any, start_response: Any) -> Any:
        told.extend([repr(environ["meshsec"]), environ["meshsec"].decision.explain()])
        start_response("204 No Content", [])
        return []

    for action, values in (("ALLOW", 'values: ["x"]'), ("ALLOW", 'notValues: ["x"]'), ("DENY", 'values: ["*"]')):
        policies = (TODAY if kind == "today" else LEGACY) + RULE.format(action=action, header=header, values=values)
        mesh = Mesh(workload=Workload(name="web", namespace="prod"), resources=parse(policies))
        clients = (TestClient(mesh.asgi(app)), WsgiClient(mesh.wsgi(wsgi)))
        for token in tokens:
            for target, headers in requests(token):
                for client in clients if token is good else clients[1:]:  # the other one is slow
                    client.get(target, headers={**headers, "x-jwt-assertion": token})
    ours = [record for record in caplog.records if record.name.startswith("meshsec")]
    told += [f"{record.getMessage()} {record.args!r} {record.exc_text}" for record in ours]
    assert len(ours) > 50
    secret = {piece for token in tokens for piece in pieces(token)}
    for text in told:
        assert not any(piece in text for piece in secret), text


CLAIMS = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: claims, namespace: prod}
spec:
  rules:
  - from: [{source: {requestPrincipals: [nobody/nobody]}}]
    when: [{key: "request.auth.claims[groups]", values: [staff]}, {key: "request.auth.claims[sub]", values: [bob]}]
"""


@pytest.mark.parametrize(
    "text",
    ["a\nINFO root: b", "a\r\nb", "\x1b[2Jb", "a\x85b\u2028c", "x" * 8000],
    ids=["line feed", "carriage return", "escape", "line separators", "long"],
)
def test_what_a_token_says_is_one_short_line(text: str, caplog: pytest.LogCaptureFixture) -> None:
    """CVE-2024-45808: a claim, or the name of a key, forges no line and drives no terminal, at DEBUG either."""
    caplog.set_level(logging.DEBUG)
    mesh = Mesh(workload=Workload(name="web", namespace="prod"), resources=parse(TODAY.replace("sub", "x") + CLAIMS))
    good = ISSUER.token(aud="web", sub=text, groups=[text])
    head = encode({"alg": "ES256", "kid": text[:4000]})
    client = WsgiClient(mesh.wsgi(lambda *_: []))
    for token, status in ((good, 403), (f"{head}.{good.partition('.')[2]}", 401)):
        caplog.clear()
        assert client.get("/", headers={"authorization": f"Bearer {token}"}).status_code == status
        (record,) = (record for record in caplog.records if record.name.startswith("meshsec"))
        line = record.getMessage()
        assert line.isprintable()
        assert len(line) < 2000
