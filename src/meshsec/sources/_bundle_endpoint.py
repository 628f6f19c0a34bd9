"""A bundle endpoint, asked once (SPIFFE Federation, section 5): who its server must be, and where it may lead to.

This file must not know when to ask, nor what is done with the answer.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final
from urllib.parse import urljoin, urlsplit

from ..errors import KeysUnavailableError
from ..resources import TrustBundle
from ..spiffe import BundleDocument, TrustDomain, X509Bundle, X509BundleSet, read_bundle
from ..tls import StaticMaterial, authorize_id, client_context
from ._fetch import PLAIN_GET, Asking, fetch, good_body

__all__ = ["TIMEOUT", "fetch_bundle"]

TIMEOUT: Final = 10.0  # seconds for everything, redirects included
MAX_BYTES: Final = 4 << 20
MAX_REDIRECTS: Final = 5
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


def fetch_bundle(
    domain: TrustDomain, relation: TrustBundle, voucher: X509Bundle | None, *, timeout: float = TIMEOUT
) -> BundleDocument:
    """Fetch a trust domain's bundle, always from the configured URL on.

    A redirect is followed for this once, as long as it stays https without user and password; the new server is held
    to the same profile, and under ``https_spiffe`` to the same SPIFFE ID.

    Args:
        domain: whose bundle it is; the bundle does not say.
        relation: with its ``endpoint``.
        voucher: for ``https_spiffe``: the authorities of the server's trust domain.
        timeout: seconds for everything.

    Raises:
        KeysUnavailableError: no answer, a status other than 200, a server that is somebody else.
        ConfigError: ``bundle_invalid``.
    """
    url, deadline = relation.endpoint or "", time.monotonic() + timeout
    for _ in range(MAX_REDIRECTS + 1):
        left = max(deadline - time.monotonic(), 0.001)
        result = fetch(url, timeout=left, max_bytes=MAX_BYTES, asking=_asking(relation, url, voucher))
        if result.status not in _REDIRECTS:
            return read_bundle(domain, good_body(url, result))
        url = _redirected(url, result.headers.get("location", ""))
    raise KeysUnavailableError(f"more than {MAX_REDIRECTS} redirects from {relation.endpoint}")


def _redirected(url: str, location: str) -> str:
    """Where a redirect leads, if a bundle endpoint may be there; the configured URL was judged where it was read."""
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
    except ValueError:
        target, parts = "", urlsplit("")
    if parts.scheme != "https" or parts.username is not None or parts.password is not None or not parts.hostname:
        raise KeysUnavailableError("a bundle endpoint leads to what is not an https URL without user and password")
    return target


def _asking(relation: TrustBundle, url: str, voucher: X509Bundle | None) -> Asking:
    if relation.spiffe_id is None:
        return replace(PLAIN_GET, ca_file=relation.ca_file)
    if voucher is None:
        raise KeysUnavailableError(f"nothing is known that vouches for {relation.spiffe_id}")
    material = StaticMaterial(None, X509BundleSet([voucher]))
    context = client_context(material, authorize=authorize_id(relation.spiffe_id), anonymous=True)
    return replace(PLAIN_GET, context=context, server_hostname=urlsplit(url).hostname)
