"""How one issuer's keys are had, where that differs from the mesh's ``keys``: ``issuers`` in mesh.yaml.

This file must not know how anything is fetched.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ._model import Text

__all__ = ["IssuerConfig"]

_Seconds = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerConfig:
    """One issuer's own settings. What is None is the mesh's.

    Attributes:
        ca_file: a PEM file with the only authorities that may vouch for its servers; None: the system's.
        token_file: a file whose text is sent to it as a bearer token, read anew for each fetch: for Kubernetes' own
            issuer, the service account's.
        refresh: seconds, as ``KeysConfig`` has it; so are those that follow.
        max_stale: seconds.
        cooldown: seconds.
        timeout: seconds.
    """

    ca_file: Text | None = None
    token_file: Text | None = None
    refresh: _Seconds | None = None
    max_stale: _Seconds | None = None
    cooldown: _Seconds | None = None
    timeout: _Seconds | None = None

    def below(self, folder: Path) -> IssuerConfig:
        """The same, its files seen from the current folder."""
        ca_file, token_file = (file and str(folder / file) for file in (self.ca_file, self.token_file))
        return replace(self, ca_file=ca_file, token_file=token_file)
