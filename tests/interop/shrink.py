"""From a difference to a small one: everything that can be left out is left out, many attempts to one Envoy."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from itertools import islice
from typing import Any, Final

from interop.client import Client
from interop.compare import Difference, Tally, ask_all, served
from interop.generate import Case, Question
from interop.sidecar import sites
from meshsec import ConfigError

__all__ = ["report", "smallest"]

_ROUNDS: Final = 40
_ATTEMPTS: Final = 200
_SHORTEST: Final = "/"


def smallest(found: Difference) -> Difference:
    """The smallest difference of the same kind that leaving things out leads to."""
    for _ in range(_ROUNDS):
        smaller = _smaller(found)
        if smaller is None:
            break
        found = smaller
    return found


def report(found: Difference) -> str:
    """All that is needed to see it again."""
    config = found.case.config
    domains = (config.trust_domain, *config.trust_domain_aliases)
    asked = found.question
    lines = [
        found.why,
        f"  compatibility: {config.compatibility}, ambiguousPaths: {config.ambiguous_paths}",
        f"  normalization: {config.path_normalization}, trust domains: {', '.join(domains)}",
        *(f"  {document['kind']} {json.dumps(document['spec'])}" for document in found.case.documents),
        f"  {asked.peer or 'plaintext'} from {asked.source_ip} to {found.case.site}, SNI {asked.sni}",
        f"  {asked.bytes!r}",
        f"  Envoy: {found.envoy.status} {found.envoy.body!r}",
        f"  meshsec: {found.ours.explain()}",
    ]
    return "\n".join(lines)


def _smaller(found: Difference) -> Difference | None:
    places = sites(_ATTEMPTS, v6_every=1 if ":" in found.case.site.ip else _ATTEMPTS + 1)
    attempts = []
    for case, question in islice(_attempts(found), _ATTEMPTS):
        try:
            smaller = Case.of(case.documents, case.config, next(places))
            smaller.policy.to_envoy()
            attempts.append((smaller, question))
        except (ConfigError, StopIteration):
            continue
    if not attempts:
        return None
    tally = Tally()
    with served([case for case, _ in attempts]), Client() as client:
        ask_all(client, attempts, tally)
    return next((item for item in tally.differences if _kind(item) == _kind(found)), None)


def _kind(found: Difference) -> tuple[int, int, bool]:
    return found.envoy.status, found.ours.status, found.why.startswith("Envoy says")


def _attempts(found: Difference) -> Iterator[tuple[Case, Question]]:
    case, question = found.case, found.question
    for documents in _pruned(list(case.documents)):
        yield replace(case, documents=tuple(documents)), question
    for index in range(len(question.headers)):
        yield case, replace(question, headers=(*question.headers[:index], *question.headers[index + 1 :]))
    if question.target != _SHORTEST:
        yield case, replace(question, target=_SHORTEST)
        yield case, replace(question, target=question.target.partition("?")[0])
    if question.method != "GET":
        yield case, replace(question, method="GET")
    if question.peer is not None:
        yield case, replace(question, peer=None, sni=None)
    if case.config.trust_domain_aliases:
        yield replace(case, config=replace(case.config, trust_domain_aliases=())), question
    if question.sni is not None:
        yield case, replace(question, sni=None)
    if len(question.target) < 200:
        for index in range(1, len(question.target)):
            yield case, replace(question, target=question.target[:index] + question.target[index + 1 :])


def _pruned(node: Any) -> Iterator[Any]:
    """Copies of a JSON value with one member left out, the larger parts first."""
    if not isinstance(node, list | dict):
        return
    keys = list(node) if isinstance(node, Mapping) else list(range(len(node)))
    for key in keys:
        copy = deepcopy(node)
        del copy[key]
        yield copy
    for key in keys:
        for smaller in _pruned(node[key]):
            copy = deepcopy(node)
            copy[key] = smaller
            yield copy
