"""The page for MCP servers: its files behind a real uvicorn, and a real MCP client that finds its way."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx2
import pytest
from mcp import Client
from mcp.client.auth.utils import extract_resource_metadata_from_www_auth
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import ProtectedResourceMetadata

from live import free_port, serving
from meshsec.ca import CertificateAuthority
from meshsec.testing import TestIssuer

PAGE: Final = Path(__file__).parents[2] / "docs" / "how-to" / "mcp.md"
FILES: Final = re.compile(r"^```\w+ file=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ISSUER: Final = TestIssuer("https://idp.example")
RESOURCE: Final = "https://tools.example/mcp"


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page's server, with keys in the rule, where it would fetch them; its URL."""
    folder = tmp_path_factory.mktemp("mcp")
    for name, text in FILES.findall(PAGE.read_text(encoding="utf-8")):
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        inline = text.replace("presence: REQUIRED", f"presence: REQUIRED\n      jwks: '{ISSUER.jwks}'")
        file.write_text(inline, encoding="utf-8")
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "tools:app", "--app-dir", str(folder), "--port", str(port)]
    with serving(folder / "mesh", command, port, CertificateAuthority.create("td.example")):
        yield f"http://127.0.0.1:{port}"


def test_a_client_without_a_token_learns_where_to_get_one(tools: str) -> None:
    """401, the challenge, the document: each read by the MCP SDK's own functions."""
    refused = httpx2.post(f"{tools}/mcp", json={})
    assert refused.status_code == 401
    place = extract_resource_metadata_from_www_auth(refused)
    assert place is not None
    told = httpx2.get(place.replace("https://tools.example", tools))
    metadata = ProtectedResourceMetadata.model_validate_json(told.content)
    assert (str(metadata.resource), metadata.scopes_supported) == (RESOURCE, ["tools.use"])
    assert [str(server).rstrip("/") for server in metadata.authorization_servers] == [ISSUER.issuer]


def test_a_client_with_a_token_calls_a_tool(tools: str) -> None:
    """Through sessions and streams of the SDK's own; the tool knows who calls."""

    async def ask(token: str) -> str:
        async with (
            httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}) as http,
            Client(streamable_http_client(f"{tools}/mcp", http_client=http)) as client,
        ):
            found = await client.call_tool("whoami", {})
            return str(found.content[0].text)  # type: ignore[union-attr]

    assert asyncio.run(ask(ISSUER.token(sub="alice", aud=RESOURCE, scope="tools.use other"))) == "alice"


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"aud": RESOURCE, "scope": "tools.use"}, 200),
        ({"aud": "https://other.example", "scope": "tools.use"}, 403),
        ({"aud": RESOURCE, "scope": "other"}, 403),
        ({"aud": RESOURCE, "scope": "tools.use", "iss": "https://evil.example"}, 401),
    ],
)
def test_only_a_token_for_this_resource_counts(tools: str, claims: dict[str, str], status: int) -> None:
    """Another resource's, another scope's, another issuer's is refused."""
    begin = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": begin}
    headers = {
        "authorization": f"Bearer {ISSUER.token(**claims)}",
        "accept": "application/json, text/event-stream",
    }
    assert httpx2.post(f"{tools}/mcp", json=message, headers=headers).status_code == status
