"""What is compared, as running processes: the mesh's folder, the applications, the Envoys, the load generator.

This file must not know what is measured.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from meshsec.ca import CertificateAuthority, write_identity
from meshsec.jose import SigningKey, sign_jws
from meshsec.policy import WorkloadPolicy
from meshsec.resources import load_mesh, load_policies

from . import envoys

__all__ = [
    "BARE",
    "OURS",
    "PAIR",
    "Generator",
    "Run",
    "Way",
    "free_ports",
    "inbound_envoy",
    "pin",
    "prepare",
    "resident",
    "served",
    "spent",
    "until_listening",
    "ways",
]

PAIR, OURS, BARE, RENEWED = "two Envoys", "in process", "no security", "two Envoys, mutual TLS anew"
TRUST_DOMAIN: Final = "cluster.local"
ISSUER: Final = "https://issuer.example"
SERVER: Final = f"spiffe://{TRUST_DOMAIN}/ns/prod/sa/reviews"

MESH: Final = f"""
workloads:
  productpage: {{namespace: prod, serviceAccount: productpage, identity: {{files: productpage}}}}
  reviews: {{namespace: prod, serviceAccount: reviews, labels: {{app: reviews}}, identity: {{files: reviews}}}}
meshConfig: {{trustDomain: {TRUST_DOMAIN}}}
services: {{reviews.prod: {{ids: ['{SERVER}']}}}}
allowNoPolicy: true
policies: [policy.yaml]
"""
POLICY: Final = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: prod}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: users, namespace: prod}
spec:
  selector: {matchLabels: {app: reviews}}
  jwtRules: [{issuer: "%s", audiences: [shop], jwks: '%s'}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: reviews, namespace: prod}
spec:
  selector: {matchLabels: {app: reviews}}
  rules:
"""
RULE: Final = """\
  - from: [{source: {principals: ["%s/ns/prod/sa/%s"], requestPrincipals: ["%s/*"]}}]
    to: [{operation: {methods: [GET], paths: ["/%s/*"]}}]
    when: [{key: "request.auth.claims[groups]", values: [staff]}]
"""


@dataclass(frozen=True)
class Run:
    """One measurement: microseconds, and requests a second."""

    rate: float
    p50: float
    p99: float
    served: float  # CPU per request of the proxies and the application
    whole: float  # the caller's included


@dataclass
class Way:
    """One way from the caller to the application.

    Attributes:
        port: where the caller connects.
        called: processes on the application's side.
        caller: processes on the caller's side, beside the load generator.
        tls: whether the caller itself speaks mutual TLS.
    """

    port: int
    called: list[subprocess.Popen[bytes]]
    caller: list[subprocess.Popen[bytes]] = field(default_factory=list)
    tls: bool = False
    runs: dict[str, list[Run]] = field(default_factory=dict)

    @property
    def pids(self) -> list[int]:
        """All processes between the caller and its answer."""
        return [process.pid for process in (*self.caller, *self.called)]

    def median(self, name: str) -> Run:
        """Of the rounds."""
        columns = zip(*(vars(run).values() for run in self.runs[name]), strict=True)
        return Run(*(statistics.median(column) for column in columns))


