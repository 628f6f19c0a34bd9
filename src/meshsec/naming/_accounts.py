"""Accounts → SPIFFE IDs, and their twins in the aliases of the mesh's trust domain. Must not know: services."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from ..errors import Problem, SpiffeIdError
from ..resources import MeshConfig
from ..spiffe import SpiffeId, TrustDomain
from ._entry import Ids, merged

__all__ = ["Accounts", "Located", "title"]


class Located(Protocol):
    """A resource, as far as a message names it."""

    @property
    def kind(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def location(self) -> str: ...


def title(resource: Located) -> str:
    """``Kind namespace/name (file:line)``."""
    return f"{resource.kind} {resource.id} ({resource.location})"


class Accounts:
    """Makes IDs of what resources say, and collects what is wrong with them."""

    def __init__(self, config: MeshConfig) -> None:
        self._config = config
        self.problems: list[Problem] = []

    def account(self, namespace: str, name: str, resource: Located) -> Ids:
        """A service account of the mesh's own trust domain."""
        return self._made(f"spiffe://{self._config.trust_domain}/ns/{namespace}/sa/{name}", resource)

    def identity(self, text: str, resource: Located) -> Ids:
        """A SPIFFE ID as it is written; another name names nobody here."""
        return self._made(text, resource) if text.startswith("spiffe:") else {}

    def exactly(self, texts: Iterable[str], resource: Located) -> Ids:
        """SPIFFE IDs without twins: what a DestinationRule lists is all there is."""
        return merged(*(self._made(text, resource, twins=False) for text in texts))

    def expanded(self, ids: Mapping[SpiffeId, tuple[str, ...]]) -> Ids:
        """Each ID, and, where it is a service account's, its twins in the aliases of the mesh's trust domain.

        Istio makes these twins of foreign IDs too, so that our own old name could answer for a partner's service;
        here only the mesh's own are, unless Istio's reading is asked for.
        """
        config, found = self._config, dict(ids)
        for spiffe_id, origins in ids.items():
            own = spiffe_id.trust_domain.name in (config.trust_domain, *config.trust_domain_aliases)
            if spiffe_id.service_account is not None and (own or config.compatibility == "istio"):
                for alias in config.trust_domain_aliases:
                    found.setdefault(SpiffeId(TrustDomain(alias), spiffe_id.path), origins)
        return found

    def complain(self, text: str, resource: Located, field: str | None = None) -> None:
        """Say once what is wrong with a resource."""
        named = f"{resource.kind} {resource.id}"
        problem = Problem(text, resource.location, resource=named, field=field)
        if problem not in self.problems:
            self.problems.append(problem)

    def _made(self, text: str, resource: Located, *, twins: bool = True) -> Ids:
        try:
            ids = {SpiffeId.parse(text): (title(resource),)}
        except SpiffeIdError as error:
            self.complain(f"{text[:80]!a}: {error}", resource)
            return {}
        return self.expanded(ids) if twins else ids
