"""Files and folders of resources: which are read, in which order, and how all their problems come together."""

from __future__ import annotations

import json
import os
import re
from itertools import pairwise
from pathlib import Path

import pytest

from meshsec.errors import ConfigError
from meshsec.resources import AuthorizationPolicy, KeysConfig, TrustBundle, load, load_mesh, load_policies, parse

POLICY = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {}}}\nspec: {{}}\n"


def write(folder: Path, files: dict[str, str]) -> Path:
    """Make the files, with the folders they need."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def problems(path: Path) -> list[str]:
    """The problems of loading, as text, without the folder's name."""
    with pytest.raises(ConfigError) as caught:
        load(path)
    return [str(problem).replace(f"{path}/", "") for problem in caught.value.problems]


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    """YAML and JSON, folders below too; nothing else, nothing hidden, and not mesh.yaml."""
    skipped = dict.fromkeys(["mesh.yaml", ".hidden.yaml", "..data/x.yaml", "README.md", "key.pem"], "not: a resource")
    read = {name: POLICY.format(f"p{n}") for n, name in enumerate(["a.yaml", "b.yml", "c/d/e.YAML", "z.json"])}
    read["z.json"] = json.dumps({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "p3"}})
    folder = write(tmp_path, {**skipped, **read})
    assert [item.name for item in load(folder)] == ["p0", "p1", "p2", "p3"]
    assert [item.location for item in load(folder)] == [f"{folder / name}:1" for name in read]


def test_one_file_is_read_whatever_its_name(tmp_path: Path) -> None:
    """A name given by hand is meant."""
    write(tmp_path, {"policy.txt": POLICY.format("a")})
    assert [item.name for item in load(tmp_path / "policy.txt")] == ["a"]
    assert [item.name for item in load(str(tmp_path / "policy.txt"))] == ["a"]


def test_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    """Whether that is allowed is for others to say."""
    assert load(tmp_path) == []


def test_a_kubernetes_volume_is_read_once(tmp_path: Path) -> None:
    """Files are links into ..data, which is a link to a folder with a date."""
    write(tmp_path, {"..2024/a.yaml": POLICY.format("a"), "..2024/sub/b.yaml": POLICY.format("b")})
    (tmp_path / "..data").symlink_to("..2024")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    (tmp_path / "sub").symlink_to("..data/sub")
    assert [item.name for item in load(tmp_path)] == ["a", "b"]


def test_rings_of_links_end(tmp_path: Path) -> None:
    """A folder that holds itself is read once."""
    write(tmp_path, {"a/b/x.yaml": POLICY.format("x")})
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path)
    assert [item.name for item in load(tmp_path)] == ["x"]


