"""How one issuer's keys are had, where that differs from the mesh's ``keys``: ``issuers`` in mesh.yaml.

This file must not know how anything is fetched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from ._model import Text, checked

__all__ = ["IssuerConfig", "ProxySetting"]

_PROXY_WORDS: Final = ("environment", "none")
_PROXY: Final = re.compile(r"http://(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253}):([1-9][0-9]{0,4})/?")


def _proxy(text: str) -> None:
    found = _PROXY.fullmatch(text)
    if text not in _PROXY_WORDS and (found is None or int(found[1]) > 65535):
        raise ValueError("a proxy is http://host:port without user and password; or write environment, or none")


ProxySetting = Annotated[Text, checked(_proxy)]
_Seconds = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerConfig:
    """One issuer's own settings. What is None is the mesh's.

    Attributes:
        ca_file: a PEM file with the only authorities that may vouch for its servers; None: the system's.
        token_file: a file whose text is sent to it as a bearer token, read anew for each fetch: for Kubernetes' own
            issuer, the service account's.
        proxy: as ``KeysConfig`` has it.
        refresh: seconds, as ``KeysConfig`` has it; so are those that follow.
        max_stale: seconds.
        cooldown: seconds.
        timeout: seconds.
    """

    ca_file: Text | None = None
    token_file: Text | None = None
    proxy: ProxySetting | None = None
    refresh: _Seconds | None = None
    max_stale: _Seconds | None = None
    cooldown: _Seconds | None = None
    timeout: _Seconds | None = None

    def below(self, folder: Path) -> IssuerConfig:
        """The same, its files seen from the current folder."""
        ca_file, token_file = (file and str(folder / file) for file in (self.ca_file, self.token_file))
        return replace(self, ca_file=ca_file, token_file=token_file)
