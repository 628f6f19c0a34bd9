"""Whatever stands in a file: resources or a ConfigError, never anything else; and PyYAML and json as oracles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsec.errors import ConfigError, Problem
from meshsec.resources import _yaml, load_mesh, parse
from meshsec.resources._scalar import Unquoted, read_plain
from resources.judged import judge
from sweeping import sweep

GOOD = {path.stem: path.read_text(encoding="utf-8") for path in (Path(__file__).parent / "good").glob("*.yaml")}
PIECES = [
    *"a[]{},|>'\"#?%@`~\n\t\r\x00\x85\u2028\ud800\ufeff",
    *("kind", ": ", "- ", "  ", "&a ", "*a", "!t ", "---\n", "...\n", "<<", "yes", "0x1", "\\ud800", "spec:\n"),
    *("apiVersion: security.istio.io/v1\n", "kind: PeerAuthentication\n", "metadata: {name: a}\n"),
    *("kind: List\n", "items:\n"),
]

texts = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates())
names = st.sampled_from(
    [
        *(
            "metadata",
            "spec",
            "name",
            "rules",
            "from",
            "source",
            "principals",
            "when",
            "key",
            "values",
            "kind",
            "items",
        ),
        *("jwtRules", "jwks", "issuer", "timeout", "mtls", "mode", "portLevelMtls", "selector", "matchLabels"),
        *("annotations", "workloads", "services", "meshConfig", "keys", "refresh", "identity", "trustBundles", "ids"),
        "endpoints",
    ]
)
trees = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names | scalars, inner, max_size=4))
)
kinds = st.sampled_from(["AuthorizationPolicy", "RequestAuthentication", "PeerAuthentication", "List", "Other"])


@given(texts)
@settings(max_examples=300)
def test_any_text_is_resources_or_a_config_error(text: str) -> None:
    """No text is too strange."""
    judge(text)


@given(texts)
@settings(max_examples=100)
def test_any_text_after_a_good_one_is_too(text: str) -> None:
    """The same in the middle of something that is understood."""
    judge(GOOD["policy"] + text)
    judge(GOOD["peer"].replace("STRICT", text))


@given(kinds, trees, trees, st.dictionaries(names, trees, max_size=2))
@settings(max_examples=200)
def test_any_tree_is_resources_or_a_config_error(kind: str, metadata: Any, spec: Any, more: dict[str, Any]) -> None:
    """Well-formed YAML of any shape."""
    document = {**more, "apiVersion": "security.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec}
    judge(yaml.safe_dump(document, allow_unicode=True))


@given(tree=st.dictionaries(names, trees, max_size=4))
@settings(max_examples=100)
def test_any_mesh_yaml_is_a_mesh_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    """The same for mesh.yaml."""
    file = tmp_path_factory.getbasetemp() / "any-mesh.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    problems: tuple[Problem, ...] = ()
    try:
        load_mesh(file)
    except ConfigError as error:
        problems = error.problems
    assert all(problem.line for problem in problems)


@sweep("code")
def test_every_character_anywhere_in_a_value(code: int) -> None:
    """In a value without quotes, in one with quotes, in a name, a pattern, a condition and an annotation."""
    character = chr(code)
    for old, new in [
        ("cluster.local/ns", f"cluster{character}local/ns"),
        ('"8443"', f'"84{character}43"'),
        ("name: viewers", f"name: view{character}ers"),
        ("x-team]", f"x-te{character}am]"),
        ("10.0.0.0/8", f"'10.0.0.0{character}/8'"),
    ]:
        judge(GOOD["policy"].replace(old, new))
    judge(GOOD["request"].replace("/health", f"/heal{character}th"))
    judge(GOOD["request"].replace("1m30s", f"1m{character}30s"))
    escaped = rf'"\x{code:02x}"'
    for old in (
        "AuthorizationPolicy",
        "prod",
        "team",
        "istio.io/dry-run",
        "trustDomains",
        "GET",
        "request.headers[x-team]",
    ):
        judge(GOOD["policy"].replace(old, escaped))


plain_texts = st.one_of(
    st.text(alphabet="0123456789abcdefxo_.:+-eEinfaNTZ ~", max_size=12),
    st.sampled_from(
        ["true", "Yes", "NO", "Off", "null", "~", "", "<<", "=", "2001-01-01", "12:30", "0b1", ".5", "1_0"]
    ),
)


@given(plain_texts)
@settings(max_examples=500)
def test_what_pyyaml_does_not_read_as_text_is_not_text(text: str) -> None:
    """The oracle is YAML 1.1; there may be more that is not text to us, never less."""
    tag = yaml.resolver.Resolver().resolve(yaml.ScalarNode, text, (True, False))
    value = read_plain(text)
    if tag != "tag:yaml.org,2002:str":
        assert not isinstance(value, str)
    if isinstance(value, int | float):
        assert value == yaml.safe_load(text)


@pytest.mark.parametrize("text", ["1e3", "0o17", "y", "N", "-1.5E+2", "+.inf", "1_000", "0x", "1e", "12:30:45.6"])
def test_what_only_some_yaml_reads_as_text_is_not_text(text: str) -> None:
    """Kubernetes and YAML 1.2 read some of these otherwise than PyYAML."""
    assert isinstance(read_plain(text), Unquoted | str)
    assert isinstance(read_plain(text), Unquoted) == (text != "1e")


@pytest.mark.parametrize(
    "text", ["10.0.0.1", "10.0.0.0/8", "::1", "127.0.0.1:8443", "1.2.3", "-", "v1", "5s", "/a", "*"]
)
def test_what_every_yaml_reads_as_text_is_text(text: str) -> None:
    """Addresses, above all."""
    assert read_plain(text) == text


json_keys = st.text(st.characters(codec="ascii"), max_size=4)
json_trees = st.recursive(
    st.booleans() | st.integers(-(10**17), 10**17) | st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(json_keys, inner, max_size=3),
)


@given(st.dictionaries(json_keys, json_trees, max_size=4), st.sampled_from([None, 1, "\t"]))
def test_json_is_read_as_json(tree: dict[str, Any], indent: Any) -> None:
    """The oracle is Python's json, for characters written as they are."""
    problems: list[Problem] = []
    documents = _yaml.read_yaml(json.dumps(tree, indent=indent, ensure_ascii=False), "f", problems)
    assert problems or [value for value, _ in documents] == [tree]


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\u2029"])
def test_line_breaks_of_yaml_1_1_alone_are_refused(character: str) -> None:
    """To one reader the comment ends there, and the DENY counts; to another it does not. Escapes are fine."""
    text = GOOD["policy"].replace("  action: DENY\n", f"  # not yet{character}  action: DENY\n")
    with pytest.raises(ConfigError, match="for some YAML readers only") as caught:
        parse(text)
    assert (caught.value.problems[0].line, caught.value.problems[0].column) == (13, 12)
    escaped = f'"{character!a}"'.replace("'", "")
    (resource,) = parse(GOOD["policy"].replace("[a]", f"[{escaped}]"))
    assert resource.spec.rules[0].when[0].values == (character,)  # type: ignore[union-attr]