class Generator:
    """The load generator's process."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.sidecar.load", str(folder)]
        self.process = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        stack.callback(self.process.kill)

    def __call__(self, do: str, **order: Any) -> dict[str, Any]:
        """Give one order and wait until it is done."""
        if not self.process.stdin or not self.process.stdout:
            raise RuntimeError("no pipes")
        self.process.stdin.write(json.dumps({"do": do, **order}) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


def prepare(folder: Path) -> dict[str, str]:
    """The mesh's folder and a token; gives the requests that should and should not pass."""
    key = SigningKey.generate("RS256", kid="bench")
    authority = CertificateAuthority.create(TRUST_DOMAIN)
    for name in ("productpage", "reviews"):
        svid = authority.issue_x509_svid(f"spiffe://{TRUST_DOMAIN}/ns/prod/sa/{name}")
        write_identity(folder / name, svid, authority.bundle)
    callers = ["productpage", *(f"caller{number}" for number in range(10))]
    places = ["reviews", *(f"place{number}" for number in range(10))]
    rules = [RULE % (TRUST_DOMAIN, caller, ISSUER, place) for caller, place in zip(callers, places, strict=True)]
    jwks = json.dumps({"keys": [key.public_jwk()]})
    # The one that matches comes last: Envoy asks them in turn.
    (folder / "policy.yaml").write_text(POLICY % (ISSUER, jwks) + "".join(reversed(rules)), encoding="utf-8")
    (folder / "mesh.yaml").write_text(MESH, encoding="utf-8")
    now = int(time.time())
    claims = {"iss": ISSUER, "sub": "alice", "aud": "shop", "groups": ["staff"], "iat": now, "exp": now + 3600}
    token = sign_jws({"typ": "JWT"}, json.dumps(claims).encode(), key)
    head = f"host: reviews.prod\r\nauthorization: Bearer {token}\r\nuser-agent: bench/1\r\n\r\n"
    return {
        "allowed": f"GET /reviews/1 HTTP/1.1\r\n{head}",
        "elsewhere": f"GET /place0/1 HTTP/1.1\r\n{head}",
        "no token": "GET /reviews/1 HTTP/1.1\r\nhost: reviews.prod\r\n\r\n",
    }


@contextmanager
def ways(folder: Path, concurrency: int) -> Iterator[tuple[dict[str, Way], Generator]]:
    """Everything that is compared, running side by side: what is not being asked waits."""
    with ExitStack() as stack:
        run = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bare, ours, first, second, anew = free_ports(5)
        plain = served(stack, bare, "uvloop")
        guarded = served(stack, ours, "uvloop", folder)
        outer = envoys.outbound(first, second, folder / "productpage", SERVER)
        strict = envoys.outbound(anew, second, folder / "productpage", SERVER, pooled=False)
        before = inbound_envoy(stack, run / "in", second, bare, folder, concurrency)
        beside = envoys.start(stack, run / "out", outer, concurrency)
        renewing = envoys.start(stack, run / "anew", strict, concurrency)
        for port in (bare, ours, first, second, anew):
            until_listening(port)
        yield (
            {
                BARE: Way(bare, [plain]),
                PAIR: Way(first, [before, plain], [beside]),
                RENEWED: Way(anew, [before, plain], [renewing]),
                OURS: Way(ours, [guarded], tls=True),
            },
            Generator(stack, folder),
        )


def inbound_envoy(
    stack: ExitStack, run: Path, port: int, target: int, folder: Path, concurrency: int = 1
) -> subprocess.Popen[bytes]:
    """The one before the application, with the policy of the mesh's folder."""
    file = load_mesh(folder)
    policy = WorkloadPolicy.compile(load_policies(file), file.workload("reviews"), file.config).to_envoy()
    config = envoys.inbound(port, target, folder / "reviews", TRUST_DOMAIN, policy)
    return envoys.start(stack, run, config, concurrency)


def served(stack: ExitStack, port: int, loop: str, folder: Path | None = None) -> subprocess.Popen[bytes]:
    """The application; protected where there is a mesh."""
    command = [sys.executable, "-m", "benchmarks.sidecar.served", str(port), loop, *([str(folder)] if folder else [])]
    process = stack.enter_context(subprocess.Popen(command))
    stack.callback(process.kill)
    return process


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses at this moment."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def until_listening(port: int) -> None:
    """Wait until somebody answers there."""
    end = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


def pin(made: Iterable[Way], generator: Generator) -> None:
    """Each side of the call on a core of its own, as two pods on two machines; with one core both on it."""
    called, *_, caller = sorted(os.sched_getaffinity(0))[:2] * 2
    _pin(generator.process.pid, caller)
    for way in made:
        for process in way.caller:
            _pin(process.pid, caller)
        for process in way.called:
            _pin(process.pid, called)


def _pin(pid: int, core: int) -> None:
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


def spent(pids: Sequence[int]) -> float:
    """Processor seconds of all threads of these processes; the kernel counts nanoseconds there."""
    tasks = (task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir())
    return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


def resident(process: subprocess.Popen[bytes]) -> float:
    """MiB."""
    [line] = [
        line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("VmRSS")
    ]
    return int(line.split()[1]) / 1024
