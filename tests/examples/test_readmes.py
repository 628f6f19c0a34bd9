"""Each example starts with the commands of its README, and does what the README says."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from examples.demo.world import EXAMPLES, SERVERS, World, world

FOLDERS: Final = {"productpage": "fastapi_app", "reviews": "flask_app"}
PROGRAMS: Final = {"python": [sys.executable], "gunicorn": [sys.executable, "-m", "gunicorn"]}


def commands(folder: Path) -> tuple[dict[str, str], list[str]]:
    """What a README's shell block exports, and the command that it ends with."""
    block = re.search(
        r"^```sh\n(.*?)^```", (folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert block is not None
    lines = [shlex.split(line, comments=True) for line in block[1].splitlines()]
    exported = dict(item.split("=", 1) for line in lines if line[0] == "export" for item in line[1:])
    return exported, [*PROGRAMS[lines[-1][0]], *lines[-1][1:]]


@pytest.fixture(scope="module")
def running() -> Iterator[World]:
    """Both services, started by their READMEs; only the paths and the ports are this run's."""
    with world() as made:
        made.start_issuer()
        for name in SERVERS:
            folder = EXAMPLES / FOLDERS[name]
            env, command = commands(folder)
            assert (folder / env["MESHSEC_CONFIG"] / "mesh.yaml").exists()
            env |= {"MESHSEC_CONFIG": str(made.mesh), "MESHSEC_IDENTITY_FILES": str(made.identity(name))}
            if "gunicorn" in command:
                command += ["--bind", f"127.0.0.1:{made.ports.reviews}"]
            made.start(name, command, folder=folder, env=env)
        made.wait_until_ready()
        yield made


def test_productpage_passes_its_user_on_to_reviews(running: World) -> None:
    """One call from outside: the user from the token, the caller of reviews from productpage's certificate."""
    headers = {"authorization": f"Bearer {running.token('alice')}"}
    status, body = running.ask("ingress", "productpage", "/reviews/1", headers=headers)
    assert status == 200
    answer = json.loads(body)
    assert answer["user"] == "alice"
    assert answer["reviews"]["for_user"] == "alice"
    assert answer["reviews"]["asked_by"] == "spiffe://cluster.local/ns/prod/sa/productpage"


def test_reviews_takes_nobody_elses_calls(running: World) -> None:
    """The same user and the same path, without productpage in between."""
    headers = {"authorization": f"Bearer {running.token('alice')}"}
    status, body = running.ask("ingress", "reviews", "/reviews/1", headers=headers)
    assert (status, body) == (403, b"RBAC: access denied")


def test_a_book_that_is_not_there(running: World) -> None:
    """What reviews answers, productpage reports as its own failure."""
    headers = {"authorization": f"Bearer {running.token('alice')}"}
    assert running.ask("ingress", "productpage", "/reviews/99", headers=headers)[0] == 502


@pytest.mark.parametrize("name", SERVERS)
def test_an_example_is_short(name: str) -> None:
    """Fewer than eighty lines show all there is to it."""
    assert len((EXAMPLES / FOLDERS[name] / "app.py").read_text(encoding="utf-8").splitlines()) < 80


def test_the_issuer_gives_no_token_to_a_stranger(running: World) -> None:
    """An unregistered client is refused."""
    with pytest.raises(KeyError):
        running.token("nobody")
