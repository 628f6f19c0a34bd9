"""Certificates, roots, token keys and policies all rotate while requests run: no verdict is ever wrong.

``make soak`` (MESHSEC_FULL=1) keeps it up for a minute.
"""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from live import FULL, MESH_YAML, SERVER_ID, TIMEOUT, command, free_port, mesh, serving
from meshsec.ca import CertificateAuthority, write_identity
from meshsec.jose import SigningKey, sign_jws
from meshsec.spiffe import X509Bundle, X509BundleSet
from meshsec.tls import StaticMaterial, authorize_id, client_context

SECONDS: Final = 60.0 if FULL else 4.0
CLIENTS: Final = 8 if FULL else 3
OVERLAP: Final = 4  # keys and roots that are known at a time: two to come, the one in use, the one before
STEP: Final = 1.2  # seconds; the server looks at its files once a second
POLICY: Final = """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: users, namespace: prod}}
spec: {{jwtRules: [{{issuer: soak, jwksUri: 'http://127.0.0.1:{port}/{round}'}}]}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: served, namespace: prod, labels: {{round: r{round}}}}}
spec:
  action: ALLOW
  rules:
  - from: [{{source: {{principals: [td.example/ns/prod/sa/friend], requestPrincipals: [soak/alice]}}}}]
  - from: [{{source: {{principals: [td.example/ns/prod/sa/of-round-{round}]}}}}]
"""


class Issuer:
    """Signs tokens and publishes its keys, each of them well before it is used."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.keys = deque([self._new() for _ in range(OVERLAP)], maxlen=OVERLAP)
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps({"keys": [key.public_jwk() for key in list(issuer.keys)]}).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def _new(self) -> SigningKey:
        return SigningKey.generate("ES256", kid=f"key-{next(self.numbers)}")

    def rotate(self) -> None:
        """One more key is published, the oldest is forgotten."""
        self.keys.append(self._new())

    def token(self, **claims: Any) -> str:
        """Signed with a key that everyone has had the time to fetch."""
        now = int(time.time())
        payload = {"iss": "soak", "sub": "alice", "iat": now, "exp": now + 60, **claims}
        return sign_jws({"typ": "JWT"}, json.dumps(payload).encode(), self.keys[1])


class Authority:
    """Roots that overlap in the same way, and the materials of the callers."""

    def __init__(self, folder: Path, first: CertificateAuthority) -> None:
        self.folder = folder
        self.roots = deque([first, first, first, first], maxlen=OVERLAP)
        self.callers = {name: StaticMaterial() for name in ("friend", "intruder")}
        self.rotate()

    def rotate(self) -> None:
        """One more root is trusted, the one before the last signs, the oldest is forgotten."""
        self.roots.append(CertificateAuthority.create("td.example"))
        authorities = {der for root in self.roots for der in root.bundle.der}
        bundle = X509Bundle("td.example", sorted(authorities))
        signer = self.roots[1]
        write_identity(self.folder / "identity", signer.issue_x509_svid(SERVER_ID), bundle)
        for name, material in self.callers.items():
            svid = signer.issue_x509_svid(f"spiffe://td.example/ns/prod/sa/{name}")
            material.replace(svid=svid, bundles=X509BundleSet([bundle]))


# Who calls, with what token, and what must come of it.
CASES: Final = {
    "friend with a token": ("friend", {}, 200),
    "friend with another's token": ("friend", {"sub": "bob"}, 403),
    "friend with an expired token": ("friend", {"exp": 1}, 401),
    "intruder with a token": ("intruder", {}, 403),
}


def test_no_verdict_is_wrong_while_everything_rotates(tmp_path: Path) -> None:
    """Each client asks every kind of question, on connections new and kept alive, until the time is up."""
    port, first, issuer = free_port(), mesh(tmp_path), Issuer()
    (tmp_path / "mesh.yaml").write_text(MESH_YAML + "keys: {refresh: 0.5, cooldown: 0.2}\n")
    jwks = issuer.server.server_port
    (tmp_path / "policy.yaml").write_text(POLICY.format(port=jwks, round=0))
    threading.Thread(target=issuer.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    authority = Authority(tmp_path, first)
    stop, seen = threading.Event(), Counter[tuple[str, int]]()

    def client(_: int) -> None:
        while not stop.is_set():
            for kind, (name, claims, _status) in CASES.items():
                context = client_context(authority.callers[name], authorize=authorize_id(SERVER_ID))
                with closing(
                    http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=TIMEOUT)
                ) as call:
                    for _ in range(3):
                        call.request("GET", "/", headers={"authorization": f"Bearer {issuer.token(**claims)}"})
                        response = call.getresponse()
                        response.read()
                        seen[kind, response.status] += 1

    with (
        serving(tmp_path, command("uvicorn httptools uvloop", tmp_path, port, "judged_"), port, first),
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        running = [pool.submit(client, number) for number in range(CLIENTS)]
        end, rounds = time.monotonic() + SECONDS, 0
        while time.monotonic() < end and not any(future.done() for future in running):
            stop.wait(STEP)
            rounds += 1
            authority.rotate()
            issuer.rotate()
            (tmp_path / "policy.yaml").write_text(POLICY.format(port=jwks, round=rounds))
        stop.set()
        for future in running:
            future.result(TIMEOUT)
    issuer.server.shutdown()
    issuer.server.server_close()
    wrong = {f"{kind}: {status}": count for (kind, status), count in seen.items() if status != CASES[kind][2]}
    assert not wrong, (wrong, dict(seen))
    assert {kind for kind, _ in seen} == set(CASES)
    print(f"{rounds} rounds, {sum(seen.values())} requests")  # noqa: T201 - what a soak is read for
