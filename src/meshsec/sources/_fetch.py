"""Outgoing HTTP requests: one at a time, each on a connection of its own, and what their answers say of themselves.

No redirect is followed and no cookie is used. This file must not know what is fetched, except for OpenID Connect's
discovery document.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final, Protocol

from ..errors import KeysUnavailableError
from ..jose import read_json_object
from ._line import MAX_BYTES, USER_AGENT, Asking, FetchResult, exchange, open_line, read_url

__all__ = ["PLAIN_GET", "Asking", "Fetch", "FetchResult", "discover", "fetch", "good_body", "max_age"]

_HEADERS: Final = {"user-agent": USER_AGENT, "accept": "application/json", "accept-encoding": "identity"}

PLAIN_GET: Final = Asking(headers=tuple(_HEADERS.items()))


class Fetch(Protocol):
    """Whatever fetches as :func:`fetch` does."""

    def __call__(self, url: str, *, timeout: float) -> FetchResult:
        """GET a URL, or raise KeysUnavailableError."""
        ...


def fetch(url: str, *, timeout: float, max_bytes: int = MAX_BYTES, asking: Asking = PLAIN_GET) -> FetchResult:
    """Make one request; a GET, unless it is said otherwise.

    Args:
        url: http or https, without user and password, at most 2048 characters.
        timeout: seconds for everything together, however slowly the bytes drip. Only the look-up of the name has
            the resolver's own limits.
        max_bytes: a larger body is an error and is not read on.
        asking: what to send.

    Returns:
        The answer; a redirect is an answer like any other.

    Raises:
        KeysUnavailableError: no complete answer in time, or an address that is never fetched from: link-local and
            metadata addresses. Loopback and private addresses are fine.
    """
    target = read_url(url)
    line = open_line(target, asking)
    try:
        return exchange(line, target, asking, timeout=timeout, max_bytes=max_bytes)
    finally:
        line.finish()


def discover(issuer: str, *, timeout: float, fetch: Fetch = fetch, place: str | None = None) -> str:
    """Find an issuer's key set (OpenID Connect Discovery 1.0 section 4).

    Args:
        issuer: the ``iss`` of its tokens, an http or https URL.
        timeout: seconds.
        fetch: fetches one URL.
        place: where the issuer is a template, under which URL its document is; the template must stand in it.

    Returns:
        The ``jwks_uri``.

    Raises:
        KeysUnavailableError: no document, one of another issuer, or one that leads from https to http.
    """
    url = f"{(place or issuer).removesuffix('/')}/.well-known/openid-configuration"
    body = good_body(url, fetch(url, timeout=timeout))
    try:
        document = read_json_object(body)
    except ValueError as error:
        raise KeysUnavailableError(f"the discovery document of {issuer} is unreadable: {error}") from None
    if document.get("issuer") != issuer:
        raise KeysUnavailableError(f"the discovery document found for {issuer} is another issuer's")
    jwks_uri = document.get("jwks_uri")
    if not isinstance(jwks_uri, str):
        raise KeysUnavailableError(f"the discovery document of {issuer} has no jwks_uri")
    if read_url(url).scheme == "https" and read_url(jwks_uri).scheme != "https":
        raise KeysUnavailableError(f"the discovery document of {issuer} leads from https to http")
    return jwks_uri


def good_body(url: str, result: FetchResult) -> bytes:
    """The body of a 200. Raises KeysUnavailableError for every other status, redirects among them."""
    if result.status != 200:
        raise KeysUnavailableError(f"fetching {read_url(url)} failed: status {result.status}")
    return result.body


def max_age(result: FetchResult) -> float:
    """For how many seconds an answer says it is good (RFC 9111 section 4.2); infinite where it says nothing.

    ``Cache-Control`` comes before ``Expires``; what lay in a cache on the way (``Age``) is taken off.
    """
    directives = [part.strip().lower() for part in result.headers.get("cache-control", "").split(",")]
    if "no-store" in directives or "no-cache" in directives:
        return 0.0
    ages = [_seconds(part.removeprefix("max-age=").strip('"')) for part in directives if part.startswith("max-age=")]
    return max((min(ages) if ages else _until_expiry(result.headers)) - _seconds(result.headers.get("age", "0")), 0.0)


def _seconds(text: str) -> float:
    """What is no number is stale at once, as the RFC wants it."""
    return float(text) if text.isascii() and text.isdecimal() else 0.0


def _until_expiry(headers: Mapping[str, str]) -> float:
    """By the server's own clock, from ``Date``, as ours may be another."""
    if "expires" not in headers or "date" not in headers:
        return math.inf
    try:
        expires, date = (parsedate_to_datetime(headers[name]).timestamp() for name in ("expires", "date"))
    except (ValueError, OverflowError):
        return 0.0
    return expires - date
