"""No spelling of a denied path reaches its handler: every framework, every way servers hand a request over.

``MESHSEC_FULL=1`` asks thousands of spellings of each; without it, a small part of them.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any, Final, Self

import pytest

from frameworks.apps import ASGI, SAID_ELSEWHERE, SAID_OTHER, SAID_SECRET, WSGI
from frameworks.guarded import KEYS, guards
from frameworks.handed import ASGI_FORMS, WSGI_FORMS, Form, call_asgi, call_wsgi
from frameworks.spellings import FIXED, OTHER, SECRET, spellings
from live import FULL
from meshsec import Mesh

SPELLINGS: Final = spellings(3, 4_000 if FULL else len(FIXED) + 250)
# Of the ways servers hand over, and in the small part of the meshes, so many are drawn for each spelling.
DRAWN: Final = 2
SURE: Final = "/private/s%65cret.html?x"
"""What reaches the secret everywhere."""


@pytest.fixture(scope="module")
def meshes() -> dict[str, Mesh]:
    """One of each."""
    return guards()


class Handlers(Counter[str]):
    """How often each handler ran."""

    def __call__(self, text: str) -> None:
        self[text] += 1


class Client:
    """Calls one framework's application, bare or guarded, as each kind of server would."""

    def __init__(self, name: str) -> None:
        self.ran = Handlers()
        self.asgi = name in ASGI
        self.app = (ASGI if self.asgi else WSGI)[name](self.ran)
        self.forms = ASGI_FORMS if self.asgi else WSGI_FORMS
        self.runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self.runner.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.runner.__exit__(*error)

    def guarded(self, mesh: Mesh) -> Any:
        """The application behind a mesh."""
        return mesh.asgi(self.app) if self.asgi else mesh.wsgi(self.app)

    def handed(self, form: Form, target: str) -> dict[str, Any] | None:
        """What the server makes of the target."""
        found = form(target)
        return found and {key: value for key, value in found.items() if value is not None}

    def ask(self, app: Any, targets: list[tuple[Form, str]]) -> list[str]:
        """Those targets whose request reached the secret."""
        return self.runner.run(self._ask(app, targets))

    async def _ask(self, app: Any, targets: list[tuple[Form, str]]) -> list[str]:
        found = []
        for form, target in targets:
            before = self.ran[SAID_SECRET]
            handed = self.handed(form, target)
            if handed and self.asgi:
                await call_asgi(app, handed)
            elif handed:
                call_wsgi(app, handed)
            if self.ran[SAID_SECRET] > before:
                found.append(target)
        return found


@pytest.mark.parametrize("name", [*WSGI, *ASGI])
def test_no_spelling_reaches_the_secret(name: str, meshes: dict[str, Mesh]) -> None:
    """Behind DENY on its path, and behind ALLOW on all but its path, in every setting: the handler never runs."""
    rng = random.Random(name)
    with Client(name) as client:
        forms = list(client.forms.values())
        asked: dict[str, list[tuple[Form, str]]] = {key: [] for key in KEYS}
        for target in SPELLINGS:
            for key in KEYS if FULL else rng.sample(KEYS, DRAWN):
                asked[key] += [(form, target) for form in rng.sample(forms, DRAWN)]
        leaks = {key: client.ask(client.guarded(meshes[key]), targets) for key, targets in asked.items()}
        assert {key: found for key, found in leaks.items() if found} == {}
        assert client.ran[SAID_SECRET] == 0
        assert client.ran[SAID_ELSEWHERE] > 0


@pytest.mark.parametrize("name", [*WSGI, *ASGI])
def test_without_the_middleware_they_do(name: str) -> None:
    """The control: the same spellings reach the same handler, through every way of handing over."""
    with Client(name) as client:
        for label, form in client.forms.items():
            # No framework is asked what it makes of a path that does not begin with a slash: some fall over it.
            targets = [target for target in SPELLINGS[:: 1 if FULL else 3] if target.startswith("/")]
            reached = client.ask(client.app, [(form, target) for target in (SURE, *targets)])
            assert SURE in reached, label
            assert len(reached) >= len(targets) // 40, label


@pytest.mark.parametrize("name", [*WSGI, *ASGI])
def test_other_paths_reach_their_handlers(name: str, meshes: dict[str, Mesh]) -> None:
    """The twin: what the policies do not mention is served, in every setting; the secret itself is not."""
    with Client(name) as client:
        forms = list(client.forms.values())
        for key in KEYS:
            app = client.guarded(meshes[key])
            assert client.ask(app, [(form, path) for form in forms for path in (OTHER, SECRET, SECRET + "x")]) == []
        assert client.ran == {SAID_OTHER: len(KEYS) * len(forms), SAID_ELSEWHERE: len(KEYS) * len(forms)}
