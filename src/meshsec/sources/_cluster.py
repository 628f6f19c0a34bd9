"""The service accounts of a Kubernetes cluster, asked of its API server. Must not know: identities, who gets one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from ..errors import KeysUnavailableError
from ..jose import read_json_object
from ..resources import ServiceAccount
from ._fetch import PLAIN_GET, Asking, FetchResult, fetch, good_body
from ._issuer import read_token

__all__ = ["ClusterAccounts"]

IN_CLUSTER: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
REFRESH: Final = 15.0  # a list of ten thousand accounts is twenty pages: not for every look
TIMEOUT: Final = 10.0
PAGE: Final = 500
MAX_PAGES: Final = 1000
MAX_BYTES: Final = 1 << 24
_PATH: Final = "/api/v1/serviceaccounts"
_GONE: Final = 410  # the list has changed too much since its first page


class ClusterAccounts:
    """Lists every service account of a cluster, page by page; asked again after 15 seconds at the earliest.

    The pod's own account needs the right to ``list`` ``serviceaccounts`` in all namespaces, and no other.

    Args:
        url: the API server's, https, without a path.
        credentials: a folder with ``token`` and ``ca.crt``, both read anew each time; by default the one that
            Kubernetes mounts into each pod.
        clock: seconds that only grow.
    """

    def __init__(
        self, url: str, credentials: Path | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = url.rstrip("/") + _PATH
        self._credentials = credentials or IN_CLUSTER
        self._clock = clock
        self._listed: tuple[ServiceAccount, ...] = ()
        self._due = clock()

    def __call__(self) -> tuple[ServiceAccount, ...]:
        """Each once, in order of namespace and name.

        Raises:
            KeysUnavailableError: no whole list can be had; half of one is none.
        """
        if self._clock() >= self._due:
            try:
                found = self._pages()
            except _ExpiredError:
                found = self._pages()
            self._listed = tuple(sorted(found))
            self._due = self._clock() + REFRESH
        return self._listed

    def _pages(self) -> set[ServiceAccount]:
        found: set[ServiceAccount] = set()
        more = ""
        for _ in range(MAX_PAGES):
            page = self._page(more)
            found.update(_accounts(page, self._url))
            more = _next_page(page, self._url)
            if not more:
                return found
        raise KeysUnavailableError(f"{self._url}: a list of more than {MAX_PAGES} pages")

    def _page(self, more: str) -> dict[str, Any]:
        query = {"limit": PAGE, "continue": more} if more else {"limit": PAGE}
        url = f"{self._url}?{urlencode(query)}"
        answer = fetch(url, timeout=TIMEOUT, max_bytes=MAX_BYTES, asking=self._asking())
        if more and answer.status == _GONE:
            raise _ExpiredError(f"{self._url}: the list ended early")
        return _read(answer, self._url)

    def _asking(self) -> Asking:
        line = ("authorization", f"Bearer {read_token(str(self._credentials / 'token'))}")
        ca_file = str(self._credentials / "ca.crt")
        return replace(PLAIN_GET, headers=(*PLAIN_GET.headers, line), ca_file=ca_file)


class _ExpiredError(KeysUnavailableError):
    """The rest of a list is no longer to be had: begin anew, once."""


def _read(answer: FetchResult, url: str) -> dict[str, Any]:
    body = good_body(url, answer)
    try:
        page = read_json_object(body)
    except ValueError as error:
        raise KeysUnavailableError(f"the answer of {url} is unreadable: {error}") from None
    if (page.get("kind"), page.get("apiVersion")) != ("ServiceAccountList", "v1"):
        raise KeysUnavailableError(f"the answer of {url} is no list of service accounts")
    return page


def _accounts(page: dict[str, Any], url: str) -> Iterator[ServiceAccount]:
    items = page.get("items")
    try:
        for item in [] if items is None else items:
            metadata = item["metadata"]
            yield ServiceAccount.of(metadata["namespace"], metadata["name"])
    except (TypeError, KeyError, ValueError):
        raise KeysUnavailableError(f"the answer of {url} holds what is no service account") from None


def _next_page(page: dict[str, Any], url: str) -> str:
    """Empty at the last one."""
    try:
        found = page["metadata"].get("continue", "")
    except (TypeError, KeyError, AttributeError):
        found = None
    if not isinstance(found, str):
        raise KeysUnavailableError(f"the answer of {url} does not say whether it is the whole list")
    return found
