"""``meshsec explain`` with legacy kinds: a stand-in signs, as it does for today's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from meshsec.cli import main

POLICY = """\
apiVersion: authentication.istio.io/v1alpha1
kind: {kind}
metadata: {{name: default}}
spec:
  origins:
  - jwt: {{issuer: "https://issuer.example", audiences: [shop], triggerRules: [{{excludedPaths: [{{exact: /a}}]}}]}}
"""
CLAIMS = {"iss": "https://issuer.example", "aud": "shop", "sub": "ada"}


@pytest.mark.parametrize("kind", ["Policy", "MeshPolicy"])
def test_a_token_is_signed_for_a_legacy_policy(kind: str, tmp_path: Path) -> None:
    """With the right claims it passes, with others or without any it does not, except where none is needed."""
    (tmp_path / "mesh.yaml").write_text("workloads: {web: {}}\n")
    (tmp_path / "policy.yaml").write_text(POLICY.format(kind=kind))

    def explained(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["explain", str(tmp_path), *arguments])
        return result.exit_code, result.output.splitlines()[0]

    assert explained("--claims", json.dumps(CLAIMS))[0] == 0
    assert explained("--claims", json.dumps({**CLAIMS, "aud": "x"}))[1].startswith(
        "401 UNAUTHENTICATED (jwt_audience)"
    )
    assert explained()[1] == "401 UNAUTHENTICATED (jwt_missing): Jwt is missing"
    assert explained("--target", "/a")[0] == 0