def test_a_list_holds_resources(tmp_path: Path) -> None:
    """As ``kubectl get -o json`` writes it; lists may hold lists."""
    item = {"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "a"}, "spec": {}}
    other = {**item, "metadata": {"name": "b"}}
    inner = {"apiVersion": "security.istio.io/v1", "kind": "PeerAuthenticationList", "items": [other]}
    text = json.dumps(
        {"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": [item, inner]}
    )
    assert [resource.name for resource in parse(text)] == ["a", "b"]


def test_all_problems_of_all_files_come_at_once(tmp_path: Path) -> None:
    """In the order of the files, and within a file of the lines."""
    folder = write(
        tmp_path,
        {
            "a.yaml": POLICY.format("A") + "ruls: 1\n---\nkind: X\n---\n" + POLICY.format("good"),
            "b.json": '{"kind": "Policy",\n "apiVersion": "security.istio.io/v1"}',
            "c.yaml": "a: [",
            "d.yaml": POLICY.format("good"),
        },
    )
    (folder / "e.yaml").symlink_to("nowhere.yaml")
    (folder / "f.yaml").write_bytes(b"kind: X\nname: \xff")
    assert problems(folder) == [
        (
            "a.yaml:3:18: AuthorizationPolicy default/A: metadata.name: 'A' is no name: "
            "a-z 0-9 - . only, and a letter or digit at both ends"
        ),
        (
            "a.yaml:5:1: AuthorizationPolicy default/A: ruls: unknown field 'ruls'; "
            "known here: apiVersion, kind, metadata, spec, status"
        ),
        "a.yaml:7:1: a resource without apiVersion",
        (
            "b.json:1:10: Policy: unknown kind 'Policy'; "
            "known here: AuthorizationPolicy, PeerAuthentication, RequestAuthentication"
        ),
        "c.yaml:2:1: not YAML: did not find expected node content",
        "d.yaml:1:1: AuthorizationPolicy default/good: stands at a.yaml:9 already",
        "e.yaml: cannot be read: No such file or directory",
        "f.yaml:2:7: this byte is not UTF-8",
    ]


def test_two_resources_of_one_name_are_refused_even_in_one_line() -> None:
    """Kubernetes could not hold both; another kind or namespace may have the name."""
    item = {"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "a"}}
    items = [item, {**item, "kind": "AuthorizationPolicy"}, {**item, "metadata": {"name": "a", "namespace": "b"}}]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    assert len(parse(text)) == 3
    twice = json.dumps({"apiVersion": "v1", "kind": "List", "items": [*items, item]})
    with pytest.raises(ConfigError, match="default/a: stands at <string>:1 already"):
        parse(twice)


@pytest.mark.parametrize("name", ["missing", "missing/a.yaml", "a\0b"])
def test_what_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    """A missing file or folder, and a name that can have none."""
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        load(tmp_path / name)
    assert caught.value.problems[0].source == str(tmp_path / name)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    """A pipe would block for ever, a ring of links leads nowhere."""
    os.mkfifo(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").symlink_to("b.yaml")
    found = problems(tmp_path)
    assert found[0] == "a.yaml: not a regular file"
    assert found[1].startswith("b.yaml: cannot be read")


def test_a_byte_order_mark_is_no_character(tmp_path: Path) -> None:
    """Editors on Windows write one."""
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbf" + POLICY.format("a").encode())
    assert [item.location for item in load(tmp_path)] == [f"{tmp_path}/a.yaml:1"]


def test_too_many_bytes_are_refused(tmp_path: Path) -> None:
    """The limit is 16 MiB; the text just below it is read."""
    comment = "#" * (16 * 1024 * 1024)
    write(tmp_path, {"a.yaml": comment})
    assert load(tmp_path / "a.yaml") == []
    write(tmp_path, {"a.yaml": comment + "#"})
    assert problems(tmp_path) == ["a.yaml: longer than the 16777216 bytes allowed"]
    with pytest.raises(ConfigError, match="are more than the"):
        parse(comment + "#")


def test_an_alias_bomb_is_refused() -> None:
    """Ten lines that stand for ten billion values, which nobody could wait for, and the same ten times smaller."""
    lines = ["apiVersion: v1", "kind: X", "a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in pairwise("abcdefghij")]
    assert parse("\n".join(lines[:6]))
    with pytest.raises(ConfigError, match="more than 1000000 values, aliases counted in full"):
        parse("\n".join(lines))


def test_large_files_are_read_whole() -> None:
    """Four policies of five hundred mixed rules: none is lost."""
    rule = """\
  - from: [{{source: {{principals: [cluster.local/ns/prod/sa/app{0}], notNamespaces: [bad]}}}}]
    to: [{{operation: {{methods: [GET, POST], paths: [/api/v{0}/*, "/x/{{*}}/{0}"]}}}}]
    when: [{{key: "request.auth.claims[groups]", values: [admin, g{0}]}}]
"""
    rules = "".join(rule.format(number) for number in range(500))
    head = POLICY.replace("spec: {{}}\n", "spec:\n  rules:\n")
    text = "---\n".join(head.format(f"p{number}") + rules for number in range(4))
    resources = parse(text)
    assert sum(len(item.spec.rules or ()) for item in resources if isinstance(item, AuthorizationPolicy)) == 2_000


# ------------------------------------------------------------------ the folder of a mesh


def test_a_folder_without_mesh_yaml_has_the_defaults(tmp_path: Path) -> None:
    """And its policies are all that lies in it."""
    write(tmp_path, {"a.yaml": POLICY.format("a")})
    mesh = load_mesh(tmp_path)
    assert (mesh.config.trust_domain, mesh.config.policies, dict(mesh.workloads)) == ("cluster.local", (".",), {})
    assert [item.name for item in load_policies(mesh)] == ["a"]


@pytest.mark.parametrize("text", ["", "{}", "# nothing\n", "---\n"])
def test_an_empty_mesh_yaml_has_the_defaults(text: str, tmp_path: Path) -> None:
    """What is not said is as if the file were not there."""
    write(tmp_path, {"mesh.yaml": text})
    (tmp_path / "empty").mkdir()
    assert load_mesh(tmp_path).config == load_mesh(tmp_path / "empty").config


def test_mesh_yaml_holds_what_it_says(tmp_path: Path) -> None:
    """Bundles are seen from the current folder; an identity's folder is left to whoever opens it."""
    text = (Path(__file__).parent / "good" / "mesh.yaml").read_text(encoding="utf-8")
    mesh = load_mesh(write(tmp_path, {"mesh.yaml": text}))
    config, reviews = mesh.config, mesh.workloads["reviews"]
    assert (mesh.folder, mesh.file) == (tmp_path, tmp_path / "mesh.yaml")
    assert (config.trust_domain, config.trust_domain_aliases) == ("cluster.local", ("old.local",))
    assert (config.root_namespace, config.path_normalization) == ("istio-config", "BASE")
    assert config.trust_bundles == {"partner.example": TrustBundle(bundle=str(tmp_path / "partner.pem"))}
    assert config.services["reviews.prod"].ids == ("spiffe://cluster.local/ns/prod/sa/reviews",)
    assert config.services["reviews.prod"].addresses == (("127.0.0.1", 8443), ("::1", 8444))
    assert (config.policies, config.ambiguous_paths, config.allow_no_policy) == (("policies",), "judge", True)
    keys = config.keys
    assert (keys.refresh, keys.max_stale, keys.cooldown, keys.timeout) == (60.0, 3600.5, 10.0, 2.0)
    assert (reviews.name, reviews.namespace, reviews.service_account) == ("reviews", "prod", "reviews")
    assert (reviews.labels, reviews.ports) == ({"app": "reviews"}, {"http": 8443})
    assert reviews.identity is not None
    assert (reviews.identity.files, reviews.identity.development_authority) == ("certs", None)
    assert mesh.workloads["ratings"].identity is None


def test_a_workload_is_found_by_name_or_because_it_is_the_only_one(tmp_path: Path) -> None:
    """Its identity follows from its namespace and service account."""
    mesh = load_mesh(write(tmp_path, {"mesh.yaml": "workloads: {a: {namespace: prod, serviceAccount: b}}"}))
    assert mesh.workload() == mesh.workload("a")
    assert str(mesh.workload("a").spiffe_id("td")) == "spiffe://td/ns/prod/sa/b"


@pytest.mark.parametrize(
    ("workloads", "name", "code"),
    [("{}", None, "no_workload"), ("{a: {}, b: {}}", None, "no_workload"), ("{a: {}}", "b", "unknown_workload")],
)
def test_a_workload_that_is_not_clear_is_refused(workloads: str, name: str | None, code: str, tmp_path: Path) -> None:
    """None, several, or another one."""
    with pytest.raises(ConfigError) as caught:
        load_mesh(write(tmp_path, {"mesh.yaml": f"workloads: {workloads}"})).workload(name)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("", "refuse"),
        ("compatibility: istio", "istio"),
        ("compatibility: istio\nambiguousPaths: judge", "judge"),
        ("ambiguousPaths: istio", "istio"),
    ],
)
def test_istio_compatibility_reads_paths_as_istio_does(text: str, reading: str, tmp_path: Path) -> None:
    """Unless the file says how to read them."""
    assert load_mesh(write(tmp_path, {"mesh.yaml": text})).config.ambiguous_paths == reading


def test_policies_are_relative_to_mesh_yaml(tmp_path: Path) -> None:
    """Files and folders, each read once; the mesh's own file may have any name."""
    write(
        tmp_path,
        {
            "conf/prod.yaml": "policies: [., ../more, ../one.yaml, a.yaml]",
            "conf/a.yaml": POLICY.format("a"),
            "more/b.yaml": POLICY.format("b"),
            "one.yaml": POLICY.format("c"),
            "other.yaml": "not: read",
        },
    )
    mesh = load_mesh(tmp_path / "conf" / "prod.yaml")
    assert [item.name for item in load_policies(mesh)] == ["a", "b", "c"]


def test_policies_that_are_not_there_are_all_named(tmp_path: Path) -> None:
    """Together with the problems of those that are."""
    write(tmp_path, {"mesh.yaml": "policies: [a, b.yaml, c.yaml]", "c.yaml": "kind: X"})
    with pytest.raises(ConfigError) as caught:
        load_policies(load_mesh(tmp_path))
    assert [problem.source for problem in caught.value.problems] == [
        str(tmp_path / name) for name in ("a", "b.yaml", "c.yaml")
    ]


@pytest.mark.parametrize("name", ["missing", "mesh.yaml"])
def test_a_mesh_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    """A missing folder, and a link that leads nowhere."""
    (tmp_path / "mesh.yaml").symlink_to("nowhere")
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_mesh(path)


ISSUERS = """
keys: {refresh: 60, tokenCache: false}
issuers:
  https://a.example: {caFile: ca.pem, tokenFile: /token, cooldown: 5}
  https://b.example: {maxStale: 30, timeout: 1.5, refresh: 10}
"""


def test_an_issuer_has_settings_of_its_own(tmp_path: Path) -> None:
    """Files are seen from the current folder; what an issuer does not say is the mesh's."""
    config = load_mesh(write(tmp_path, {"mesh.yaml": ISSUERS})).config
    first, second = config.issuers["https://a.example"], config.issuers["https://b.example"]
    assert (first.ca_file, first.token_file) == (str(tmp_path / "ca.pem"), "/token")
    assert (second.ca_file, second.token_file) == (None, None)
    assert config.keys.token_cache is False
    assert config.keys.of(None) == config.keys
    assert config.keys.of(first) == KeysConfig(refresh=60, cooldown=5, token_cache=False)
    assert config.keys.of(second) == KeysConfig(refresh=10, max_stale=30, timeout=1.5, token_cache=False)


@pytest.mark.parametrize(
    ("good", "bad", "words"),
    [
        ("cooldown: 5", "cooldown: 0", 'issuers["https://a.example"].cooldown'),
        ("cooldown: 5", 'cooldown: "5"', 'issuers["https://a.example"].cooldown'),
        ("caFile: ca.pem", "cafile: ca.pem", 'issuers["https://a.example"].cafile'),
        ("caFile: ca.pem", 'caFile: ""', 'issuers["https://a.example"].caFile'),
        ("tokenCache: false", "tokenCache: no", "keys.tokenCache"),
    ],
)
def test_what_an_issuer_cannot_have_is_refused(good: str, bad: str, words: str, tmp_path: Path) -> None:
    """Each with its place."""
    load_mesh(write(tmp_path, {"mesh.yaml": ISSUERS}))
    with pytest.raises(ConfigError, match=re.escape(words)):
        load_mesh(write(tmp_path, {"mesh.yaml": ISSUERS.replace(good, bad)}))
