"""An issuer with authorities and a token of its own, as Kubernetes' is: who is trusted, and who sees the token."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from meshsec.authn import KeySource, NeedKeys
from meshsec.ca import CertificateAuthority
from meshsec.errors import KeysUnavailableError
from meshsec.resources import IssuerConfig
from meshsec.sources import KeyStore
from meshsec.sources._issuer import IssuerFetch
from tokens import jwks, key_set, signing_key

TOKEN = "service-account-token"
BODY = jwks(signing_key()).encode()


class Issuer:
    """An HTTPS server on the loopback whose authority nobody knows."""

    def __init__(self, folder: Path) -> None:
        authority = CertificateAuthority.create("cluster.local")
        svid = authority.issue_x509_svid("spiffe://cluster.local/ns/a/sa/b", dns_names=["localhost"])
        files = {"chain.pem": svid.chain_pem(), "key.pem": svid.key_pem(), "ca.pem": authority.bundle.to_pem()}
        for name, data in {**files, "token": TOKEN.encode() + b"\n"}.items():
            (folder / name).write_bytes(data)
        self.ca_file, self.token_file = str(folder / "ca.pem"), str(folder / "token")
        self.seen: list[tuple[str, str | None]] = []
        self.body = BODY
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.seen.append((self.path, self.headers.get("authorization")))
                self.send_response(200)
                self.send_header("content-length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "chain.pem", folder / "key.pem")
        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://localhost:{self.server.server_port}"


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    """A running one."""
    found = Issuer(tmp_path)
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    thread.join()


def test_an_issuer_of_the_cluster_gives_its_keys(issuer: Issuer) -> None:
    """With its own authorities and the token; without the authorities it is nobody."""
    source = KeySource(issuer.url, f"{issuer.url}/jwks")
    settings = IssuerConfig(ca_file=issuer.ca_file, token_file=issuer.token_file)
    store = KeyStore([source], issuers={issuer.url: settings})
    store.wait(NeedKeys((source,)))
    assert store.snapshot()[source].keys == key_set(signing_key())
    assert issuer.seen == [("/jwks", f"Bearer {TOKEN}")]
    stranger = KeyStore([source], issuers={issuer.url: IssuerConfig(token_file=issuer.token_file)})
    stranger.wait(NeedKeys((source,)))
    assert stranger.snapshot()[source].keys is None
    assert len(issuer.seen) == 1


def test_no_other_authority_counts(issuer: Issuer, tmp_path: Path) -> None:
    """The file stands for the system's authorities and is not added to them."""
    (tmp_path / "other.pem").write_bytes(CertificateAuthority.create("cluster.local").bundle.to_pem())
    other = IssuerConfig(ca_file=str(tmp_path / "other.pem"), token_file=issuer.token_file)
    with pytest.raises(KeysUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
        IssuerFetch(KeySource(issuer.url), other)(f"{issuer.url}/x", timeout=5)
    mine = IssuerFetch(KeySource(issuer.url), IssuerConfig(ca_file=issuer.ca_file))
    assert mine(f"{issuer.url}/x", timeout=5).body == BODY
    with pytest.raises(KeysUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
        mine(f"{issuer.url.replace('localhost', '127.0.0.1')}/x", timeout=5)
    assert issuer.seen == [("/x", None)]


@pytest.mark.parametrize(
    ("home", "url", "ca_file", "shown"),
    [
        ("https://a.example", "https://a.example/jwks", None, True),
        ("https://a.example", "https://b.example/jwks", None, False),
        ("https://a.example", "https://a.example:8443/jwks", None, False),
        ("https://a.example", "https://b.example/jwks", "ca.pem", True),
        ("http://a.example", "http://a.example/jwks", "ca.pem", False),
    ],
)
def test_the_token_goes_nowhere_else(home: str, url: str, ca_file: str | None, *, shown: bool) -> None:
    """Over https alone, to the issuer's own host, or to whom its authorities vouch for."""
    found = IssuerFetch(KeySource(home), IssuerConfig(ca_file=ca_file, token_file="token"))
    assert found._may_see_token(url) is shown


@pytest.mark.parametrize("text", ["", " ", "a b", "a\nb", "é", "x" * 20_000])
def test_what_is_no_token_is_not_sent(issuer: Issuer, text: str) -> None:
    """No line of a request is made of it, and its text stands in no message."""
    Path(issuer.token_file).write_text(text, "utf-8")
    found = IssuerFetch(KeySource(issuer.url), IssuerConfig(ca_file=issuer.ca_file, token_file=issuer.token_file))
    with pytest.raises(KeysUnavailableError, match="token"):
        found(issuer.url, timeout=5)
    assert issuer.seen == []


def test_files_are_read_anew(issuer: Issuer) -> None:
    """Kubernetes replaces both; one that is gone is a fetch that failed."""
    found = IssuerFetch(KeySource(issuer.url), IssuerConfig(ca_file=issuer.ca_file, token_file=issuer.token_file))
    Path(issuer.token_file).write_text("second")
    found(f"{issuer.url}/a", timeout=5)
    assert issuer.seen == [("/a", "Bearer second")]
    for file in (issuer.ca_file, issuer.token_file):
        Path(file).unlink()
        with pytest.raises(KeysUnavailableError, match=r"no authorities|the token"):
            found(f"{issuer.url}/a", timeout=5)
