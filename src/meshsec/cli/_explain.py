"""``meshsec explain``: what would be decided about a request, and why, without a server or an issuer.

The end user is described by claims; a token with them is really signed, with a key that stands in for every issuer's,
so that the policy that is explained is the one that runs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import click
import yaml

from ..attributes import AuthContext, Connection, HttpRequest, PeerIdentity
from ..errors import ConfigError, Problem
from ..policy import CheckAnswer, NeedCheck, NeedKeys, WorkloadPolicy
from ..resources import (
    MeshPolicy,
    OriginAuthenticationMethod,
    Policy,
    RequestAuthentication,
    Resource,
    Workload,
    load_mesh,
    load_policies,
)
from ..testing import TestIssuer

__all__ = ["explain"]

_TEXT: Final = (str,)
_FIELDS: Final[Mapping[str, tuple[type, ...]]] = {
    **dict.fromkeys(("method", "target", "host", "scheme", "peer", "source_ip", "destination_ip", "sni"), _TEXT),
    "port": (int,),
    "headers": (list, dict),
    "claims": (dict, str),
}
"""What a request is described by. A truth value is no number."""

_WORDS: Final = {str: "text", int: "a number", list: "a list", dict: "a mapping"}
_OF_THE_TOKEN: Final = ("self", "now", "lifetime")  # what the stand-in's method calls its own arguments


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), envvar="MESHSEC_CONFIG")
@click.option("--workload", envvar="MESHSEC_WORKLOAD", help="Which workload is asked; the only one by default.")
@click.option("--request", "file", type=click.Path(path_type=Path), help="A YAML or JSON file with the fields below.")
@click.option("--method", help="GET by default.")
@click.option("--target", help="The raw request target: path and query. / by default.")
@click.option("--host", help="The Host header; the workload's name by default.")
@click.option("--header", "headers", multiple=True, help="'name: value'; may be repeated.")
@click.option("--scheme", help="https with a peer, else http.")
@click.option("--peer", help="The caller's SPIFFE ID; none means no client certificate.")
@click.option("--source-ip", help="The caller's address.")
@click.option("--destination-ip", help="The workload's address.")
@click.option("--port", type=int, help="The port the workload listens on.")
@click.option("--sni", help="The TLS server name.")
@click.option("--claims", help="The end user's claims, as a JSON object with at least iss.")
def explain(folder: Path, workload: str | None, file: Path | None, **flags: Any) -> None:
    """Say what FOLDER decides about one request, and why.

    Exits with 0 if the request is allowed, with 3 if it is refused, with 1 if the folder cannot be loaded.
    """
    mesh = load_mesh(folder)
    chosen = mesh.workload(workload)
    described = _described(file, flags)
    issuer = TestIssuer()
    resources = [_with_stand_in(item, issuer) for item in load_policies(mesh)]
    policy = WorkloadPolicy.compile(resources, chosen, mesh.config)
    context = _judged(policy, *_facts(described, chosen, issuer))
    click.echo(context.decision.explain())
    if not context.decision.allowed:
        raise SystemExit(3)


def _judged(policy: WorkloadPolicy, connection: Connection, request: HttpRequest) -> AuthContext:
    """External authorizers are not asked: what would come after they let the request pass is what can be told."""
    answers: list[NeedKeys | CheckAnswer] = []
    while not isinstance(
        found := policy.judge(connection, request, {}, now=time.time(), answers=answers), AuthContext
    ):
        if not isinstance(found, NeedCheck):
            raise ConfigError("the policy asked for keys although every rule was given its own")
        click.echo(f"{found.policy} rule {found.rule} asks {found.provider}, which is assumed to let it pass")
        answers.append(CheckAnswer(allowed=True, provider=found.provider))
    return found


def _described(file: Path | None, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The file's fields, overridden by the flags that were given."""
    described: dict[str, Any] = {}
    if file is not None:
        described = _read_file(file)
    described.update({name: value for name, value in flags.items() if value not in (None, ())})
    headers = described.get("headers", ())
    described["headers"] = list(headers.items()) if isinstance(headers, dict) else [_header(item) for item in headers]
    if isinstance(described.get("claims"), str):
        described["claims"] = _json(described["claims"])
    return described


def _read_file(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: a request is a mapping of fields")
    unknown = set(content) - _FIELDS.keys()
    if unknown:
        raise ConfigError(f"{file}: unknown fields {', '.join(sorted(map(ascii, unknown)))}")
    given = {name: value for name, value in content.items() if value is not None}
    wrong = [name for name, value in given.items() if type(value) not in _FIELDS[name]]
    if wrong:
        kinds = {name: " or ".join(_WORDS[kind] for kind in _FIELDS[name]) for name in wrong}
        raise ConfigError(Problem(f"{kinds[name]} belongs here", str(file), field=name) for name in wrong)
    return given


def _header(item: Any) -> tuple[str, str]:
    name, separator, value = str(item).partition(":")
    if not separator:
        raise ConfigError(f"a header is written 'name: value', not {name!r}")
    return name.strip(), value.strip()


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--claims: not JSON: {error}") from error


def _with_stand_in(item: Resource, issuer: TestIssuer) -> Resource:
    """The same RequestAuthentication or legacy policy, with a key of our own in place of every issuer's."""
    own = {"jwks": issuer.jwks, "jwks_uri": None}
    if isinstance(item, RequestAuthentication):
        rules = tuple(rule.model_copy(update=own) for rule in item.spec.jwt_rules)
        return item.model_copy(update={"spec": item.spec.model_copy(update={"jwt_rules": rules})})
    if isinstance(item, Policy | MeshPolicy):
        jwts = (origin.jwt.model_copy(update=own) for origin in item.spec.origins)
        origins = tuple(OriginAuthenticationMethod(jwt=jwt) for jwt in jwts)
        return item.model_copy(update={"spec": item.spec.model_copy(update={"origins": origins})})
    return item


def _facts(described: Mapping[str, Any], workload: Workload, issuer: TestIssuer) -> tuple[Connection, HttpRequest]:
    peer = described.get("peer")
    connection = Connection(
        source_ip=described.get("source_ip"),
        destination_ip=described.get("destination_ip"),
        destination_port=described.get("port") or next(iter(workload.ports.values()), None),
        peer=PeerIdentity.of(peer) if peer else None,
        sni=described.get("sni"),
        tls=bool(peer),
    )
    headers: list[tuple[str, str]] = list(_texts(described["headers"]))
    if "claims" in described:
        headers.append(("authorization", f"Bearer {_token(described['claims'], issuer)}"))
    request = HttpRequest(
        method=str(described.get("method", "GET")),
        target=str(described.get("target", "/")),
        host=str(described.get("host", workload.name)),
        headers=tuple(headers),
        scheme=str(described.get("scheme") or ("https" if peer else "http")),
    )
    return connection, request


def _token(claims: Any, issuer: TestIssuer) -> str:
    if not isinstance(claims, dict):
        raise ConfigError("claims are a JSON object")
    if taken := [name for name in _OF_THE_TOKEN if name in claims]:
        raise ConfigError(f"a claim called {taken[0]} cannot be tried here")
    try:
        return issuer.token(**claims)
    except TypeError as error:  # YAML has more than JSON
        raise ConfigError(f"claims are a JSON object: {error}") from error


def _texts(headers: Iterable[tuple[Any, Any]]) -> Iterable[tuple[str, str]]:
    return ((str(name), str(value)) for name, value in headers)
