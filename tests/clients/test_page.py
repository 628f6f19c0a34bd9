"""Every block of Python in docs/how-to/clients.md reaches a real service."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from meshsec.ca import write_identity
from world import World, serve, serve_websockets

PAGE: Final = Path(__file__).parents[2] / "docs" / "how-to" / "clients.md"
BLOCKS: Final = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)

# These mesh.yaml says where the page's own says 10.0.0.12.
MESH: Final = """
workloads: {web: {namespace: prod, serviceAccount: web, identity: {files: certs}}}
services: {reviews.prod: {ids: ["spiffe://cluster.local/ns/prod/sa/reviews"], endpoints: ["127.0.0.1:PORT"]}}
allowNoPolicy: true
"""


@pytest.fixture(scope="module")
def world() -> World:
    """One trust domain."""
    return World()


@pytest.fixture
def reviews(world: World, request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a server of reviews that speaks what the block speaks."""
    context = world.mesh("reviews").server_context()
    if "websockets" not in request.getfixturevalue("block"):
        with serve(context) as server:
            yield server.server_port
        return
    with serve_websockets(context, "reviews.prod") as port:
        yield port


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_a_block_reaches_the_service(
    block: str,
    reviews: int,
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As it is printed, but for the port; where it dials by name, the name resolves."""
    identity = world.identity("web").identity
    write_identity(tmp_path / "certs", identity.svid, identity.bundle)
    (tmp_path / "mesh.yaml").write_text(MESH.replace("PORT", str(reviews)), encoding="utf-8")
    monkeypatch.setenv("MESHSEC_CONFIG", str(tmp_path))
    resolve = socket.getaddrinfo

    def resolved(host: Any, *rest: Any, **options: Any) -> Any:
        return resolve("127.0.0.1" if host == "reviews.prod" else host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    exec(compile(block.replace("8443", str(reviews)), str(PAGE), "exec"), {"__name__": "a_page"})
    if "print(" in block:
        assert "reviews.prod" in capsys.readouterr().out
