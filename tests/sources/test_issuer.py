"""An issuer with authorities and a token of its own, as Kubernetes' is: who is trusted, and who sees the token."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from answering import answering
from meshsec.authn import KeySource, NeedKeys
from meshsec.ca import CertificateAuthority
from meshsec.errors import ConfigError, KeysUnavailableError
from meshsec.resources import IssuerConfig, KeysConfig, load_mesh
from meshsec.sources import KeyStore
from meshsec.sources._issuer import IssuerFetch
from meshsec.sources._proxy import Proxy, proxy_for
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
    with answering(found.server):
        yield found


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


@pytest.mark.parametrize("alone", ["ca_file", "nothing"])
def test_an_issuers_authorities_count_without_a_token(issuer: Issuer, alone: str) -> None:
    """They alone vouch for it; whom only they know is a stranger without them."""
    source = KeySource(issuer.url, f"{issuer.url}/jwks")
    settings = IssuerConfig(ca_file=issuer.ca_file if alone == "ca_file" else None)
    store = KeyStore([source], issuers={issuer.url: settings})
    store.wait(NeedKeys((source,)))
    assert store.snapshot()[source].keys == (key_set(signing_key()) if alone == "ca_file" else None)
    assert issuer.seen == ([("/jwks", None)] if alone == "ca_file" else [])


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


@pytest.mark.parametrize("home", ["its own", "https://issuer.example"])
def test_a_server_of_somebody_elses_does_not_see_the_token(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    """Whom the system's authorities vouch for is asked, and told nothing but the path."""
    systems = ssl.create_default_context(cafile=issuer.ca_file)
    monkeypatch.setattr("meshsec.sources._line._system_context", lambda: systems)
    source = KeySource(issuer.url if home == "its own" else home)
    found = IssuerFetch(source, IssuerConfig(token_file=issuer.token_file))
    assert found(f"{issuer.url}/jwks", timeout=5).body == BODY
    assert issuer.seen == [("/jwks", f"Bearer {TOKEN}" if home == "its own" else None)]


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


# ------------------------------------------------------------------------------------------------ proxies


