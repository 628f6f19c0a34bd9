"""What mesh.yaml and the environment say about a workload's identity, as a source of it. Must not know: requests."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Final

from ..ca import AuthorityFolder, CertificateAuthority
from ..errors import ConfigError, MeshsecError, SvidError
from ..resources import IdentityConfig, MeshConfig, Workload
from ..spiffe import X509Bundle
from ._csr import CsrIdentity, CsrServer
from ._identity import AuthorityIdentity, FileIdentity, IdentityKeeper, IdentitySource

__all__ = ["configured_identity", "kept_identity"]

_log: Final = logging.getLogger("meshsec")


def configured_identity(workload: Workload, config: MeshConfig, folder: Path) -> IdentitySource | None:
    """``$MESHSEC_IDENTITY_FILES`` first: where certificates are mounted is the machine's affair, not the mesh's."""
    files = os.environ.get("MESHSEC_IDENTITY_FILES") or (workload.identity and workload.identity.files)
    if files:
        return FileIdentity(folder / files, config.trust_domain)
    authority = workload.identity and workload.identity.development_authority
    if authority:
        _log.warning("developmentAuthority puts a signing key into this process: for tests and laptops only")
        return AuthorityIdentity(_authority(folder / authority, config), workload.spiffe_id(config.trust_domain))
    if workload.identity and workload.identity.csr:
        return CsrIdentity(_csr_server(workload.identity, folder), workload.spiffe_id(config.trust_domain))
    return None


def _authority(folder: Path, config: MeshConfig) -> CertificateAuthority | AuthorityFolder:
    """One that keeps a record goes on keeping it; any other may also be one that was plugged in."""
    authority = CertificateAuthority.load(folder, trust_domain=config.trust_domain)
    kept = all((folder / name).exists() for name in ("authority.state", "ca-crl.pem"))
    return AuthorityFolder(folder) if kept else authority


def _csr_server(identity: IdentityConfig, folder: Path) -> CsrServer:
    return CsrServer(
        url=(identity.csr or "").rstrip("/"),
        token_file=folder / (identity.token_file or ""),
        root_cert=folder / identity.root_cert if identity.root_cert else None,
        renewal=identity.renewal.rstrip("/") if identity.renewal else None,
    )


def kept_identity(source: IdentitySource, workload: Workload, config: MeshConfig) -> IdentityKeeper:
    """A keeper with what the source holds now, if it holds anything yet.

    Raises:
        ConfigError: ``wrong_identity``: it is somebody else's, which waiting does not mend.
    """
    keeper = IdentityKeeper(
        source,
        expected=workload.spiffe_id(config.trust_domain),
        aliases=config.trust_domain_aliases,
        foreign=_foreign_bundles(config),
    )
    try:
        keeper.load(time.time())
    except SvidError as error:
        if error.code == "wrong_identity":
            raise ConfigError(str(error), code=error.code) from error
        keeper.refresh(time.time())
    except (MeshsecError, OSError):
        # Not there yet, as at the start of a pod: handshakes fail until it is. Logged by the keeper.
        keeper.refresh(time.time())
    return keeper


def _foreign_bundles(config: MeshConfig) -> list[X509Bundle]:
    return [
        X509Bundle.from_pem(name, Path(path).read_bytes(), source=path) for name, path in config.trust_bundles.items()
    ]
