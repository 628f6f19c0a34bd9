"""``trustBundles`` of mesh.yaml: where the authorities of each foreign trust domain come from.

Belongs here: the forms and their own rules (SPIFFE Federation, section 5.1: nothing is inferred). Must not know: how
a bundle is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator

from ..spiffe import SpiffeId
from ._model import FilePath, Flag, Text, WorkloadId, checked
from ._problems import Complaint

__all__ = ["TrustBundle", "TrustBundleShape", "trust_bundle_complaints"]

_URL: Final = re.compile(r"https://(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?(?:[/?][!-~]*)?")
MAX_URL: Final = 2048

BundleProfile = Literal["https_web", "https_spiffe"]


def _endpoint_url(text: str) -> None:
    if len(text) > MAX_URL or not _URL.fullmatch(text) or "#" in text:
        raise ValueError("a bundle endpoint is an https URL, without user and password")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustBundle:
    """Where one foreign trust domain's bundle comes from: a file, an endpoint, or the Workload API.

    Attributes:
        bundle: a file, PEM or a SPIFFE bundle (JSON); beside ``endpoint`` it counts until the first fetch.
        endpoint: the https URL of a bundle endpoint (SPIFFE Federation).
        profile: how the endpoint's server is known: by the Web's authorities, or by its SPIFFE ID.
        spiffe_id: for ``https_spiffe``: who the server must be.
        ca_file: for ``https_web``: a PEM file in place of the system's authorities.
        workload_api: whether it is the federated bundle that our own Workload API gives.
    """

    bundle: FilePath | None = None
    endpoint: Annotated[Text, checked(_endpoint_url)] | None = None
    profile: BundleProfile | None = None
    spiffe_id: WorkloadId | None = None
    ca_file: FilePath | None = None
    workload_api: Flag = False

    @classmethod
    def of(cls, value: TrustBundle | str) -> TrustBundle:
        """The value itself, or what a file's name stands for."""
        return cls(bundle=value) if isinstance(value, str) else value

    def below(self, folder: Path) -> TrustBundle:
        """With its files seen from a folder."""
        bundle = self.bundle and str(folder / self.bundle)
        return replace(self, bundle=bundle, ca_file=self.ca_file and str(folder / self.ca_file))


def _in_full(value: Any) -> Any:
    return {"bundle": value} if isinstance(value, str) else value


TrustBundleShape = Annotated[TrustBundle, BeforeValidator(_in_full)]
"""As it stands in a file: a file's name alone is short for ``{bundle: name}``."""


def trust_bundle_complaints(bundles: Mapping[str, TrustBundle], own: frozenset[str]) -> Iterator[Complaint]:
    """What is wrong with each, and with all together.

    Args:
        own: our trust domain and its aliases.
    """
    for name, bundle in bundles.items():
        if name in own:
            yield (name,), "root-cert.pem speaks for the mesh's own trust domain"
        yield from (((name,), reason) for reason in _faults(bundle))
        server = SpiffeId.parse(bundle.spiffe_id).trust_domain.name if bundle.spiffe_id else name
        if bundle.endpoint and server == name and bundle.spiffe_id and not bundle.bundle:
            yield (name,), "name the bundle that vouches for the endpoint the first time"
        if server not in {name, *own, *bundles}:
            yield (name, "spiffeId"), f"there is no bundle of {server}: list it under trustBundles"


def _faults(bundle: TrustBundle) -> Iterator[str]:
    of_endpoint = bundle.profile or bundle.spiffe_id or bundle.ca_file
    if bundle.workload_api and (bundle.bundle or bundle.endpoint or of_endpoint):
        yield "workloadApi stands alone"
    elif not (bundle.workload_api or bundle.bundle or bundle.endpoint):
        yield "say where the bundle comes from: a file, an endpoint or workloadApi"
    elif of_endpoint and not bundle.endpoint:
        yield "profile, spiffeId and caFile are for an endpoint"
    if bundle.endpoint and not bundle.profile:
        yield "profile is https_web or https_spiffe: it is not guessed"
    if bundle.endpoint and bundle.profile and (bundle.profile == "https_spiffe") != bool(bundle.spiffe_id):
        yield "spiffeId belongs to the profile https_spiffe, and it needs one"
    if bundle.profile == "https_spiffe" and bundle.ca_file:
        yield "caFile is for the profile https_web"
