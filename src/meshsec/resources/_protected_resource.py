"""What a workload says of itself to OAuth clients that look for its authorization server (RFC 9728).

This file must not know how, or to whom, it is said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import urlsplit

from ._model import Text, checked
from ._url import Url, check_url

__all__ = ["ProtectedResource"]

_PATH: Final = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?")
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,256}")


def _identifier(text: str) -> None:
    check_url(text)
    if "?" in text or "#" in text or not _PATH.fullmatch(urlsplit(text).path):
        raise ValueError("a resource is a URL without query and fragment, its path in letters, digits and - . _ ~ /")


def _scope(text: str) -> None:
    if not _SCOPE.fullmatch(text):
        raise ValueError("a scope is one word (RFC 6749 section 3.3)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectedResource:
    """The metadata of one protected resource.

    Attributes:
        resource: its identifier: the URL that clients know it by.
        authorization_servers: whose tokens it takes; empty: the issuers of its RequestAuthentications.
        scopes_supported: words of ``scope`` that clients may ask for.
        resource_name: for people.
        resource_documentation: for developers.
    """

    resource: Annotated[Text, checked(_identifier)]
    authorization_servers: tuple[Url, ...] = ()
    scopes_supported: tuple[Annotated[Text, checked(_scope)], ...] = ()
    resource_name: Text | None = None
    resource_documentation: Url | None = None
