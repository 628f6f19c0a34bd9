"""The WSGI middleware (PEP 3333).

WSGI loses information that ASGI keeps: repeated headers arrive joined with commas, ``X_A`` and ``X-A`` are one
variable, and the path is already decoded. Here the raw target is taken where the server gives it, and the request is
marked so that the core judges joined values both ways. It must not know policies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote_to_bytes

from ..attributes import AuthContext, HttpRequest
from ..decision import Edits
from ..policy import Remembered, Wanted
from ._current import CURRENT
from ._enforcer import Enforcer
from ._log import log_refusal
from ._render import render
from ._transport import TRANSPORT_KEY, Transport

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["MeshMiddleware"]

# Where servers keep the connection's socket: gunicorn's sync and gthread workers, its gevent one, werkzeug.
_SOCKETS: Final = ("gunicorn.socket", "gunicorn.sock", "werkzeug.socket")
# Where others put the client's certificate, PEM (mod_ssl's name); no header can be called so.
_CERTIFICATE: Final = "SSL_CLIENT_CERT"
_RAW_TARGETS: Final = ("RAW_URI", "REQUEST_URI")
# All that a request is read from besides its headers.
_LINE: Final = (
    "REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "wsgi.url_scheme", *_RAW_TARGETS, "HTTP_HOST"
)  # fmt: skip
_UNPREFIXED: Final = {"CONTENT_TYPE": "content-type", "CONTENT_LENGTH": "content-length"}
_USUAL_KEYS: Final = 2048  # characters of all names in an environment; longer ones are not remembered
_PATH_SAFE: Final = "/:@!$&'()*+,;=-._~"


class MeshMiddleware:
    """Wraps a WSGI application.

    Args:
        app: the application.
        mesh: who judges: a :class:`meshsec.Mesh`.

    The application finds an :class:`meshsec.attributes.AuthContext` in ``environ["meshsec"]``.
    """

    def __init__(self, app: WSGIApplication, mesh: Enforcer) -> None:
        self.app = app
        self.mesh = mesh

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        connection = self.mesh.connection(_transport(environ))
        names, values = _lines(environ)
        found = self.mesh.recall(connection, tuple(map(environ.get, _LINE)), names, values)
        if isinstance(found, Remembered) and found.prepared is not None:
            return self._passed(environ, start_response, found.told(values), *found.prepared)
        request = _read(environ, tuple(zip(names, values, strict=True)), tls=connection.tls)
        if isinstance(found, Wanted) and found.caller is not None:
            found = self.mesh.judge_line(request, found) or found
        if isinstance(found, Remembered):
            context, found.prepared = found.told(values), (request.scheme, request.target)
        else:
            context = self.mesh.judge(connection, request, found)
        if context.decision.allowed:
            return self._passed(environ, start_response, context, request.scheme, request.target)
        log_refusal(context, connection, request)
        content_type = environ.get("CONTENT_TYPE", "")
        accepted = environ.get("HTTP_ACCEPT", "") if self.mesh.config.problem_details else None
        response = render(context.decision, method=request.method, content_type=content_type, accept=accepted)
        # The server owns the connection header (PEP 3333, hop-by-hop); a kept-alive connection is judged again.
        lines = [(name, value) for name, value in response.headers if name != "connection"]
        start_response(f"{response.status} {_phrase(response.status)}", lines)
        return [response.body]

    def _passed(
        self, environ: WSGIEnvironment, start_response: StartResponse, context: AuthContext, scheme: str, target: str
    ) -> Iterable[bytes]:
        environ["wsgi.url_scheme"] = scheme
        _edit(environ, context, target)
        before = CURRENT.set(context)
        try:
            return self.app(environ, _adding(start_response, context.decision.edits))
        finally:
            CURRENT.reset(before)


def _adding(start_response: StartResponse, edits: Edits) -> StartResponse:
    """Add to the head of the application's response what the decision says, if it says anything."""
    if not edits.response_headers:
        return start_response

    def start_more(status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Callable[[bytes], object]:
        more = [*headers, *edits.response_headers]
        return start_response(status, more) if exc_info is None else start_response(status, more, exc_info)

    return start_more


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Refused"


def _transport(environ: WSGIEnvironment) -> Transport | None:
    for key in _SOCKETS:
        sock = environ.get(key)
        if sock is not None:
            return Transport.of_socket(sock)
    known = environ.pop(TRANSPORT_KEY, None)
    if known is None and _CERTIFICATE in environ:
        verified = environ.get("SSL_CLIENT_VERIFY", "SUCCESS") == "SUCCESS"
        return Transport.of_certificates([environ[_CERTIFICATE]] if verified else ())
    return known if isinstance(known, Transport) else None


def _read(environ: WSGIEnvironment, headers: tuple[tuple[str, str], ...], *, tls: bool | None) -> HttpRequest:
    scheme = environ.get("wsgi.url_scheme", "http") if tls is None else ("https" if tls else "http")
    return HttpRequest(
        method=environ["REQUEST_METHOD"],
        target=_target(environ),
        host=environ.get("HTTP_HOST"),
        headers=headers,
        scheme=scheme,
        joined_headers=True,
        mount=environ.get("SCRIPT_NAME", ""),
    )


def _lines(environ: WSGIEnvironment) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the header lines, lower case, and their values."""
    keys = tuple(environ)
    empty = tuple([key for key in _UNPREFIXED if not environ.get(key)])
    # Servers and clients fill in the same variables again and again, so most are remembered.
    usual = len("".join(keys)) <= _USUAL_KEYS
    names, chosen = (_choose if usual else _choose.__wrapped__)(keys, empty)
    return names, tuple(map(environ.__getitem__, chosen))


@lru_cache(1024)
def _choose(keys: tuple[str, ...], empty: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of an environment's keys those of header lines, behind the names of these."""
    chosen = [key for key in keys if key.startswith("HTTP_") or (key in _UNPREFIXED and key not in empty)]
    names = [_UNPREFIXED.get(key) or key[5:].replace("_", "-").lower() for key in chosen]
    return tuple(names), tuple(chosen)


def _target(environ: WSGIEnvironment) -> str:
    """The raw target, if it decodes to what the server routed; else the decoded path, encoded again."""
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    for key in _RAW_TARGETS:
        raw = environ.get(key)
        if raw and _decoded(_path_of(raw)) == path:
            return str(raw)
    text = quote(path.encode("latin-1"), safe=_PATH_SAFE)
    query = environ.get("QUERY_STRING", "")
    return f"{text}?{query}" if query else text


def _path_of(raw: str) -> str:
    """The path of an origin-form or absolute-form target (RFC 9112 section 3.2), without query and fragment."""
    head = raw.partition("?")[0].partition("#")[0]
    scheme, separator, rest = head.partition("://")
    if separator and not head.startswith("/") and scheme.isalnum():
        slash = rest.find("/")
        return rest[slash:] if slash >= 0 else ""
    return head


def _decoded(path: str) -> str:
    return unquote_to_bytes(path).decode("latin-1")


def _edit(environ: WSGIEnvironment, context: AuthContext, judged: str) -> None:
    edits = context.decision.edits
    environ["meshsec"] = context
    if edits.target is not None:
        _edit_target(environ, edits.target)
    for key in _RAW_TARGETS:
        if key in environ:
            # Also one that an outer layer left behind: what was judged is all that the application may see.
            environ[key] = judged if edits.target is None else edits.target
    for name in edits.remove_headers:
        environ.pop(_variable(name), None)
    _add_headers(environ, edits)


def _edit_target(environ: dict[str, Any], target: str) -> None:
    path, _, query = target.partition("?")
    mount = environ.get("SCRIPT_NAME", "")
    environ["PATH_INFO"] = _decoded(path)[len(mount) :]
    environ["QUERY_STRING"] = query


def _add_headers(environ: WSGIEnvironment, edits: Edits) -> None:
    for name, value in edits.add_headers:
        key = _variable(name)
        # Several values of one name are joined, as the server itself would have joined them.
        environ[key] = f"{environ[key]},{value}" if key in environ and key not in _UNPREFIXED else value


def _variable(name: str) -> str:
    variable = name.upper().replace("-", "_")
    return variable if variable in _UNPREFIXED else f"HTTP_{variable}"
