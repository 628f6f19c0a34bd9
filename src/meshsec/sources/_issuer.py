"""How one issuer is asked for its keys: with authorities, a token and a proxy of its own, where mesh.yaml has them.

This file must not know how often, nor what becomes of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from ..authn import KeySource
from ..errors import KeysUnavailableError
from ..resources import IssuerConfig
from ._fetch import PLAIN_GET, FetchResult, fetch
from ._proxy import proxy_for

__all__ = ["IssuerFetch", "read_token"]

_LONGEST_TOKEN: Final = 1 << 14


@dataclass(frozen=True, slots=True)
class IssuerFetch:
    """Fetches as :func:`meshsec.sources._fetch.fetch` does, for one source.

    The bearer token goes to the issuer (or its ``jwksUri``) over https, and where discovery leads elsewhere only to
    servers that the issuer's own ``caFile`` vouches for.
    """

    source: KeySource
    settings: IssuerConfig
    proxy: str | None = None
    proxy_ca_file: str | None = None

    def __call__(self, url: str, *, timeout: float) -> FetchResult:
        """GET a URL. Raises KeysUnavailableError."""
        proxy = proxy_for(self.proxy, url, ca_file=self.proxy_ca_file)
        asking = replace(PLAIN_GET, ca_file=self.settings.ca_file, proxy=proxy)
        if self.settings.token_file and self._may_see_token(url):
            line = ("authorization", f"Bearer {read_token(self.settings.token_file)}")
            asking = replace(asking, headers=(*asking.headers, line))
        return fetch(url, timeout=timeout, asking=asking)

    def _may_see_token(self, url: str) -> bool:
        home = urlsplit(self.source.jwks_uri or self.settings.discovery or self.source.issuer)
        there = urlsplit(url)
        known = (home.hostname, home.port) == (there.hostname, there.port) or self.settings.ca_file is not None
        return there.scheme == "https" and known


def read_token(file: str) -> str:
    """A bearer token, read anew each time: Kubernetes replaces it every hour. Raises KeysUnavailableError."""
    try:
        token = Path(file).read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise KeysUnavailableError(f"the token in {file} is unreadable: {type(error).__name__}") from None
    if not token.isprintable() or " " in token or not 0 < len(token) <= _LONGEST_TOKEN:
        raise KeysUnavailableError(f"what stands in {file} is no token")
    return token
