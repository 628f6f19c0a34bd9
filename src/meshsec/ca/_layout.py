"""The files of an authority: Istio's names and cert-manager's, and a rotation's second signer beside them.

Belongs here: which file holds what, and reading them as one set. Must not know: how files are swapped (``_store``),
what is done with an authority.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ..errors import ConfigError, MeshsecError, Problem
from ..jose import read_json_object
from ..spiffe import TrustDomain, X509Bundle
from ._jwt import JwtKey
from ._keys import key_pem, read_key
from ._signer import Signer, trust_domain_of
from ._state import AuthorityState, Phase
from ._store import PRIVATE, PUBLIC, current_folder

__all__ = ["files_of", "read_authority", "read_signer"]

_UNNAMED: Final = TrustDomain("unnamed.invalid")
STATE_FILE: Final = "authority.state"  # JSON, but none of the resources that lie in a mesh's folder


@dataclass(frozen=True, slots=True)
class _Names:
    """What the files of one signer are called."""

    certificate: str
    key: str
    roots: str
    chain: str | None = None
    jwt_key: str | None = None


_ISTIO: Final = _Names("ca-cert.pem", "ca-key.pem", "root-cert.pem", "cert-chain.pem", "jwt-key.pem")
_CERT_MANAGER: Final = _Names("tls.crt", "tls.key", "ca.crt")
_STANDBY: Final = _Names(
    "standby-ca-cert.pem", "standby-ca-key.pem", "root-cert.pem", "standby-cert-chain.pem", "standby-jwt-key.pem"
)


def read_authority(folder: Path, trust_domain: TrustDomain | None = None) -> AuthorityState:
    """Read an authority, ours or one that was plugged in.

    Args:
        trust_domain: needed where neither ``authority.state`` nor the certificates name it.

    Raises:
        OSError: a file cannot be read.
        ConfigError: ``authority_unusable``, ``bundle_invalid``: a file is malformed, or they do not belong together.
    """
    current = current_folder(folder)
    signer, roots = _read_signer(current, _names_in(current))
    state = _read_state(current / STATE_FILE)
    domain = _agreed(current, trust_domain, state.trust_domain, signer)
    standby = _read_signer(current, _STANDBY)[0] if state.phase is not Phase.STEADY else None
    bundle = X509Bundle(domain, roots)
    return AuthorityState(domain, signer, bundle, standby, state.phase, state.since, state.sequence)


def read_signer(folder: Path) -> Signer:
    """Read the signer of a folder, to be taken up by another authority. Raises as :func:`read_authority`."""
    current = current_folder(folder)
    return _read_signer(current, _names_in(current))[0]


def files_of(state: AuthorityState) -> dict[str, tuple[bytes, int]]:
    """The files that hold a state, by name: content and mode. Keys are **unencrypted**."""
    head = {
        "trustDomain": state.trust_domain.name,
        "phase": state.phase.value,
        "since": state.since,
        "sequence": state.sequence,
    }
    files = {
        **_signer_files(state.signer, _ISTIO),
        _ISTIO.roots: (state.bundle.to_pem(), PUBLIC),
        STATE_FILE: (json.dumps(head, indent=1).encode() + b"\n", PUBLIC),
    }
    return files | _signer_files(state.standby, _STANDBY) if state.standby else files


def _signer_files(signer: Signer, names: _Names) -> dict[str, tuple[bytes, int]]:
    files = {
        names.certificate: (signer.certificate.public_bytes(Encoding.PEM), PUBLIC),
        names.key: (key_pem(signer.key), PRIVATE),
    }
    if names.chain and signer.chain:
        files[names.chain] = (b"".join(item.public_bytes(Encoding.PEM) for item in signer.chain), PUBLIC)
    if names.jwt_key and signer.jwt_key:
        files[names.jwt_key] = (signer.jwt_key.pem, PRIVATE)
    return files


def _names_in(folder: Path) -> _Names:
    return _CERT_MANAGER if (folder / _CERT_MANAGER.certificate).exists() else _ISTIO


def _read_signer(folder: Path, names: _Names) -> tuple[Signer, tuple[x509.Certificate, ...]]:
    certificates = _certificates(folder / names.certificate)
    if names.chain and (folder / names.chain).exists():
        certificates += _certificates(folder / names.chain)
    roots = _certificates(folder / names.roots)
    try:
        key = read_key((folder / names.key).read_bytes())
        jwt_key = _read_jwt_key(folder / names.jwt_key) if names.jwt_key else None
    except ValueError as error:
        raise _unusable(folder / names.key, str(error)) from None
    try:
        return Signer.plugged_in(certificates, roots, key, jwt_key), roots
    except ValueError as error:
        raise _unusable(folder / names.certificate, str(error)) from error


def _certificates(path: Path) -> tuple[x509.Certificate, ...]:
    # A bundle reads CA certificates, all or nothing; for whom they speak is not known yet.
    return X509Bundle.from_pem(_UNNAMED, path.read_bytes(), str(path)).x509_authorities


def _read_jwt_key(path: Path) -> JwtKey | None:
    return JwtKey.from_pem(path.read_bytes()) if path.exists() else None


@dataclass(frozen=True, slots=True)
class _Head:
    """What authority.state holds; a folder without it was plugged in or saved by hand."""

    trust_domain: TrustDomain | None = None
    phase: Phase = Phase.STEADY
    since: float = 0.0
    sequence: int = 1


def _read_state(path: Path) -> _Head:
    if not path.exists():
        return _Head()
    try:
        head: Mapping[str, Any] = read_json_object(path.read_bytes())
        domain, phase = TrustDomain(str(head["trustDomain"])), Phase(head["phase"])
        return _Head(domain, phase, float(head["since"]), int(head["sequence"]))
    except (ValueError, KeyError, TypeError, MeshsecError) as error:
        raise _unusable(path, f"not the state of an authority: {error}") from error


def _agreed(folder: Path, wanted: TrustDomain | None, written: TrustDomain | None, signer: Signer) -> TrustDomain:
    """The trust domain that was named, which must be the one written down; else what the certificates say."""
    if wanted and written and wanted != written:
        raise _unusable(folder / STATE_FILE, f"the authority is for {written}, not for {wanted}")
    try:
        return wanted or written or trust_domain_of((signer.certificate, *signer.chain, signer.root))
    except ValueError as error:
        raise _unusable(folder, str(error)) from error


def _unusable(path: Path, reason: str) -> ConfigError:
    return ConfigError(Problem(reason, source=str(path)), code="authority_unusable")
