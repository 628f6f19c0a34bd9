"""The command, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from meshsec.cli import main

MESH = """\
workloads:
  web: {namespace: prod, serviceAccount: web, ports: {http: 8443}}
meshConfig: {trustDomain: cluster.local}
"""
POLICY = """\
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: users, namespace: prod}
spec:
  jwtRules: [{issuer: https://issuer.example, audiences: [shop]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: admins, namespace: prod}
spec:
  rules:
  - from: [{source: {principals: [cluster.local/ns/prod/sa/ingress]}}]
    when: [{key: 'request.auth.claims[groups]', values: [admin]}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A central folder that loads."""
    (tmp_path / "mesh.yaml").write_text(MESH)
    (tmp_path / "policy.yaml").write_text(POLICY)
    return tmp_path


def run(*arguments: str | Path) -> Result:
    """Run the command; nothing but an exit status may come out of it."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def test_check_accepts_a_good_folder(folder: Path) -> None:
    """A folder that loads ends with status 0 and a count."""
    result = run("check", folder)
    assert (result.exit_code, "resources: 2" in result.output) == (0, True)


def test_check_lists_every_error_with_its_place(folder: Path) -> None:
    """Two mistakes in two files are two lines, each with file:line:column and a suggestion."""
    (folder / "policy.yaml").write_text(POLICY.replace("principals:", "principal:"))
    (folder / "mesh.yaml").write_text(MESH.replace("trustDomain:", "trustDomian:"))
    result = run("check", folder)
    assert result.exit_code == 1
    assert "mesh.yaml:3:" in result.output
    assert "trustDomain" in result.output
    (folder / "mesh.yaml").write_text(MESH)
    result = run("check", folder)
    assert "policy.yaml:12:" in result.output
    assert "principals" in result.output


TODAY = "apiVersion: security.istio.io/v1\nkind: {}\nmetadata: {{name: idle, namespace: {}}}\nspec: {}\n"
LEGACY = TODAY.replace("security.istio.io/v1", "authentication.istio.io/v1alpha1")
# Documents that are for nobody, what is said of them, and the change that makes them somebody's.
IDLE = [
    (
        LEGACY.format("Policy", "prod", "{targets: [{name: wbe}]}"),
        "no workload here is a service named wbe",
        ("wbe", "web"),
    ),
    (TODAY.format("AuthorizationPolicy", "prdo", "{}"), "none here has its namespace", ("prdo", "prod")),
    (
        TODAY.format("PeerAuthentication", "prod", "{selector: {matchLabels: {app: x}}, mtls: {mode: STRICT}}"),
        "none here has its namespace and the labels",
        ("{app: x}", "{}"),
    ),
    (
        TODAY.format("RequestAuthentication", "prod", "{targetRefs: [{kind: Gateway, name: g}]}"),
        "targetRefs name gateways",
        ("targetRefs: [{kind: Gateway, name: g}]", "jwtRules: []"),
    ),
]


@pytest.mark.parametrize(("document", "reason", "change"), IDLE)
def test_check_warns_of_policies_for_nobody(
    folder: Path, document: str, reason: str, change: tuple[str, str]
) -> None:
    """A misspelt target, namespace or label is a warning with its place; the folder can be served all the same."""
    if "v1alpha1" in document:  # never beside today's kinds
        (folder / "policy.yaml").write_text(POLICY.partition("---")[2])
    (folder / "idle.yaml").write_text(document)
    result = run("check", folder)
    assert (result.exit_code, "warnings: 1" in result.output) == (0, True)
    assert f"warning: {folder}/idle.yaml:1: " in result.output
    assert reason in result.output
    (folder / "idle.yaml").write_text(document.replace(*change))
    assert "warning" not in run("check", folder).output


def test_check_names_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """With status 1."""
    result = run("check", tmp_path / "nowhere")
    assert (result.exit_code, result.output) == (
        1,
        f"{tmp_path}/nowhere: cannot be read: No such file or directory\n1 problem\n",
    )


def test_check_warns_of_a_folder_with_nothing_in_it(tmp_path: Path) -> None:
    """It may be the wrong one."""
    result = run("check", tmp_path)
    assert result.exit_code == 0
    assert f"warning: {tmp_path}: no resource and no workload stands here" in result.output
    (tmp_path / "mesh.yaml").write_text(MESH + "allowNoPolicy: true\n")
    assert "warning" not in run("check", tmp_path).output


CLAIMS = {"iss": "https://issuer.example", "sub": "ada", "aud": "shop", "groups": ["admin"]}
PEER = "spiffe://cluster.local/ns/prod/sa/ingress"


def test_explain_allows_and_names_the_rule(folder: Path) -> None:
    """An allowed request ends with status 0 and the policy's name."""
    result = run("explain", folder, "--peer", PEER, "--claims", json.dumps(CLAIMS))
    assert (result.exit_code, "prod/admins" in result.output) == (0, True), result.output


@pytest.mark.parametrize(
    ("peer", "claims"),
    [
        (PEER, {**CLAIMS, "groups": ["user"]}),
        (PEER, {**CLAIMS, "aud": "other"}),
        (PEER.replace("ingress", "intruder"), CLAIMS),
        (None, CLAIMS),
        (PEER, None),
    ],
)
def test_explain_refuses_each_change(folder: Path, peer: str | None, claims: dict[str, object] | None) -> None:
    """The refusing twins: one fact changed, status 3, and a reason."""
    arguments: list[str | Path] = ["explain", folder]
    arguments += ["--peer", peer] if peer else []
    arguments += ["--claims", json.dumps(claims)] if claims else []
    result = run(*arguments)
    assert result.exit_code == 3, result.output
    assert "40" in result.output


def test_explain_reads_a_file(folder: Path, tmp_path: Path) -> None:
    """A request may be described by a file; a flag overrides it; an unknown field is named."""
    file = tmp_path / "request.json"
    file.write_text(json.dumps({"peer": PEER, "claims": CLAIMS, "target": "/x", "headers": {"x-a": "1"}}))
    # the folder's own loader must not take the request for a policy
    outside = folder.parent / "request.json"
    file.rename(outside)
    assert run("explain", folder, "--request", outside).exit_code == 0
    assert run("explain", folder, "--request", outside, "--peer", PEER + "x").exit_code == 3
    outside.write_text('{"pear": 1}')
    assert "pear" in run("explain", folder, "--request", outside).output


# What a file may hold in place of a request, and the sentence that helps.
STRANGE_REQUESTS = [
    ("peer: [a]", "request.yaml: peer: text belongs here"),
    ("source_ip: [10.0.0.1]", "source_ip: text belongs here"),
    ("sni: {a: b}", "sni: text belongs here"),
    ("port: '8443'", "port: a number belongs here"),
    ("port: true", "port: a number belongs here"),
    ("headers: 5", "headers: a list or a mapping belongs here"),
    ("claims: 5", "claims: a mapping or text belongs here"),
    ("claims: '[]'", "claims are a JSON object"),
    (f"claims: '{'[' * 100_000}'", "claims: not JSON"),
    ("claims: {iss: a, exp: 2024-05-01}", "claims are a JSON object"),
    ("claims: {1: a}", "claims are a JSON object"),
    ("claims: {lifetime: 5}", "a claim called lifetime cannot be tried"),
    ("target: 2024-13-01", "request.yaml: "),
    ('"\\x1b": 1', "unknown fields '\\x1b'"),
    ("[" * 3000, "request.yaml: "),
    ("- a", "a request is a mapping"),
]


@pytest.mark.parametrize(("text", "sentence"), STRANGE_REQUESTS)
def test_explain_refuses_a_file_that_is_no_request(folder: Path, text: str, sentence: str) -> None:
    """Whatever stands there: a sentence and status 1."""
    file = folder / ".request.yaml"
    file.write_text(text)
    result = run("explain", folder, "--request", file)
    assert (result.exit_code, sentence in result.output) == (1, True), result.output
    file.write_text("{peer: null, claims: null, headers: null}")
    assert run("explain", folder, "--request", file).exit_code == 3


def test_explain_assumes_that_authorizers_let_pass(folder: Path) -> None:
    """An external authorizer is not asked: it is told that it would be, and what would come after."""
    (folder / "mesh.yaml").write_text(
        MESH.replace("{trustDomain: cluster.local}", "{extensionProviders: [{name: opa}]}")
    )
    (folder / "custom.yaml").write_text(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: checked, namespace: prod}\n"
        "spec: {action: CUSTOM, provider: {name: opa}, rules: [{}]}\n"
    )
    result = run("explain", folder)
    assert "prod/checked rule 0 asks opa, which is assumed to let it pass" in result.output
    assert "no_allow_rule" in result.output
