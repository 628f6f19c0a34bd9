"""What one decision costs here, by kind of request, with the policies of ``examples/mesh``: ``make bench``.

The requests' facts are given; no server, no socket. The ratio says how much dearer a kind is than the cheapest.
"""

from __future__ import annotations

import time
import timeit
from pathlib import Path
from typing import Final

from meshsec import AuthContext, Connection, HttpRequest, PeerIdentity, WorkloadPolicy
from meshsec.resources import RequestAuthentication, load_mesh, load_policies, parse
from meshsec.testing import TestIssuer

MESH: Final = Path(__file__).parents[1] / "examples" / "mesh"
ISSUER: Final = TestIssuer("http://127.0.0.1:9000")
USERS: Final = f"""
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: users, namespace: prod, annotations: {{meshsec.dev/exclude-paths: /health}}}}
spec: {{jwtRules: [{{issuer: {ISSUER.issuer}, audiences: [bookinfo], jwks: '{ISSUER.jwks}'}}]}}
"""
ROUNDS: Final = 5
CALLS: Final = 2000


def compiled() -> WorkloadPolicy:
    """productpage's policy, the issuer's keys written into it."""
    file = load_mesh(MESH)
    others = [item for item in load_policies(file) if not isinstance(item, RequestAuthentication)]
    return WorkloadPolicy.compile([*others, *parse(USERS)], file.workloads["productpage"], file.config)


def requests() -> dict[str, HttpRequest]:
    """One request of each kind."""

    def request(target: str, token: str = "") -> HttpRequest:
        headers = [("user-agent", "bench"), ("accept", "*/*"), ("x-request-id", "7")]
        headers += [("authorization", f"Bearer {token}")] if token else []
        return HttpRequest("GET", target, "productpage.prod", headers, "https")

    alice = ISSUER.token(sub="alice", aud="bookinfo", groups=["readers"])
    return {
        "open path, no token": request("/health"),
        "no token: 401": request("/reviews/1"),
        "valid ES256 token": request("/reviews/1", alice),
        "valid ES256 token, denied: 403": request("/admin", alice),
        "tampered token: 401": request("/reviews/1", alice[:-6] + "AAAAAA"),
        "odd path: 400": request("/admin%0a"),
    }


def main() -> None:
    """Print one line for each kind: the best of five rounds."""
    policy = compiled()
    connection = Connection(
        source_ip="127.0.0.1",
        destination_port=8443,
        peer=PeerIdentity.of("spiffe://cluster.local/ns/prod/sa/ingress"),
        tls=True,
    )
    now = time.time()
    costs: dict[str, float] = {}
    for name, request in requests().items():
        answer = policy.judge(connection, request, {}, now=now)
        if not isinstance(answer, AuthContext):
            raise SystemExit(f"{name}: asked for keys")
        rounds = timeit.repeat(
            lambda request=request: policy.decide(connection, request, {}, now=now),  # type: ignore[misc]
            number=CALLS,
            repeat=ROUNDS,
        )
        costs[f"{answer.decision.status}  {name}"] = min(rounds) / CALLS * 1e6
    cheapest = min(costs.values())
    for name, cost in costs.items():
        print(f"{cost:9.1f} µs  {cost / cheapest:5.1f} x   {name}")


if __name__ == "__main__":
    main()
