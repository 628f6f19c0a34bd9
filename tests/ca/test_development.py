"""``developmentAuthority``: a mesh that issues to itself, from whatever folder holds an authority."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import pytest

from meshsec import Mesh
from meshsec.ca import AuthorityFolder, CertificateAuthority
from meshsec.errors import ConfigError
from pki import TestCA, key_pem

MESH = """\
workloads: {web: {namespace: prod, serviceAccount: web, identity: {developmentAuthority: ca}}}
meshConfig: {trustDomain: td.example}
allowNoPolicy: true
"""
WEB = "spiffe://td.example/ns/prod/sa/web"


def load(folder: Path) -> Mesh:
    """The mesh of a folder with an authority in ``ca``."""
    (folder / "mesh.yaml").write_text(MESH)
    return Mesh.load(folder)


def shown(mesh: Mesh) -> tuple[str, str]:
    """The ID and the serial number that its contexts present."""
    assert isinstance(mesh.server_context(), ssl.SSLContext)
    status = mesh.status()["identity"]
    return status["id"], status["serial"]


def test_an_authority_that_keeps_a_record_keeps_it(tmp_path: Path) -> None:
    """What the mesh issues to itself is recorded, and a new signer is followed at the next look."""
    folder = AuthorityFolder.create(tmp_path / "ca", CertificateAuthority.create("td.example"))
    with load(tmp_path) as mesh:
        [first] = folder.issued()
        assert (first.id, first.serial, first.requester) == (*shown(mesh), "developmentAuthority")
        folder.publish_root()
        folder.activate_root(settle=0)
        assert mesh._identity is not None
        mesh._identity.refresh(time.time())
        _, *others = folder.issued()
        assert shown(mesh) == (WEB, others[-1].serial)
    assert {item.issuer for item in others} == {folder.authority.state.signer.key_id}


def test_a_plugged_in_authority_names_no_trust_domain(tmp_path: Path) -> None:
    """The mesh does: other tools' certificates rarely say for which domain they are."""
    root = TestCA("td.example")
    middle = root.intermediate()
    (tmp_path / "ca").mkdir()
    for name, content in {"tls.crt": middle.pem, "tls.key": key_pem(middle.key), "ca.crt": root.pem}.items():
        (tmp_path / "ca" / name).write_bytes(content)
    with load(tmp_path) as mesh:
        assert shown(mesh)[0] == WEB


def test_an_authority_of_another_trust_domain_is_refused(tmp_path: Path) -> None:
    """At the start, with both names."""
    CertificateAuthority.create("other.example").save(tmp_path / "ca")
    with pytest.raises(ConfigError, match=r"is for other\.example, not for td\.example"):
        load(tmp_path)


def test_a_folder_without_an_authority_is_refused(tmp_path: Path) -> None:
    """At the start, with the file that is missing and the command that makes one."""
    with pytest.raises(ConfigError, match=r"/ca/ca-cert\.pem: cannot be read: .*meshsec ca init --dir") as caught:
        load(tmp_path)
    assert caught.value.code == "authority_unusable"
