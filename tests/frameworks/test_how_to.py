"""The pages for Flask, Django and Starlette: their files, as they are printed, as real servers with mutual TLS."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from live import Served, free_port, mesh, serving
from meshsec.testing import TestIssuer

PAGES: Final = Path(__file__).parents[2] / "docs" / "how-to"
FILES: Final = re.compile(r"^```python file=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ISSUER: Final = TestIssuer()
POLICIES: Final = f"""
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: users, namespace: prod}}
spec: {{jwtRules: [{{issuer: {ISSUER.issuer}, jwks: '{ISSUER.jwks}'}}]}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: web, namespace: prod}}
spec: {{rules: [{{from: [{{source: {{principals: [td.example/ns/prod/sa/web]}}}}]}}]}}
"""


def get(served: Served, account: str, path: str, token: str | None = None) -> tuple[int, Any]:
    """One request of a workload, for a user or for nobody: status and body."""
    connection = served.connect(served.caller(account))
    try:
        connection.request("GET", path, headers={"authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        body = response.read()
        return response.status, json.loads(body) if body.startswith(b"{") else body.decode()
    finally:
        connection.close()


def command(page: str, folder: Path, port: int) -> list[str]:
    """How the page says that it is started, but for the port."""
    if page == "starlette":
        app = folder / "app.py"
        app.write_text(app.read_text(encoding="utf-8").replace("8443", str(port)), encoding="utf-8")
        return [sys.executable, str(app)]
    options = ["-c", str(folder / "gunicorn.conf.py"), "--bind", f"127.0.0.1:{port}", "--chdir", str(folder)]
    return [sys.executable, "-m", "gunicorn", *options, "app:application" if page == "django" else "app:app"]


@pytest.mark.parametrize("page", ["flask", "django", "starlette"])
def test_a_page_is_a_running_service(page: str, tmp_path: Path) -> None:
    """The workload from its certificate, the user from the token; whoever may not call is refused."""
    for name, text in FILES.findall((PAGES / f"{page}.md").read_text(encoding="utf-8")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    authority = mesh(tmp_path)
    (tmp_path / "policies.yaml").write_text(POLICIES, encoding="utf-8")
    port = free_port()
    with serving(tmp_path, command(page, tmp_path, port), port, authority) as served:
        web = "spiffe://td.example/ns/prod/sa/web"
        user = f"{ISSUER.issuer}/alice" if page == "flask" else "alice"  # each framework's users call one in its way
        assert get(served, "web", "/me", ISSUER.token(sub="alice")) == (200, {"workload": web, "user": user})
        assert get(served, "web", "/me") == (200, {"workload": web, "user": None})
        assert get(served, "other", "/me", ISSUER.token()) == (403, "RBAC: access denied")
        assert get(served, "web", "/me", TestIssuer().token()) == (401, "Jwt verification fails")
        if page != "flask":
            assert get(served, "web", "/orders", ISSUER.token(scope="orders.write")) == (200, {"ordered": True})
            assert get(served, "web", "/orders", ISSUER.token(scope="orders.read"))[0] == 403
