"""reviews: a Flask service that only productpage may call.

``gunicorn app:app`` serves it with mutual TLS (see gunicorn.conf.py). Who may call what stands in ../mesh, not here.
"""

from __future__ import annotations

import logging
from typing import Any

from flask import Flask, abort, request

from meshsec.frameworks.flask import caller
from meshsec.servers import current_mesh

logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
logging.getLogger("meshsec.access").setLevel(logging.DEBUG)  # which rules did not match, too
log = logging.getLogger("reviews")

app = Flask(__name__)
# The worker's own mesh, the same that gunicorn.conf.py serves TLS with: $MESHSEC_CONFIG, $MESHSEC_WORKLOAD
app.wsgi_app = current_mesh().wsgi(app.wsgi_app)  # type: ignore[method-assign]

REVIEWS = {1: {"stars": 5, "text": "An extremely entertaining play."}, 2: {"stars": 4, "text": "Refreshing."}}


@app.before_request
def tell() -> None:
    """Log why a request was let in; refusals never come this far and are logged by meshsec."""
    why = caller.decision.explain().replace("\n", " |")
    log.info("request_id=%r: %s", request.headers.get("x-request-id", "-"), why)


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "up"}


@app.get("/reviews/<int:book>")
def reviews(book: int) -> dict[str, Any]:
    if book not in REVIEWS:
        abort(404)
    return {
        **REVIEWS[book],
        "asked_by": str(caller.peer.id) if caller.peer else None,  # the workload, from its certificate
        "for_user": caller.principal.subject if caller.principal else None,  # the user, from the token
    }
