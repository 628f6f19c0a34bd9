"""py-spiffe and PyJWT read what the authority issues: SVIDs with their keys, bundles, JWT-SVIDs and their keys."""

from __future__ import annotations

import json
from pathlib import Path

import jwt
import pytest
from spiffe.errors import PySpiffeError

from meshsec.ca import CertificateAuthority, KeyType
from pki import TestCA, key_pem
from spiffe import JwtBundle, JwtSvid, TrustDomain, X509Bundle, X509Svid

TD = "td.example"
ID = f"spiffe://{TD}/ns/prod/sa/web"
DOMAIN = TrustDomain(TD)


def intermediate(folder: Path) -> CertificateAuthority:
    """A plugged-in CA below somebody's root."""
    root = TestCA(TD)
    middle = root.intermediate()
    for name, content in {"ca-cert": middle.pem, "ca-key": key_pem(middle.key), "root-cert": root.pem}.items():
        (folder / f"{name}.pem").write_bytes(content)
    return CertificateAuthority.load(folder, trust_domain=TD)


@pytest.mark.parametrize("key_type", ["ec-p256", "ec-p384", "rsa-2048"])
def test_py_spiffe_reads_an_svid(key_type: KeyType) -> None:
    """The same ID and chain; the authority's own certificate is none."""
    authority = CertificateAuthority.create(TD, key_type=key_type)
    ours = authority.issue_x509_svid(ID)
    theirs = X509Svid.parse(ours.chain_pem(), ours.key_pem())
    assert (str(theirs.spiffe_id), theirs.leaf) == (ID, ours.leaf)
    with pytest.raises(PySpiffeError):
        X509Svid.parse(authority.bundle.to_pem(), key_pem(authority.state.signer.key))


def test_py_spiffe_reads_a_chain_and_a_bundle(tmp_path: Path) -> None:
    """An intermediate comes with the leaf; a rotation's bundle has both roots."""
    authority = intermediate(tmp_path)
    svid = authority.issue_x509_svid(ID)
    assert tuple(X509Svid.parse(svid.chain_pem(), svid.key_pem()).cert_chain) == svid.certificates
    rotated = CertificateAuthority.create(TD).rotate_root()
    bundle = X509Bundle.parse(DOMAIN, rotated.bundle.to_pem())
    assert set(bundle.x509_authorities) == set(rotated.bundle.x509_authorities)


def test_py_spiffe_validates_a_jwt_svid() -> None:
    """By the published keys, before and after a rotation, and by no other authority's; for its audience only."""
    authority = CertificateAuthority.create(TD)
    token = authority.issue_jwt_svid(ID, ["shop"])
    new = CertificateAuthority.create(TD).state.signer
    for keys in (authority.jwks(), authority.with_state(authority.state.publish_root(new, 0)).jwks()):
        found = JwtSvid.parse_and_validate(token, JwtBundle.parse(DOMAIN, json.dumps(keys).encode()), {"shop"})
        assert (str(found.spiffe_id), found.audience) == (ID, {"shop"})
    other = JwtBundle.parse(DOMAIN, json.dumps(CertificateAuthority.create(TD).jwks()).encode())
    own = JwtBundle.parse(DOMAIN, json.dumps(authority.jwks()).encode())
    for bundle, audience in ((other, "shop"), (own, "bank")):
        with pytest.raises(PySpiffeError):
            JwtSvid.parse_and_validate(token, bundle, {audience})


def test_pyjwt_validates_a_jwt_svid() -> None:
    """As any OpenID client would: key by kid, audience, times."""
    authority = CertificateAuthority.create(TD)
    token = authority.issue_jwt_svid(ID, ["shop"])
    key = jwt.PyJWKSet.from_dict(authority.jwks())[jwt.get_unverified_header(token)["kid"]].key
    options = {"require": ["sub", "aud", "exp", "iat"]}
    assert jwt.decode(token, key, algorithms=["ES256"], audience="shop", options=options)["sub"] == ID
    with pytest.raises(jwt.InvalidAudienceError):
        jwt.decode(token, key, algorithms=["ES256"], audience="bank", options=options)
