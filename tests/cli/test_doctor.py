"""``meshsec doctor`` against a server that is in order, and against those that are not."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner, Result

from meshsec.ca import CertificateAuthority, write_identity
from meshsec.cli import main
from meshsec.spiffe import X509BundleSet
from meshsec.tls import StaticMaterial, server_context
from pki import TestCA
from wire import careless
from world import serve

AUTHORITY: Final = CertificateAuthority.create("td.example")


@pytest.fixture
def friend(tmp_path: Path) -> Path:
    """A folder with an identity that the server accepts."""
    svid = AUTHORITY.issue_x509_svid("spiffe://td.example/ns/prod/sa/web")
    write_identity(tmp_path / "friend", svid, AUTHORITY.bundle)
    return tmp_path / "friend"


def material() -> StaticMaterial:
    """What the server presents and trusts."""
    svid = AUTHORITY.issue_x509_svid("spiffe://td.example/ns/prod/sa/reviews")
    return StaticMaterial(svid, X509BundleSet([AUTHORITY.bundle]))


def knock(context: ssl.SSLContext, *options: str) -> Result:
    """Serve, and run the doctor."""
    with serve(context) as server:
        return CliRunner().invoke(main, ["doctor", f"https://127.0.0.1:{server.server_port}/", *options])


def opened(result: Result) -> list[str]:
    """What it found open."""
    return [line[6:].split("  ")[0] for line in result.output.splitlines() if line.startswith("OPEN")]


def test_a_server_in_order_is_shut_to_all_strangers(friend: Path) -> None:
    """And a friend gets in, but not with TLS 1.2."""
    result = knock(server_context(material()), "--identity", str(friend), "--trust-domain", "td.example")
    assert (result.exit_code, opened(result)) == (0, []), result.output
    assert len(result.output.splitlines()) == 9
    assert "a friend                                200" in result.output


def test_a_permissive_port_is_open_to_plaintext() -> None:
    """That is what the word means; nothing else is."""
    result = knock(server_context(material(), plaintext=lambda: True))
    assert (result.exit_code, opened(result)) == (3, ["plaintext"]), result.output


def test_tls_1_2_is_told(friend: Path) -> None:
    """Somebody switched it on."""
    result = knock(server_context(material(), minimum="1.2"), "--identity", str(friend))
    assert (result.exit_code, opened(result)) == (3, ["a friend, TLS 1.2"]), result.output


def test_a_careless_server_is_open_to_everyone(friend: Path) -> None:
    """It asks nobody for a certificate and resumes whatever it began."""
    result = knock(careless("server", TestCA("td.example").leaf()), "--identity", str(friend))
    assert result.exit_code == 3
    expected = {"no certificate", "no certificate, TLS 1.2", "a certificate of a foreign authority"}
    assert {*expected, "an expired certificate", "a friend's resumed session"} <= set(opened(result)), result.output


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "127.0.0.1:1", "https://", "https://127.0.0.1:1/"])
def test_where_there_is_nothing_to_knock_at(url: str) -> None:
    """A sentence, and status 1."""
    result = CliRunner().invoke(main, ["doctor", url])
    assert result.exit_code == 1
    assert "https://host:port" in result.output or "nobody listens" in result.output
