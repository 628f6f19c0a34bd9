"""How one issuer's keys are had, where that differs from the mesh's ``keys``: ``issuers`` in mesh.yaml.

This file must not know how anything is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final

from pydantic import Field

from ..errors import SpiffeIdError
from ..spiffe import SpiffeId
from ._model import FilePath, Flag, Seconds, Text, checked
from ._problems import Complaint
from ._url import Url

__all__ = ["IssuerConfig", "ProxySetting", "check_issuer"]

_PLACE: Final = "{tenantid}"
_TENANT: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PROXY_WORDS: Final = ("environment", "none")
_PROXY: Final = re.compile(r"https?://(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253}):([1-9][0-9]{0,4})/?")


def _proxy(text: str) -> None:
    found = _PROXY.fullmatch(text)
    if text not in _PROXY_WORDS and (found is None or int(found[1]) > 65535):
        raise ValueError("a proxy is http(s)://host:port without user and password; or write environment, or none")


def _tenant(text: str) -> None:
    if not _TENANT.fullmatch(text):
        raise ValueError(f"{text[:80]!a} is no tenant: letters, digits, - . _ and at most 64 of them")


def check_issuer(name: str, issuer: IssuerConfig) -> Iterator[Complaint]:
    """What is wrong with an issuer's settings, given its name; an open-ended template above all."""
    places = name.count(_PLACE)
    if places > 1 or (places and not name.startswith("https://")):
        yield (name,), f"a templated issuer is an https URL with one {_PLACE}"
    if bool(issuer.tenants) != bool(places):
        yield (name, "tenants"), f"an issuer with {_PLACE} in it lists its tenants, and no other one has any"
    if len(set(issuer.tenants)) != len(issuer.tenants):
        yield (name, "tenants"), "a tenant is listed twice"
    if issuer.discovery and not places:
        yield (name, "discovery"), f"only an issuer with {_PLACE} in it has its discovery document elsewhere"
    if issuer.jwt_svid and not _is_trust_domain(name):
        yield (name, "jwtSvid"), "JWT-SVIDs are of a trust domain: write spiffe://<trust domain> for the issuer"


def _is_trust_domain(name: str) -> bool:
    try:
        return name.startswith("spiffe://") and not SpiffeId.parse(name).path
    except SpiffeIdError:
        return False


ProxySetting = Annotated[Text, checked(_proxy)]


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerConfig:
    """One issuer's own settings. What is None is the mesh's.

    Attributes:
        ca_file: a PEM file with the only authorities that may vouch for its servers; None: the system's.
        token_file: a file whose text is sent to it as a bearer token, read anew for each fetch: for Kubernetes' own
            issuer, the service account's.
        proxy: as ``KeysConfig`` has it.
        proxy_ca_file: as ``KeysConfig`` has it.
        refresh: seconds, as ``KeysConfig`` has it; so are those that follow.
        max_stale: seconds.
        cooldown: seconds.
        timeout: seconds.
        tenants: for an issuer with ``{tenantid}`` in it, as Entra's: the only values of ``tid`` that it stands for.
        discovery: for such an issuer: under which URL its discovery document is.
        jwt_svid: for ``spiffe://<trust domain>``: its tokens are JWT-SVIDs of workloads of that trust domain, and its
            key set is the trust domain's bundle.
    """

    ca_file: FilePath | None = None
    token_file: FilePath | None = None
    proxy: ProxySetting | None = None
    proxy_ca_file: FilePath | None = None
    refresh: Seconds | None = None
    max_stale: Seconds | None = None
    cooldown: Seconds | None = None
    timeout: Seconds | None = None
    tenants: Annotated[tuple[Annotated[Text, checked(_tenant)], ...], Field(max_length=1000)] = ()
    discovery: Url | None = None
    jwt_svid: Flag = False

    def by_name(self, issuer: str) -> Mapping[str, str]:
        """Each issuer that the template ``issuer`` stands for, and its tenant; empty where it is none."""
        return MappingProxyType({issuer.replace(_PLACE, tenant): tenant for tenant in self.tenants})

    def below(self, folder: Path) -> IssuerConfig:
        """The same, its files seen from the current folder."""
        files = (self.ca_file, self.token_file, self.proxy_ca_file)
        ca_file, token_file, proxy_ca_file = (file and str(folder / file) for file in files)
        return replace(self, ca_file=ca_file, token_file=token_file, proxy_ca_file=proxy_ca_file)
