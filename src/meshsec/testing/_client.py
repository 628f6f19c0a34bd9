"""A test client whose requests seem to come from a peer, and are judged by the real policy of the application's mesh.

Only the connection, the fetching of keys and what external authorizers answer are stood in for: there is no TLS in a
test client, and nobody behind a URL. This file must not know how anything is judged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, Final

from ..attributes import AuthContext, Connection, HttpRequest
from ..authn import KeySnapshot, KeySource, KeyState
from ..decision import Decision
from ..mesh import Mesh
from ..middleware import Transport, asgi, wsgi
from ..policy import CheckAnswer, NeedCheck, Remembered, RequestLine, Wanted
from ..resources import MeshConfig
from ..sources import Authorizers, Dialled, Provider
from ._django import django_client, is_django
from ._issuer import TestIssuer

__all__ = ["Answer", "MeshClient", "StandIn", "decision_of"]

_VERBS: Final = frozenset({"get", "post", "put", "patch", "delete", "head", "options", "request", "open", "trace"})
_MARK: Final = "mesh_decision"

Answer = Provider | CheckAnswer | bool
"""What an external authorizer says in a test: always the same, or as a function says."""


class StandIn:
    """Takes a mesh's place in its middleware: the same policy, another connection, the test's own keys.

    Args:
        mesh: whose policy judges.
        connection: where every request seems to come from.
        issuers: they answer for every key set that is fetched for their ``iss``; nothing is fetched.
        providers: what external authorizers answer, by name; those that the program registered itself need none.
    """

    def __init__(
        self,
        mesh: Mesh,
        connection: Connection,
        issuers: Iterable[TestIssuer] = (),
        providers: Mapping[str, Answer] | None = None,
    ) -> None:
        self.mesh = mesh
        self.last: Decision | None = None
        self._connection = connection
        self._keys = {issuer.issuer: issuer.keys for issuer in issuers}
        self._answers = {name: _provider(answer) for name, answer in (providers or {}).items()}

    @property
    def config(self) -> MeshConfig:
        """The mesh's own."""
        return self.mesh.config

    def connection(self, transport: Transport | None) -> Connection:  # noqa: ARG002 - the protocol's
        """The one that was made up."""
        return self._connection

    def recall(
        self, connection: Connection, line: RequestLine, names: tuple[Any, ...], values: Sequence[Any]
    ) -> None:
        """Nothing: each of a test's requests is judged."""

    def holds(self, found: Remembered, known: object) -> bool:  # noqa: ARG002 - the protocol's
        """Never."""
        return False

    def judge_line(self, request: HttpRequest, wanted: Wanted) -> None:
        """Nothing: nobody is known."""

    def judge(self, connection: Connection, request: HttpRequest, wanted: Wanted | None = None) -> AuthContext:  # noqa: ARG002
        """By the policy in force now, with the keys and answers at hand."""
        answers: list[CheckAnswer] = []
        while not isinstance(found := self._ask(connection, request, answers), AuthContext):
            answers.append(self._authorizers(found).ask(found, None))
        self.last = found.decision
        return found

    async def judge_soon(
        self,
        connection: Connection,
        request: HttpRequest,
        wanted: Wanted | None = None,  # noqa: ARG002
    ) -> AuthContext:
        """The same."""
        answers: list[CheckAnswer] = []
        while not isinstance(found := self._ask(connection, request, answers), AuthContext):
            answers.append(await self._authorizers(found).ask_async(found, None))
        self.last = found.decision
        return found

    def _ask(
        self, connection: Connection, request: HttpRequest, answers: Sequence[CheckAnswer]
    ) -> AuthContext | NeedCheck:
        policy = self.mesh.policy
        found = policy.judge(connection, request, self._snapshot(policy.sources), now=time.time(), answers=answers)
        if not isinstance(found, AuthContext | NeedCheck):
            raise TypeError(f"a test client cannot answer {type(found).__name__}")
        return found

    def _authorizers(self, question: NeedCheck) -> Authorizers:
        """The test's answers first, then the functions of the program; nobody is asked over a network."""
        known = {**self.mesh.providers, **self._answers}
        if question.provider not in known:
            name = question.provider
            raise TypeError(
                f"nobody is asked in a test: say what {name} answers, mesh_client(…, providers={{{name!r}: …}})"
            )
        return Authorizers(known, _nowhere)

    def _snapshot(self, sources: Iterable[KeySource]) -> KeySnapshot:
        return {source: KeyState(self._keys.get(source.issuer)) for source in sources}


class MeshClient:
    """A framework's own test client, whose answers remember how they were decided.

    Starlette's for ASGI, Django's for Django under WSGI, Werkzeug's (with Flask's responses) for other WSGI.

    Args:
        app: ``mesh.asgi(app)``, ``mesh.wsgi(app)``, or a Flask application whose ``wsgi_app`` was wrapped.
        connection: where its requests come from.
        issuers: who signs the tokens.
        token: sent as a bearer token, unless a request says otherwise.
        providers: what external authorizers answer, by the name that CUSTOM policies call them: True, False, a
            :class:`meshsec.policy.CheckAnswer`, or a function of the question that gives one of these.
    """

    def __init__(
        self,
        app: Any,
        connection: Connection,
        issuers: Iterable[TestIssuer] = (),
        token: str | None = None,
        providers: Mapping[str, Answer] | None = None,
    ) -> None:
        guard = app if isinstance(app, asgi.MeshMiddleware | wsgi.MeshMiddleware) else getattr(app, "wsgi_app", None)
        if not isinstance(guard, asgi.MeshMiddleware | wsgi.MeshMiddleware):
            raise TypeError("wrap the application first: mesh.asgi(app), or app.wsgi_app = mesh.wsgi(app.wsgi_app)")
        mesh = guard.mesh.mesh if isinstance(guard.mesh, StandIn) else guard.mesh
        if not isinstance(mesh, Mesh):
            raise TypeError("the application is not protected by a Mesh")
        self._stand_in = StandIn(mesh, connection, issuers, providers)
        self._client = _client(guard, self._stand_in, getattr(app, "response_class", None), token)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return self._judged(found) if name in _VERBS else found

    def _judged(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def request(*args: Any, **options: Any) -> Any:
            self._stand_in.last = None
            response = call(*args, **options)
            setattr(response, _MARK, self._stand_in.last)
            return response

        return request


def decision_of(found: Any) -> Decision:
    """The decision behind a response of a :class:`MeshClient`, an AuthContext, or a decision itself."""
    decision = found.decision if isinstance(found, AuthContext) else getattr(found, _MARK, found)
    if not isinstance(decision, Decision):
        raise TypeError(f"{type(found).__name__} was not judged by a mesh: ask through mesh_client")
    return decision


def _client(guard: Any, stand_in: StandIn, response: type | None, token: str | None) -> Any:
    header = f"Bearer {token}" if token else None
    if isinstance(guard, asgi.MeshMiddleware):
        headers = {"authorization": header} if header else {}
        client: Any = import_module("starlette.testclient").TestClient
        return client(asgi.MeshMiddleware(guard.app, stand_in), headers=headers)
    if is_django(guard.app):
        return django_client(stand_in, header)
    protected = wsgi.MeshMiddleware(guard.app, stand_in)

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if header:
            environ.setdefault("HTTP_AUTHORIZATION", header)
        return protected(environ, start_response)

    return import_module("werkzeug.test").Client(application, response)


def _provider(answer: Answer) -> Provider:
    return answer if callable(answer) else lambda _: answer


def _nowhere(host: str, _: int) -> Dialled:
    raise ConnectionRefusedError(host)
