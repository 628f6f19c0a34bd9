"""``meshsec doctor`` against a server that is in order, and against those that are not."""

from __future__ import annotations

import ssl
import struct
import sys
import time
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from live import free_port, serving
from meshsec.ca import CertificateAuthority, write_identity
from meshsec.cli import main
from meshsec.cli._quic import _read, alternative_ports
from meshsec.spiffe import X509Bundle, X509BundleSet
from meshsec.tls import StaticMaterial, server_context
from pki import TestCA, key_pem, pem
from wire import careless
from world import serve

AUTHORITY: Final = CertificateAuthority.create("td.example")
ID: Final = "spiffe://td.example/ns/prod/sa/web"


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
    assert len(result.output.splitlines()) == 10
    assert f"ok    {'HTTP/3':<45}  not offered, and no QUIC" in result.output
    assert f"ok    {'a friend':<45}  200" in result.output


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
    late = "an expired certificate of a foreign authority"
    assert {*expected, late, "a friend's resumed session"} <= set(opened(result)), result.output


def test_an_expired_certificate_of_the_mesh(friend: Path, tmp_path: Path) -> None:
    """Refused by a server in order, taken by one that checks nothing; one that has not expired is no test."""
    now = time.time()
    late = CertificateAuthority.create("td.example", now=now - 7200)
    write_identity(tmp_path / "late", late.issue_x509_svid(ID, ttl=3600, now=now - 7200), late.bundle)
    roots = X509Bundle("td.example", AUTHORITY.bundle.der | late.bundle.der)
    source = StaticMaterial(AUTHORITY.issue_x509_svid(ID), X509BundleSet([roots]))
    options = ("--expired", str(tmp_path / "late"))
    assert knock(server_context(source), *options).exit_code == 0
    assert "an expired certificate" in opened(knock(careless("server", TestCA().leaf()), *options))
    result = knock(server_context(source), "--expired", str(friend))
    assert (result.exit_code, "has not expired" in result.output) == (1, True)


def test_a_real_quic_listener_beside_the_port_is_told(tmp_path: Path) -> None:
    """hypercorn's, which asks nobody for a certificate; its TCP port does not either."""
    chain, key = TestCA("td.example").leaf(dns=["localhost"])
    (tmp_path / "chain.pem").write_bytes(pem(chain))
    (tmp_path / "key.pem").write_bytes(key_pem(key))
    place = f"127.0.0.1:{free_port()}"
    files = ["--certfile", str(tmp_path / "chain.pem"), "--keyfile", str(tmp_path / "key.pem")]
    arguments = [sys.executable, "-m", "hypercorn", "--quic-bind", place, "--bind", place, *files, "served:plain"]
    with serving(tmp_path, arguments, int(place.rpartition(":")[2]), AUTHORITY):
        result = CliRunner().invoke(main, ["doctor", f"https://{place}/"])
    assert "HTTP/3" in opened(result), result.output
    assert "versions 0x1" in result.output
    assert "whether it asks for a certificate is not checked" in result.output


@pytest.mark.parametrize(
    ("header", "ports"),
    [
        ("", ()),
        ('h3=":443"; ma=86400', (443,)),
        ('h3-29=":443", h3=":8443"; ma=1, h2=":9"', (443, 8443)),
        ('h3="alt.example:444"', (444,)),
        ("clear", ()),
        ('h3=":0"', ()),
        ('h3=":65536"', ()),
        ('h3=":99999999"', ()),
        ('h3=":\N{ARABIC-INDIC DIGIT ONE}"', ()),
        ('xh3=":443"', ()),
    ],
)
def test_what_alt_svc_offers(header: str, ports: tuple[int, ...]) -> None:
    """RFC 7838; what is not understood offers nothing."""
    assert alternative_ports(header) == ports


@given(st.text(max_size=300))
@settings(max_examples=50, deadline=None)
def test_any_alt_svc_is_read(text: str) -> None:
    """By a program that talks to strangers."""
    assert all(0 < port < 65536 for port in alternative_ports(text))


@given(st.binary(max_size=60))
@settings(max_examples=100, deadline=None)
def test_what_is_no_negotiation_packet_offers_nothing(data: bytes) -> None:
    """Only an answer with our own connection IDs counts; and what follows them is cut into versions."""
    ours, theirs = b"o" * 8, b"t" * 8
    assert _read(data, ours, theirs) == ()
    head = b"\x80" + bytes(4) + b"\x08" + ours + b"\x08" + theirs
    assert _read(head + data, ours, theirs) == struct.unpack(f">{len(data) // 4}I", data[: len(data) // 4 * 4])


MALFORMED: Final = (
    "http://127.0.0.1:1/",
    "127.0.0.1:1",
    "https://",
    "https://127.0.0.1:x/",
    "https://127.0.0.1:65536/",
    "https://[::1/",
    "https://127.0.0.1:1/a b",
    "https://127.0.0.1:1/\N{SNOWMAN}",
)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        *((url, "write https://host:port/path") for url in MALFORMED),
        ("https://127.0.0.1:1/", "nobody listens at 127.0.0.1:1"),
        ("https://a..b/", "nobody listens at a..b:443"),
    ],
)
def test_where_there_is_nothing_to_knock_at(url: str, sentence: str) -> None:
    """A sentence, and status 1: who cannot be reached must not seem to let nobody in."""
    result = CliRunner().invoke(main, ["doctor", url])
    assert (result.exit_code, sentence in result.output) == (1, True), result.output


@pytest.mark.parametrize("option", ["--identity", "--expired"])
def test_an_identity_that_is_not_there(tmp_path: Path, option: str) -> None:
    """The file is named, before anybody is knocked at."""
    result = CliRunner().invoke(main, ["doctor", "https://127.0.0.1:1/", option, str(tmp_path)])
    assert (result.exit_code, f"{tmp_path}/cert-chain.pem: cannot be read" in result.output) == (1, True)
