"""What mesh.yaml and the environment say about a workload's identity, as a source of it. Must not know: requests."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Final

from ..ca import AuthorityFolder, CertificateAuthority
from ..errors import ConfigError, MeshsecError, Problem
from ..resources import IdentityConfig, MeshConfig, Workload, workload_api_address
from ._csr import CsrIdentity, CsrServer
from ._federation import Federation
from ._identity import AuthorityIdentity, FileIdentity, IdentityKeeper, IdentitySource
from ._workload_api import WorkloadApiIdentity

__all__ = ["configured_identity", "kept_identity"]

_log: Final = logging.getLogger("meshsec")

_FROM_ENVIRONMENT: Final = "environment"
_DEFAULT: Final = "default"
_HOPELESS: Final = frozenset({"wrong_identity", "extra_missing"})


def configured_identity(workload: Workload, config: MeshConfig, folder: Path) -> IdentitySource | None:
    """The environment first: where certificates are mounted, or an agent listens, is the machine's affair.

    Raises:
        ConfigError: it names two places, or none where it should.
    """
    given = _from_environment() or workload.identity
    if given and given.files == _DEFAULT:
        return FileIdentity.mounted(config.trust_domain)
    if given and given.files:
        return FileIdentity(folder / given.files, config.trust_domain)
    if given and given.workload_api:
        return WorkloadApiIdentity(_address(given.workload_api), workload.spiffe_id(config.trust_domain))
    authority = workload.identity and workload.identity.development_authority
    if authority:
        _log.warning("developmentAuthority puts a signing key into this process: for tests and laptops only")
        return AuthorityIdentity(_authority(folder / authority, config), workload.spiffe_id(config.trust_domain))
    if workload.identity and workload.identity.csr:
        return CsrIdentity(_csr_server(workload.identity, folder), workload.spiffe_id(config.trust_domain))
    return None


def _authority(folder: Path, config: MeshConfig) -> CertificateAuthority | AuthorityFolder:
    """One that keeps a record goes on keeping it; any other may also be one that was plugged in."""
    try:
        authority = CertificateAuthority.load(folder, trust_domain=config.trust_domain)
        kept = all((folder / name).exists() for name in ("authority.state", "ca-crl.pem"))
        return AuthorityFolder(folder) if kept else authority
    except OSError as error:
        make = f"meshsec ca init --dir {folder} --trust-domain {config.trust_domain}"
        message = f"cannot be read: {error.strerror}; an authority is made by: {make}"
        raise ConfigError(Problem(message, str(error.filename or folder)), code="authority_unusable") from error


def _from_environment() -> IdentityConfig | None:
    files, agent = os.environ.get("MESHSEC_IDENTITY_FILES"), os.environ.get("MESHSEC_IDENTITY_WORKLOAD_API")
    if files and agent:
        both = "MESHSEC_IDENTITY_FILES and MESHSEC_IDENTITY_WORKLOAD_API"
        raise ConfigError(f"{both} are set, and an identity has one source", code="identity_ambiguous")
    if files and files != _DEFAULT:
        files = str(Path(files).absolute())  # whoever sets it does not think of where mesh.yaml is
    return IdentityConfig(files=files, workload_api=agent) if files or agent else None


def _address(given: str) -> str:
    """``environment`` stands for the variable that SPIFFE has for it (Workload Endpoint, section 4)."""
    name = "SPIFFE_ENDPOINT_SOCKET"
    found = os.environ.get(name, "") if given == _FROM_ENVIRONMENT else given
    try:
        workload_api_address(found)
    except ValueError as error:
        place = f"${name}: " if given == _FROM_ENVIRONMENT else ""
        raise ConfigError(f"{place}{error}", code="workload_api_address") from None
    return found


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
        ConfigError: what waiting does not mend: ``wrong_identity``, it is somebody else's; ``extra_missing``.
    """
    keeper = IdentityKeeper(
        source,
        expected=workload.spiffe_id(config.trust_domain),
        aliases=config.trust_domain_aliases,
        foreign=Federation(config.trust_bundles),
    )
    try:
        keeper.load(time.time())
    except (MeshsecError, OSError) as error:
        if isinstance(error, MeshsecError) and error.code in _HOPELESS:
            keeper.close()
            raise ConfigError(str(error), code=error.code) from error
        # Not there yet, as at the start of a pod: handshakes fail until it is. Logged by the keeper.
        keeper.refresh(time.time())
    return keeper
