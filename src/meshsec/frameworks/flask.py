"""For Flask: who calls, as a proxy like ``flask.request``.

::

    from meshsec.frameworks.flask import caller

    @app.get("/me")
    def me(): return caller.principal.subject
"""

from __future__ import annotations

from typing import cast

from flask import request
from werkzeug.local import LocalProxy

from ..attributes import AuthContext

__all__ = ["caller"]


def _current() -> AuthContext:
    context = request.environ.get("meshsec")
    if context is None:
        raise RuntimeError("this application is not wrapped: app.wsgi_app = mesh.wsgi(app.wsgi_app)")
    return cast("AuthContext", context)


caller: AuthContext = cast("AuthContext", LocalProxy(_current))
"""The peer, the end user and the decision for the current request; RuntimeError where the app is not wrapped."""
