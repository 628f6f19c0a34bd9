"""How servers hand a request target over to an application, and calling one in that way, in this process.

What a server does with the bytes is done here with its own parser where that can be called; a target that it refuses
is handed over by the laxer ones all the same. Must not know: frameworks, meshes.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from frameworks.spellings import HOST

__all__ = ["ASGI_FORMS", "WSGI_FORMS", "Form", "call_asgi", "call_wsgi"]

Form = Callable[[str], dict[str, Any] | None]
"""From a raw target, bytes as latin-1, to the keys of a scope or environ that it becomes; None: refused."""


def _h11(target: str) -> dict[str, Any] | None:
    """uvicorn with h11, and hypercorn."""
    path, _, query = target.partition("?")
    return {"path": unquote(path), "raw_path": path.encode("latin-1"), "query_string": query.encode("latin-1")}


def _httptools(target: str) -> dict[str, Any] | None:
    """uvicorn with httptools, which reads absolute form and cuts a fragment."""
    import httptools

    try:
        url = httptools.parse_url(target.encode("latin-1"))
        path = (url.path or b"").decode("ascii")
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
        return None
    return {"path": unquote(path), "raw_path": url.path or b"", "query_string": url.query or b""}


def _no_raw_path(target: str) -> dict[str, Any] | None:
    """A server without the optional key."""
    found = _h11(target)
    return found and {**found, "raw_path": None}


def _path_info(path: str, query: str, **more: str) -> dict[str, Any]:
    return {"PATH_INFO": unquote_to_bytes(path.encode("latin-1")).decode("latin-1"), "QUERY_STRING": query, **more}


def _gunicorn(target: str) -> dict[str, Any] | None:
    from gunicorn.util import split_request_uri

    try:
        parts = split_request_uri(target)
    except ValueError:
        return None
    return _path_info(parts.path or "", parts.query or "", RAW_URI=target)


def _werkzeug(target: str) -> dict[str, Any] | None:
    try:
        parts = urlsplit(target)
    except ValueError:
        return None
    path = f"/{parts.netloc}{parts.path}" if not parts.scheme and parts.netloc else parts.path
    path = unquote(path).encode("utf-8", "replace").decode("latin-1")
    return {"PATH_INFO": path, "QUERY_STRING": parts.query, "REQUEST_URI": target, "RAW_URI": target}


def _waitress(target: str) -> dict[str, Any] | None:
    """All slashes at the beginning are one; the raw target is there, but seldom says the same."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return None
    path = _path_info(parts.path, parts.query)["PATH_INFO"]
    return {"PATH_INFO": "/" + path.lstrip("/"), "QUERY_STRING": parts.query, "REQUEST_URI": target}


def _no_raw_target(target: str) -> dict[str, Any] | None:
    """The reference server of Python, and whatever else has decoded the path alone."""
    path, _, query = target.partition("?")
    return _path_info(path, query)


ASGI_FORMS: Final[Mapping[str, Form]] = MappingProxyType(
    {"h11": _h11, "httptools": _httptools, "no raw_path": _no_raw_path}
)
WSGI_FORMS: Final[Mapping[str, Form]] = MappingProxyType(
    {"gunicorn": _gunicorn, "werkzeug": _werkzeug, "waitress": _waitress, "no raw target": _no_raw_target}
)


def call_wsgi(app: Any, form: Mapping[str, Any]) -> int:
    """One GET; the status."""
    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "SERVER_NAME": HOST,
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": HOST,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **form,
    }
    statuses: list[str] = []
    body = app(environ, lambda status, headers, exc_info=None: statuses.append(status))
    b"".join(body)
    if hasattr(body, "close"):
        body.close()
    return int(statuses[-1][:3])


async def call_asgi(app: Any, form: Mapping[str, Any]) -> int:
    """One GET; the status. The client stays connected until it is answered."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "root_path": "",
        "headers": [(b"host", HOST.encode())],
        "client": ("127.0.0.1", 1),
        "server": (HOST, 80),
        "state": {},
        "extensions": {},
        **form,
    }
    messages = iter([{"type": "http.request", "body": b"", "more_body": False}])
    sent: list[Any] = []
    answered = asyncio.Event()

    async def receive() -> Any:
        message = next(messages, None)
        if message is None:
            await answered.wait()
        return message or {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            answered.set()

    await app(scope, receive, send)
    return int(sent[0]["status"])
