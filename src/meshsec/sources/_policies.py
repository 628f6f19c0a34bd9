"""The policies of one workload while they change: read aside, compiled aside, swapped by one reference.

A version that cannot be used never replaces one that can: it is logged once and shown in the status. Must not know
requests, servers, or how a policy decides.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, Final, Self

from ..errors import ConfigError, MeshsecError, Problem
from ..naming import SecureNaming
from ..policy import WorkloadPolicy
from ..resources import Foreign, MeshConfig, MeshText, Resource, Workload, read_mesh
from ._keys import KeyStore

__all__ = ["PolicyKeeper", "PolicyVersion", "read_settled"]

_log: Final = logging.getLogger("meshsec.policy")

_TRIES: Final = 10

# What is wired into TLS contexts and background work when a mesh is made; as fields, and as mesh.yaml calls them.
_FIXED_CONFIG: Final = {
    "trust_domain": "meshConfig.trustDomain",
    "trust_domain_aliases": "meshConfig.trustDomainAliases",
    "trust_bundles": "trustBundles",
    "keys": "keys",
    "issuers": "issuers",
    "compatibility": "compatibility",
}
_FIXED_WORKLOAD: Final = {"namespace": "namespace", "service_account": "serviceAccount", "identity": "identity"}


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """Everything about one workload that may change while it runs, of one moment.

    Attributes:
        workload: who is protected.
        config: the mesh-wide settings.
        policy: what is decided.
        naming: who may answer for a host.
        foreign: resources of other API groups, as ``Kind namespace/name``.
        number: counted from 1.
        providers: names of the external authorizers that the program brings along, besides those in ``config``.
    """

    workload: Workload
    config: MeshConfig
    policy: WorkloadPolicy
    naming: SecureNaming
    foreign: tuple[str, ...]
    number: int = 1
    providers: frozenset[str] = frozenset()

    @classmethod
    def compile(
        cls,
        resources: Sequence[Resource],
        workload: Workload,
        config: MeshConfig,
        *,
        number: int = 1,
        providers: Iterable[str] = (),
    ) -> Self:
        """Compile it all. Raises ConfigError."""
        names = frozenset(providers)
        if not names <= config.extension_providers.keys():
            known = {**dict.fromkeys(names), **config.extension_providers}
            config = replace(config, extension_providers=known)
        return cls(
            workload,
            config,
            WorkloadPolicy.compile(resources, workload, config),
            SecureNaming(config.services, config, resources=resources, workload=workload),
            tuple(f"{item.kind} {item.id}" for item in resources if isinstance(item, Foreign)),
            number,
            names,
        )


def read_settled(path: str | PathLike[str]) -> MeshText:
    """Read a mesh's folder until two readings agree, so that nothing half-written or half-swapped is used.

    Raises:
        ConfigError: it cannot be read, or somebody writes all the time.
    """
    last = read_mesh(path)
    for _ in range(_TRIES):
        text = read_mesh(path, last=last)
        if text == last:
            return text
        last = text
    raise ConfigError(f"{path} changes whenever it is read", code="unsettled")


class PolicyKeeper:
    """Holds the version in force, and replaces it by a newer one that is good.

    Args:
        first: the version to begin with.
        keys: the key sets, which every version's policy must find.

    :meth:`watch` says where newer versions come from; without it the first one stays.
    """

    def __init__(self, first: PolicyVersion, keys: KeyStore) -> None:
        self.current = first
        self._keys = keys
        self._path: str | PathLike[str] | None = None
        self._good: MeshText | None = None
        self._seen: MeshText | str | None = None
        self._judged: MeshText | str | None = None
        self._failure: str | None = None

    def watch(self, path: str | PathLike[str], text: MeshText) -> None:
        """From now on :meth:`refresh` looks into this folder, of which ``text`` is the version in force."""
        self._path, self._good, self._seen, self._judged = path, text, text, text

    def refresh(self) -> None:
        """Look once; for one thread to call, about every second. Never raises.

        What has changed is used when it is found the same a second time: until then somebody may still be writing.
        """
        if self._path is None:
            return
        seen, self._seen = self._seen, self._look(self._path)
        if self._seen == seen and seen != self._judged:
            self._judged = seen
            self._judge(self._seen)
        else:
            # Requests that began under the version before this one have had a second to find its keys.
            self._keys.replace(self.current.policy.sources)

    def status(self) -> dict[str, Any]:
        """Which version is in force, where newer ones come from, and why the newest there is not used."""
        return {
            "version": self.current.number,
            "folder": None if self._path is None else str(self._path),
            "failure": self._failure,
        }

    def _look(self, path: str | PathLike[str]) -> MeshText | str:
        try:
            return read_mesh(path, last=self._seen if isinstance(self._seen, MeshText) else self._good)
        except Exception as error:  # noqa: BLE001 - whatever it is, the last good version goes on
            return _told(error)

    def _judge(self, look: MeshText | str) -> None:
        if isinstance(look, str):
            self._refuse(look)
        elif look == self._good:
            self._accept(look, self.current)
        else:
            try:
                version = self._compiled(look)
            except Exception as error:  # noqa: BLE001 - as above
                self._refuse(_told(error))
            else:
                self._accept(look, version)

    def _compiled(self, text: MeshText) -> PolicyVersion:
        old, config = self.current, text.mesh.config
        workload = text.mesh.workload(old.workload.name)
        problems = [*_fixed(old, workload, config), *(_emptied(self._good, text) if self._good else ())]
        if problems:
            raise ConfigError(problems)
        resources, number = text.resources(), old.number + 1
        return PolicyVersion.compile(resources, workload, config, number=number, providers=old.providers)

    def _accept(self, text: MeshText, version: PolicyVersion) -> None:
        old, self._good, self._failure = self.current, text, None
        if version is old:
            _log.info("policy version %d: the folder holds it again", old.number)
            return
        # First the keys, then the policy that needs them; the old ones stay for requests that are under way.
        self._keys.replace((*old.policy.sources, *version.policy.sources))
        self.current = version
        _log.info("policy version %d:%s", version.number, _changes(old.policy.applied, version.policy.applied))

    def _refuse(self, failure: str) -> None:
        self._failure = failure
        number = self.current.number
        _log.warning("policy version %d stays in force; what is there now is refused: %s", number, failure)


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, MeshsecError) else f"{type(error).__name__}: {error}"


def _fixed(old: PolicyVersion, workload: Workload, config: MeshConfig) -> Iterator[Problem]:
    """What would have to change in TLS contexts that are already in use."""
    changed = [name for field, name in _FIXED_CONFIG.items() if getattr(config, field) != getattr(old.config, field)]
    changed += (
        f"workloads.{workload.name}.{name}"
        for field, name in _FIXED_WORKLOAD.items()
        if getattr(workload, field) != getattr(old.workload, field)
    )
    return (Problem("cannot change while the program runs: restart it", "mesh.yaml", field=name) for name in changed)


def _emptied(before: MeshText, after: MeshText) -> Iterator[Problem]:
    """Where policies would go that nobody removed: a mount that was lost, a file that was only truncated."""
    for path, files in before.policies.items():
        if files and after.policies.get(path) == ():
            yield Problem("holds no policy file any more: to run without any, restart the program", str(path))
    written = {file.source for files in before.policies.values() for file in files if file.text.strip()}
    for file in (file for files in after.policies.values() for file in files):
        if file.source in written and not file.problems and not file.text.strip():
            yield Problem("is empty: remove the file, if its policies are to go", file.source)


def _changes(before: Iterable[str], after: Iterable[str]) -> str:
    gone, new = set(before) - set(after), set(after) - set(before)
    return " ".join(["", *(f"-{name}" for name in sorted(gone)), *(f"+{name}" for name in sorted(new))]) or " edited"
