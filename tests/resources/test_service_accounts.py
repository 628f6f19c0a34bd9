"""Service accounts, out of manifests and lists."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsec.errors import ConfigError, MeshsecError
from meshsec.resources import ServiceAccount, load_service_accounts

MANIFESTS = """\
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: prod, labels: {app: web}}
automountServiceAccountToken: false
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: other, namespace: prod}
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: ServiceAccount
  metadata: {name: cart.v2}
"""


def read(folder: Path, text: str) -> tuple[ServiceAccount, ...]:
    """The accounts in one file."""
    (folder / "accounts.yaml").write_text(text, encoding="utf-8")
    return load_service_accounts(folder / "accounts.yaml")


def test_manifests_and_lists_are_read(tmp_path: Path) -> None:
    """A folder: other kinds are passed over, an account without a namespace is in default, each counts once."""
    (tmp_path / "a.yaml").write_text(MANIFESTS)
    (tmp_path / "b.yml").write_text("- {namespace: prod, name: web}\n- {namespace: test, name: web}\n")
    (tmp_path / "c.txt").write_text("no YAML: [")
    assert load_service_accounts(str(tmp_path)) == (
        ServiceAccount("default", "cart.v2"),
        ServiceAccount("prod", "web"),
        ServiceAccount("test", "web"),
    )


REFUSED = {
    "no name": "- {namespace: prod}",
    "another field": "- {namespace: prod, name: web, kind: x}",
    "no mapping": "- web",
    "text": "web",
    "a number for a name": "- {namespace: prod, name: 8}",
    "an upper-case name": "- {namespace: prod, name: Web}",
    "a path": "- {namespace: prod, name: ../../etc}",
    "a dot": "- {namespace: prod, name: .}",
    "a namespace with a dot": "- {namespace: a.b, name: web}",
    "a long name": f"- {{namespace: prod, name: {'a' * 254}}}",
    "a manifest without metadata": "{apiVersion: v1, kind: ServiceAccount}",
    "a manifest without a name": "{apiVersion: v1, kind: ServiceAccount, metadata: {namespace: prod}}",
    "a bad name in a list": "{kind: List, items: [{apiVersion: v1, kind: ServiceAccount, metadata: {name: A}}]}",
    "a kind that is no text": "{apiVersion: v1, kind: [ServiceAccount], metadata: {name: web}}",
    "no kind": "{apiVersion: v1, metadata: {name: web}}",
    "a list without items": "{apiVersion: v1, kind: List, items: {}}",
    "broken YAML": "- ]",
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED.keys())
def test_an_account_that_cannot_be_meant_is_refused(tmp_path: Path, text: str) -> None:
    """The problem names the line."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert caught.value.problems[0].line == 1


def test_all_problems_of_all_files_come_at_once(tmp_path: Path) -> None:
    """One missing file is a problem of its own."""
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_text("- {namespace: prod, name: A}\n- {namespace: prod, name: B}\n")
    with pytest.raises(ConfigError) as caught:
        load_service_accounts(tmp_path)
    assert len(caught.value.problems) == 4
    with pytest.raises(ConfigError):
        load_service_accounts(tmp_path / "nowhere")


@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=12))
@settings(max_examples=100)
def test_any_name_is_taken_or_refused_in_our_words(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    """What is taken is a name that a store and a SPIFFE ID can hold."""
    folder = tmp_path_factory.mktemp("accounts")
    try:
        found = read(folder, f"- {{namespace: prod, name: {name}}}\n")
    except MeshsecError:
        return
    assert all(set(item.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-") for item in found)


def test_the_apis_own_list_is_read(tmp_path: Path) -> None:
    """``kubectl get --raw /api/v1/serviceaccounts``: only the list says of what kind it is."""
    text = '{"kind": "%s", "apiVersion": "v1", "items": [{"metadata": {"name": "web", "namespace": "prod"}}]}'
    assert read(tmp_path, text % "ServiceAccountList") == (ServiceAccount("prod", "web"),)
    assert read(tmp_path, text % "PodList") == ()
