"""URLs in configuration. What is fetched from them, and whether it may be, is the fetcher's business."""

from __future__ import annotations

import re
from typing import Annotated, Final
from urllib.parse import urlsplit

from ._model import Text, checked

__all__ = ["Url", "check_url"]

_URL: Final = re.compile(r"[\x21-\x7e]{1,2048}")


def check_url(text: str) -> None:
    """An http(s) URL that names a host. Raises ValueError."""
    try:
        url = urlsplit(text)
        fine = url.scheme in ("http", "https") and url.hostname and url.port != 0 and "@" not in url.netloc
    except ValueError:
        fine = False
    if not fine or not _URL.fullmatch(text):
        raise ValueError("an http or https URL of at most 2048 characters belongs here, without user and password")


Url = Annotated[Text, checked(check_url)]