class Tunnels:
    """An HTTP proxy on the loopback that opens tunnels, always to where it is told to, and knows their heads.

    With a context it speaks TLS, and what it hears before that is no head.
    """

    def __init__(
        self,
        port: int,
        answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n",
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.heads: list[bytes] = []
        self._answer, self._port, self._context = answer, port, context
        self._listener = socket.create_server(("127.0.0.1", 0))
        scheme, host = ("https", "localhost") if context else ("http", "127.0.0.1")
        self.url = f"{scheme}://{host}:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with suppress(OSError), client:
                if self._context is None:
                    self._open(client)
                else:
                    with self._context.wrap_socket(client, server_side=True) as secured:
                        self._open(secured)

    def _open(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head and (more := client.recv(4096)):
            head += more
        self.heads.append(head)
        client.sendall(self._answer)
        if b" 200 " in self._answer:
            with socket.create_connection(("127.0.0.1", self._port)) as there:
                _pass(client, there)

    def close(self) -> None:
        """Stop."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def _pass(client: socket.socket, there: socket.socket) -> None:
    """Both ways, until either end is done; in one thread, as a connection of TLS has one user at a time."""
    other = {client: there, there: client}
    while True:
        waiting = isinstance(client, ssl.SSLSocket) and client.pending()
        for one in [client] if waiting else select.select([client, there], [], [])[0]:
            data = one.recv(65536)
            if not data:
                return
            other[one].sendall(data)


@pytest.fixture
def tunnels(issuer: Issuer) -> Iterator[Tunnels]:
    """A proxy whose tunnels all end at the issuer."""
    found = Tunnels(issuer.server.server_port)
    yield found
    found.close()


def through(issuer: Issuer, proxy: str | None, home: str | None = None) -> IssuerFetch:
    """Asks the issuer through a proxy."""
    return IssuerFetch(KeySource(home or issuer.url), IssuerConfig(ca_file=issuer.ca_file), proxy)


def test_a_proxy_opens_a_tunnel_and_sees_nothing(issuer: Issuer, tunnels: Tunnels) -> None:
    """It learns the server's name; TLS, and the check of that name, is between the server and us."""
    asked = "https://localhost:8443"  # a name that the proxy resolves: here nobody listens there
    token = IssuerConfig(ca_file=issuer.ca_file, token_file=issuer.token_file)
    assert IssuerFetch(KeySource(asked), token, tunnels.url)(f"{asked}/jwks", timeout=5).body == BODY
    [head] = tunnels.heads
    assert head.startswith(b"CONNECT localhost:8443 HTTP/1.")
    assert b"jwks" not in head
    assert TOKEN.encode() not in head
    assert issuer.seen == [("/jwks", f"Bearer {TOKEN}")]
    with pytest.raises(KeysUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
        through(issuer, tunnels.url)("https://other.example/jwks", timeout=5)


def test_a_store_asks_through_the_proxy_of_the_mesh_or_of_the_issuer(issuer: Issuer, tunnels: Tunnels) -> None:
    """The issuer's own wins; ``none`` is one, too."""
    source = KeySource(issuer.url, f"{issuer.url}/jwks")
    dead = "http://127.0.0.1:9"
    for mesh_wide, own, expected in [
        (None, None, (True, 0)),
        (tunnels.url, None, (True, 1)),
        (dead, tunnels.url, (True, 2)),
        (dead, None, (False, 2)),
        (dead, "none", (True, 2)),
    ]:
        settings = {issuer.url: IssuerConfig(ca_file=issuer.ca_file, proxy=own)}
        store = KeyStore([source], KeysConfig(proxy=mesh_wide), issuers=settings)
        store.wait(NeedKeys((source,)))
        assert (store.snapshot()[source].keys is not None, len(tunnels.heads)) == expected


def test_the_environment_is_asked_only_where_it_may_be(
    issuer: Issuer, tunnels: Tunnels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``proxy: environment``: HTTPS_PROXY with its password, unless NO_PROXY names the host."""
    monkeypatch.setenv("HTTPS_PROXY", tunnels.url.replace("//", "//user:p%40ss@"))
    monkeypatch.delenv("NO_PROXY", raising=False)
    for setting in (None, "none"):
        assert through(issuer, setting)(issuer.url, timeout=5).body == BODY
    assert tunnels.heads == []
    assert through(issuer, "environment")(issuer.url, timeout=5).body == BODY
    assert b"proxy-authorization: Basic dXNlcjpwQHNz\r\n" in tunnels.heads.pop()
    monkeypatch.setenv("NO_PROXY", "other.example,localhost")
    assert through(issuer, "environment")(issuer.url, timeout=5).body == BODY
    assert tunnels.heads == []


class Guarded:
    """A proxy that speaks TLS, with an authority of its own, which is not the issuer's."""

    def __init__(self, folder: Path, port: int, name: str = "localhost") -> None:
        authority = CertificateAuthority.create("proxies.example")
        svid = authority.issue_x509_svid("spiffe://proxies.example/ns/a/sa/proxy", dns_names=[name])
        files = {"chain": svid.chain_pem(), "key": svid.key_pem(), "ca": authority.bundle.to_pem()}
        for part, data in files.items():
            (folder / f"proxy-{part}.pem").write_bytes(data)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "proxy-chain.pem", folder / "proxy-key.pem")
        self.ca_file = str(folder / "proxy-ca.pem")
        self.tunnels = Tunnels(port, context=context)


def test_a_proxy_over_tls_proves_who_it_is(issuer: Issuer, tmp_path: Path) -> None:
    """Before it learns where to; by its own authorities, and the issuer's by the issuer's: neither does for both."""
    proxy = Guarded(tmp_path, issuer.server.server_port)
    url, asked = proxy.tunnels.url, f"{issuer.url}/jwks"
    token = IssuerConfig(ca_file=issuer.ca_file, token_file=issuer.token_file)
    source = KeySource(issuer.url)
    assert IssuerFetch(source, token, url, proxy.ca_file)(asked, timeout=5).body == BODY
    [head] = proxy.tunnels.heads
    assert head.startswith(b"CONNECT localhost:")
    assert b"jwks" not in head
    assert TOKEN.encode() not in head
    assert issuer.seen == [("/jwks", f"Bearer {TOKEN}")]
    swapped = IssuerConfig(ca_file=proxy.ca_file)
    for settings, ca_file, told in [(token, None, 1), (token, issuer.ca_file, 1), (swapped, proxy.ca_file, 2)]:
        with pytest.raises(KeysUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            IssuerFetch(source, settings, url, ca_file)(asked, timeout=5)
        assert len(proxy.tunnels.heads) == told
    assert len(issuer.seen) == 1
    proxy.tunnels.close()


def test_a_proxy_over_tls_has_its_own_name(issuer: Issuer, tmp_path: Path) -> None:
    """Its authority's word is not enough; the address guard holds as ever."""
    other = Guarded(tmp_path, issuer.server.server_port, "other.example")
    settings = IssuerConfig(ca_file=issuer.ca_file)
    for proxy, url, why in [
        (other.tunnels.url, issuer.url, "CERTIFICATE_VERIFY_FAILED"),
        ("https://169.254.169.254:443", issuer.url, "link-local and metadata"),
        (other.tunnels.url, "https://169.254.169.254/", "link-local and metadata"),
    ]:
        with pytest.raises(KeysUnavailableError, match=why):
            IssuerFetch(KeySource(issuer.url), settings, proxy, other.ca_file)(url, timeout=5)
    assert other.tunnels.heads == issuer.seen == []
    other.tunnels.close()


def test_a_store_asks_through_a_proxy_over_tls(issuer: Issuer, tmp_path: Path) -> None:
    """As mesh.yaml says it, the file beside it; without the file there are no keys, and no way round the proxy."""
    proxy = Guarded(tmp_path, issuer.server.server_port)
    source = KeySource(issuer.url, f"{issuer.url}/jwks")
    for more, found in [("", False), (", proxyCaFile: proxy-ca.pem", True)]:
        (tmp_path / "mesh.yaml").write_text(
            f"keys: {{proxy: '{proxy.tunnels.url}'{more}}}\nissuers: {{'{issuer.url}': {{caFile: ca.pem}}}}"
        )
        config = load_mesh(tmp_path).config
        store = KeyStore([source], config.keys, issuers=config.issuers)
        store.wait(NeedKeys((source,)))
        assert (store.snapshot()[source].keys is not None, len(issuer.seen)) == (found, int(found))
    proxy.tunnels.close()


@pytest.mark.parametrize("text", ["socks5://proxy.example:1", "http://", "https://", "http://p:x", "https://p:x"])
def test_a_proxy_that_cannot_be_used_is_not_passed_by(
    issuer: Issuer, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever says that there is one does not want it any other way; the variable's text is in no message."""
    monkeypatch.setenv("HTTPS_PROXY", text)
    with pytest.raises(KeysUnavailableError, match=r"proxy is neither http://host:port nor https://host:port$"):
        through(issuer, "environment")(issuer.url, timeout=5)
    assert issuer.seen == []


def test_plain_http_goes_through_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """It could change the keys."""
    assert proxy_for("http://proxy.example:3128", "http://issuer.example/jwks") is None
    assert proxy_for("http://proxy.example:3128", "https://issuer.example/jwks") == Proxy("proxy.example", 3128)


@pytest.mark.parametrize("status", [b"407 Proxy Authentication Required", b"403 Forbidden", b"302 Found"])
def test_a_proxy_that_refuses_is_no_answer(issuer: Issuer, status: bytes) -> None:
    """Whatever it says."""
    refusing = Tunnels(issuer.server.server_port, b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(KeysUnavailableError, match=status.decode()[:3]):
        through(issuer, refusing.url)(issuer.url, timeout=5)
    refusing.close()


def test_the_address_guard_holds_for_proxies_and_through_them(issuer: Issuer, tunnels: Tunnels) -> None:
    """A proxy at a metadata address is not dialled; through one, no such address is asked for."""
    for proxy, url in [
        ("http://169.254.169.254:80", issuer.url),
        (tunnels.url, "https://169.254.169.254/"),
        (tunnels.url, "https://[fd00:ec2::254]/"),
        (tunnels.url, "https://[::ffff:100.100.100.200]/"),
    ]:
        with pytest.raises(KeysUnavailableError, match="link-local and metadata"):
            through(issuer, proxy)(url, timeout=5)
    assert tunnels.heads == []


@pytest.mark.parametrize(
    "text",
    [
        "proxy.example:3128", "http://proxy.example", "https://proxy.example", "http://a:b@proxy.example:3128",
        "https://a:b@proxy.example:3128", "socks5://proxy.example:3128",
        "http://proxy.example:0", "http://proxy.example:65536", "http://proxy.example:1/path", "Environment", "",
    ],
)  # fmt: skip
def test_a_proxy_is_written_down_in_one_way(tmp_path: Path, text: str) -> None:
    """``http(s)://host:port``, ``environment`` or ``none``; a password has no place in mesh.yaml."""
    for good in (
        "http://proxy.example:3128",
        "https://proxy.example:443",
        "http://[::1]:3128/",
        "environment",
        "none",
    ):
        (tmp_path / "mesh.yaml").write_text(f"keys: {{proxy: '{good}'}}\nissuers: {{i: {{proxy: '{good}'}}}}")
        config = load_mesh(tmp_path).config
        assert (config.keys.proxy, config.issuers["i"].proxy) == (good, good)
    (tmp_path / "mesh.yaml").write_text(f"keys: {{proxy: '{text}'}}")
    with pytest.raises(ConfigError, match=r"mesh.yaml:1:.*proxy"):
        load_mesh(tmp_path)
