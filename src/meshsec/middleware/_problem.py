"""A refusal as problem details (RFC 9457), for clients that ask for JSON. This file must not know policies."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Final

from ..decision import Decision

__all__ = ["PROBLEM_JSON", "problem_body", "wants_problem"]

PROBLEM_JSON: Final = "application/problem+json"

# Names of what we could send, most specific first; what is not named by any of them is not wanted.
_PROBLEM_NAMES: Final = (PROBLEM_JSON, "application/json", "application/*")
_TEXT_NAMES: Final = ("text/plain", "text/*")
_LONGEST: Final = 1024  # characters of an Accept header that are worth reading


def wants_problem(accept: str) -> bool:
    """Whether an Accept header (RFC 9110 section 12.5.1) names JSON, and rates it no lower than plain text.

    ``*/*`` alone names nothing: whoever does not ask is answered as Istio does.
    """
    if len(accept) > _LONGEST:
        return False
    weights = dict(map(_range, accept.lower().split(",")))
    problem = next((weights[name] for name in _PROBLEM_NAMES if name in weights), 0.0)
    text = next((weights[name] for name in _TEXT_NAMES if name in weights), 0.0)
    return problem > 0 and problem >= text


def problem_body(decision: Decision) -> bytes:
    """The JSON: status and Istio's words. Which policy or rule decided is nobody's business."""
    try:
        title = HTTPStatus(decision.status).phrase
    except ValueError:
        title = "Refused"
    problem = {"type": "about:blank", "title": title, "status": decision.status, "detail": decision.message}
    return json.dumps(problem).encode("ascii")


def _range(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip(" \t") for part in text.split(";"))
    weight = next((part[2:] for part in parameters if part.startswith("q=")), "1")
    digits = weight.replace(".", "", 1)
    return name, float(weight) if digits.isascii() and digits.isdecimal() and len(weight) <= 5 else 0.0
