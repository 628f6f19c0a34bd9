"""Where the identities of service accounts are kept: a folder that workloads mount, or memory.

A Kubernetes Secret has the same three files under the same name, ``istio.<service account>``. This file must not know
when an identity is renewed, nor by whom it was issued.
"""

from __future__ import annotations

import os
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from ..errors import IssuanceError
from ..spiffe import SpiffeId, X509Bundle, X509Svid
from ._store import current_folder, write_identity

__all__ = ["FolderStore", "MemoryStore", "StoredIdentity", "SvidStore"]

_FILES: Final = ("cert-chain.pem", "key.pem", "root-cert.pem")


@dataclass(frozen=True, slots=True)
class StoredIdentity:
    """What a workload is given.

    Attributes:
        svid: its own certificate and key.
        bundle: whom it trusts.
        crl: PEM lists of what is revoked; empty where nothing is.
    """

    svid: X509Svid
    bundle: X509Bundle
    crl: bytes = b""


class SvidStore(Protocol):
    """Keeps one identity for each SPIFFE ID. Each method may raise OSError."""

    def stamp(self, spiffe_id: SpiffeId) -> Hashable:
        """Something cheap that changes whenever what is stored does; None where nothing whole is stored."""
        ...

    def read(self, spiffe_id: SpiffeId) -> StoredIdentity:
        """What is stored. Raises MeshsecError where it is damaged."""
        ...

    def write(self, spiffe_id: SpiffeId, identity: StoredIdentity) -> None:
        """Replace all of it in one step; where that fails, what was there is still there."""
        ...


class MemoryStore:
    """For tests, and for programs that hand identities out themselves."""

    def __init__(self) -> None:
        self._stored: dict[SpiffeId, StoredIdentity] = {}

    def stamp(self, spiffe_id: SpiffeId) -> Hashable:
        """The object that is stored."""
        stored = self._stored.get(spiffe_id)
        return id(stored) if stored else None

    def read(self, spiffe_id: SpiffeId) -> StoredIdentity:
        """What is stored. Raises FileNotFoundError where nothing is, as a folder would."""
        stored = self._stored.get(spiffe_id)
        if stored is None:
            raise FileNotFoundError(f"nothing is stored for {spiffe_id}")
        return stored

    def write(self, spiffe_id: SpiffeId, identity: StoredIdentity) -> None:
        """Replace what is stored."""
        self._stored[spiffe_id] = identity

    def delete(self, spiffe_id: SpiffeId) -> None:
        """Forget what is stored."""
        self._stored.pop(spiffe_id, None)


class FolderStore:
    """``<folder>/<namespace>/istio.<service account>/`` with Istio's files, swapped as the kubelet does it."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, spiffe_id: SpiffeId) -> Path:
        """Where an account's files are; what a workload mounts as /etc/certs.

        Raises:
            IssuanceError: ``not_a_service_account``: the ID does not have Istio's form.
        """
        namespace, account = spiffe_id.namespace, spiffe_id.service_account
        if namespace is None or account is None:
            raise IssuanceError(f"{spiffe_id} names no service account", code="not_a_service_account")
        return self.folder / namespace / f"istio.{account}"

    def stamp(self, spiffe_id: SpiffeId) -> Hashable:
        """Of each file its number, size and times; None where one is missing."""
        folder = self.path(spiffe_id)
        try:  # plain text is three times as fast as paths, and this is asked for every account every few seconds
            found = [os.stat(f"{folder}/{name}") for name in _FILES]  # noqa: PTH116
        except FileNotFoundError:
            return None
        return tuple((item.st_ino, item.st_size, item.st_mtime_ns, item.st_ctime_ns) for item in found)

    def read(self, spiffe_id: SpiffeId) -> StoredIdentity:
        """The files, of one generation. Raises FileNotFoundError where a name that is mounted is gone."""
        if self.stamp(spiffe_id) is None:
            raise FileNotFoundError(f"{self.path(spiffe_id)} does not hold all of {', '.join(_FILES)}")
        folder = current_folder(self.path(spiffe_id))
        chain, key, roots = ((folder / name).read_bytes() for name in _FILES)
        bundle = X509Bundle.from_pem(spiffe_id.trust_domain, roots, str(folder))
        lists = folder / "ca-crl.pem"
        return StoredIdentity(X509Svid.from_pem(chain, key), bundle, lists.read_bytes() if lists.exists() else b"")

    def write(self, spiffe_id: SpiffeId, identity: StoredIdentity) -> None:
        """Swap in the files; the key's mode is 0600."""
        write_identity(self.path(spiffe_id), identity.svid, identity.bundle, crl=identity.crl)
