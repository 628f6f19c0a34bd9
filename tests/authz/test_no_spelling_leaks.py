"""authz and attributes together: no spelling of a denied path reaches a router, however it reads paths.

The routers are small models of what frameworks were seen to do with the path they are given.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote, unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.cases import compiled, operation, policy, request
from meshsec.attributes import Target, read_target
from meshsec.resources import AmbiguousPaths, PathNormalization

DENIED: Final = "/private/a:b/secret.html"
CLOSED: Final = [
    compiled(policy(operation(**{field: [DENIED + end]}), action=action))
    for field, action in (("paths", "DENY"), ("notPaths", "ALLOW"))
    for end in ("", "/")
]


def _resolved(path: str) -> str:
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    return "/" + "/".join(kept) + ("/" if segments[-1] in (".", "..") and kept else "")


ROUTERS: Final[dict[str, Callable[[str], str]]] = {
    "decodes": unquote,
    "decodes twice": lambda path: unquote(unquote(path)),
    "drops bad bytes": lambda path: unquote_to_bytes(path).decode("utf-8", "ignore"),
    "merges slashes": lambda path: re.sub("//+", "/", unquote(path)),
    "strips leading slashes": lambda path: "/" + unquote(path).lstrip("/"),
    "drops slashes at the end": lambda path: unquote(path).rstrip("/"),
    "resolves dots": lambda path: _resolved(unquote(path)),
    "merges, then resolves": lambda path: _resolved(re.sub("//+", "/", unquote(path))),
    "takes backslashes": lambda path: unquote(path).replace("\\", "/"),
    "matches before a line end": lambda path: re.sub("[\n\r\x85\u2028\u2029]$", "", unquote(path)),
    "cuts parameters of dots": lambda path: _resolved(re.sub(r"/(\.\.?);[^/]*", r"/\1", unquote(path))),
}

CHARACTER: Final = st.sampled_from(
    ["{0}"] * 17 + ["%{1:02x}", "%{1:02X}", "%25{1:02x}", "%2525{1:02x}", "%{1:02x}%ff"]
)
SLASH: Final = st.sampled_from(
    ["/"] * 8 + ["//", "/./", "/x/../", "/%2e/", "/x/%2E%2e/", "%2f", "%5c", "\\", "/x/..;/", "/.;p/", "/x/..%3b/"]
)
END: Final = st.sampled_from(
    [""] * 6 + ["%0a", "%0d", "%c2%85", "%e2%80%a8", "?q", "#f", "%3fq", "%23", "/.", "\n", "/", "//", "%2f"]
)


@st.composite
def spellings(draw: st.DrawFn) -> str:
    """The denied path, each character written in one of many ways."""
    text = "".join(draw(SLASH) if char == "/" else draw(CHARACTER).format(char, ord(char)) for char in DENIED)
    return text + draw(END)


@pytest.mark.parametrize("ambiguous", ["refuse", "judge"])
@pytest.mark.parametrize("mode", list(PathNormalization))
@given(target=spellings())
@settings(max_examples=250)
def test_no_spelling_leaks(mode: PathNormalization, ambiguous: AmbiguousPaths, target: str) -> None:
    """Refused for its form, or denied in one of its readings, or routed elsewhere by every router."""
    result = read_target(target, mode, ambiguous)
    if not isinstance(result, Target):
        return
    for authorization in CLOSED:
        if all(authorization.evaluate(request(path=path)).allowed for path in result.readings):
            reached = [name for name, route in ROUTERS.items() if route(result.path) == DENIED]
            assert reached == [], target


@pytest.mark.parametrize("mode", list(PathNormalization))
def test_the_plain_spelling(mode: PathNormalization) -> None:
    """The twin: written plainly it is denied, and its neighbour is not."""
    for path, allowed in ((DENIED, False), (DENIED + "x", True)):
        result = read_target(path, mode, "refuse")
        assert isinstance(result, Target)
        for authorization in CLOSED:
            assert authorization.evaluate(request(path=result.path)).allowed is allowed
