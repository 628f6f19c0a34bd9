"""Outgoing requests: real sockets, hostile servers, short patience."""

from __future__ import annotations

import json
import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshsec.ca import CertificateAuthority
from meshsec.errors import KeysUnavailableError
from meshsec.sources import _line
from meshsec.sources._fetch import PLAIN_GET, FetchResult, discover, fetch, good_body, max_age
from meshsec.sources._line import read_url
from meshsec.sources._proxy import Proxy

PATIENCE = 0.3
Answer = Callable[[socket.socket, threading.Event], None]


def answer(text: str, body: bytes = b"") -> Answer:
    """A server that says this after it has read a request's head."""

    def say(client: socket.socket, _: threading.Event) -> None:
        client.sendall(text.replace("\n", "\r\n").encode() + b"\r\n" + body)

    return say


def drip(before: bytes, byte: bytes) -> Answer:
    """A server that never stops, and never says enough."""

    def say(client: socket.socket, over: threading.Event) -> None:
        client.sendall(before)
        while not over.wait(0.02):
            client.sendall(byte)

    return say


def hang(_: socket.socket, over: threading.Event) -> None:
    """A server that says nothing."""
    over.wait(10)


@contextmanager
def server(say: Answer, context: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[bytes]]]:
    """A server on a free loopback port: its address, and the heads of the requests it got."""
    heads: list[bytes] = []
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)

    def serve() -> None:
        while not over.is_set():
            try:
                client, _ = listener.accept()
            except TimeoutError:
                continue
            client.settimeout(2)
            try:
                with context.wrap_socket(client, server_side=True) if context else client as line:
                    heads.append(_head(line))
                    say(line, over)
            except OSError:
                client.close()

    thread = threading.Thread(target=serve)
    thread.start()
    scheme = "https" if context else "http"
    try:
        yield f"{scheme}://localhost:{listener.getsockname()[1]}", heads
    finally:
        over.set()
        thread.join()
        listener.close()


def _head(line: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data and (more := line.recv(4096)):
        data += more
    return data


def refused(url: str, timeout: float = PATIENCE, **options: Any) -> str:
    """Why a fetch failed; and it did so in time."""
    began = time.monotonic()
    with pytest.raises(KeysUnavailableError) as caught:
        fetch(url, timeout=timeout, **options)
    assert time.monotonic() - began < timeout + 3
    assert len(str(caught.value)) < 512
    return str(caught.value)


def test_a_body_is_fetched() -> None:
    """Status, body and headers; the request is plain and names us."""
    with server(answer("HTTP/1.1 200 OK\nContent-Length: 2\nX-A: b\n", b"{}")) as (url, heads):
        found = fetch(f"{url}/jwks?x=1", timeout=5)
    assert (found.status, found.body, found.headers["x-a"]) == (200, b"{}", "b")
    head = heads[0].lower()
    assert head.startswith(b"get /jwks?x=1 http/1.1\r\n")
    for line in (b"user-agent: meshsec", b"accept: application/json", b"accept-encoding: identity"):
        assert line + b"\r\n" in head
    assert b"authorization" not in head
    assert b"cookie" not in head


@pytest.mark.parametrize(
    "say",
    [
        answer("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n", b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"),
        answer("HTTP/1.0 200 OK\n", b"{}"),
    ],
)
def test_every_framing_is_read(say: Answer) -> None:
    """Chunked, and up to the end of the connection."""
    with server(say) as (url, _):
        assert fetch(url, timeout=5).body == b"{}"


@pytest.mark.parametrize(
    "say",
    [
        hang,
        drip(b"", b"H"),
        drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        drip(b"HTTP/1.1 200 OK\r\nX: ", b"y"),
        drip(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b" "),
        drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        drip(b"HTTP/1.0 200 OK\r\n\r\n", b" "),
    ],
    ids=["hang", "status", "headers", "header", "body", "chunks", "endless"],
)
def test_the_time_is_for_everything_together(say: Answer) -> None:
    """A server that answers a byte at a time gets no more of it than one that is silent."""
    with server(say) as (url, _):
        assert "timed out" in refused(url)


def test_the_time_is_for_the_tls_handshake_too() -> None:
    """A server that never answers the ClientHello."""
    with server(hang) as (url, _):
        assert "timed out" in refused(url.replace("http:", "https:"))


@pytest.mark.parametrize(
    "say",
    [hang, drip(b"", b"H"), drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), drip(b"HTTP/1.1 200 OK\r\n\r\n", b"")],
    ids=["hang", "status", "headers", "tunnel"],
)
def test_the_time_is_for_a_proxy_too(say: Answer) -> None:
    """One that is silent, that never stops talking, or whose tunnel leads nowhere."""
    with server(say) as (url, _):
        proxy = Proxy("127.0.0.1", int(url.rpartition(":")[2]))
        asking = replace(PLAIN_GET, proxy=proxy)
        assert "timed out" in refused("https://issuer.example/jwks", asking=asking)


@pytest.mark.parametrize(
    "say",
    [
        answer(f"HTTP/1.1 200 OK\nContent-Length: {10 << 20}\n", b"x" * (2 << 20)),
        answer("HTTP/1.0 200 OK\n", b"x" * (2 << 20)),
        answer("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n", b"200000\r\n" + b"x" * (2 << 20)),
    ],
    ids=["length", "close", "chunk"],
)
def test_a_body_has_a_limit(say: Answer) -> None:
    """One mebibyte, however it is announced."""
    with server(say) as (url, _):
        assert "more than 1048576 bytes" in refused(url, timeout=5)


def test_the_limit_is_to_the_byte() -> None:
    """As many as allowed, and one more."""
    with server(answer("HTTP/1.1 200 OK\nContent-Length: 10\n", b"x" * 10)) as (url, _):
        assert fetch(url, timeout=5, max_bytes=10).body == b"x" * 10
        assert "more than 9 bytes" in refused(url, timeout=5, max_bytes=9)


@pytest.mark.parametrize(
    "say",
    [
        answer("HTTP/1.1 200 OK\nContent-Length: 10\n", b"{}"),
        answer("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n", b"5\r\n{}"),
        answer("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n", b"zz\r\n{}"),
        answer("nonsense"),
        answer(""),
        lambda *_: None,
    ],
)
def test_a_broken_answer_is_no_answer(say: Answer) -> None:
    """Truncated, garbled, or none."""
    with server(say) as (url, _):
        refused(url, timeout=5)


def test_redirects_are_not_followed() -> None:
    """The other address sees nothing."""
    with (
        server(answer("HTTP/1.1 200 OK\nContent-Length: 2\n", b"{}")) as (other, heads),
        server(answer(f"HTTP/1.1 302 Found\nLocation: {other}/jwks\nContent-Length: 0\n")) as (url, _),
    ):
        found = fetch(url, timeout=5)
        assert found.status == 302
        with pytest.raises(KeysUnavailableError, match="status 302"):
            good_body(url, found)
    assert heads == []


@pytest.mark.parametrize("status", [100, 201, 204, 206, 304, 401, 404, 500, 503])
def test_only_200_is_good(status: int) -> None:
    """Whatever the body says."""
    assert good_body("http://localhost/", FetchResult(200, b"{}")) == b"{}"
    with pytest.raises(KeysUnavailableError, match=str(status)):
        good_body("http://localhost/", FetchResult(status, b"{}"))


def test_nobody_listens() -> None:
    """A refused connection is told, without the query."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    message = refused(f"http://127.0.0.1:{port}/jwks?secret=1")
    assert "ConnectionRefusedError" in message
    assert "secret" not in message


@pytest.mark.parametrize(
    "url",
    [
        "",
        "file:///etc/passwd",
        "ftp://localhost/",
        "data:,{}",
        "//localhost/",
        "/jwks",
        "localhost",
        "http://",
        "http:///jwks",
        "http://user:password@localhost/",
        "http://user@localhost/",
        "http://localhost:99999/",
        "http://localhost:x/",
        "http://[::1/",
        "unix:///run/x",
        "http://localhost/" + "x" * 2048,
    ],
)
def test_only_plain_http_urls_are_fetched(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, no other scheme, no password; and nothing is looked up for them."""
    monkeypatch.setattr(socket, "getaddrinfo", None)
    assert "only http and https" in refused(url)


def test_the_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable does not send our requests elsewhere."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with server(answer("HTTP/1.1 200 OK\nContent-Length: 2\n", b"{}")) as (url, _):
        assert fetch(url, timeout=5).body == b"{}"


FORBIDDEN = [
    "169.254.169.254",
    "169.254.0.1",
    "fe80::1",
    "fe80::1%eth0",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fd20:ce::254",
    "fd00:c1::a9fe:a9fe",
    "fd00:42::42",
    "fd00:a9fe:a9fe::1",
    "fd00:100::100:200",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "::ffff:100.100.100.200",
]
ALLOWED = [
    "127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "fd00::1", "fd00:42::43", "8.8.8.8",
    "64:ff9b::808:808",
]  # fmt: skip


@pytest.mark.parametrize("address", FORBIDDEN)
def test_metadata_addresses_are_never_dialled(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written out, or behind a name; not a packet goes there."""
    monkeypatch.setattr(socket, "getaddrinfo", resolving(address))
    monkeypatch.setattr(socket, "socket", None)
    assert "link-local and metadata" in refused("http://innocent.example/jwks")


def test_an_address_is_told_as_it_is_written() -> None:
    """Without what may be a secret; what IPv6 has in brackets is in them."""
    assert str(read_url("https://[FD00:ec2::23]:8443/a/b?secret=1#x")) == "https://[fd00:ec2::23]:8443/a/b"
    assert str(read_url("http://issuer.example?x")) == "http://issuer.example:80/"


@pytest.mark.parametrize("address", ALLOWED)
def test_loopback_and_private_addresses_are_fine(address: str) -> None:
    """Issuers live there."""
    assert not _line._is_forbidden(address)


def resolving(*addresses: str, port: int = 80) -> Callable[..., list[Any]]:
    """A resolver that always says this."""
    rows = []
    for address in addresses:
        family = socket.AF_INET6 if ip_address(address.partition("%")[0]).version == 6 else socket.AF_INET
        rows.append((family, socket.SOCK_STREAM, 6, "", (address, port)))
    return lambda *_, **__: rows


def test_a_forbidden_address_among_others_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The allowed one is dialled, and it is exactly the one that was judged: the name is looked up once."""
    with server(answer("HTTP/1.1 200 OK\nContent-Length: 2\n", b"{}")) as (url, _):
        port = int(url.rpartition(":")[2])
        lookups = iter([resolving("169.254.169.254", "127.0.0.1", port=port)(), resolving("169.254.169.254")()])
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: next(lookups))
        assert fetch(f"http://rebinding.example:{port}/", timeout=5).body == b"{}"


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, bytes]:
    """A server's context for localhost, and the authority that vouches for it."""
    authority = CertificateAuthority.create("cluster.local")
    svid = authority.issue_x509_svid("spiffe://cluster.local/ns/a/sa/b", dns_names=["localhost"])
    (tmp_path / "chain.pem").write_bytes(svid.chain_pem())
    (tmp_path / "key.pem").write_bytes(svid.key_pem())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
    return context, authority.bundle.to_pem()


def test_tls_is_verified(tls: tuple[ssl.SSLContext, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """An authority that nobody trusts, or another name, is no answer; the right ones are."""
    context, authority = tls
    with server(answer("HTTP/1.1 200 OK\nContent-Length: 2\n", b"{}"), context) as (url, _):
        assert "CERTIFICATE_VERIFY_FAILED" in refused(url, timeout=5)
        trusting = ssl.create_default_context(cadata=authority.decode())
        monkeypatch.setattr(_line, "_system_context", lambda: trusting)
        assert fetch(url, timeout=5).body == b"{}"
        assert "CERTIFICATE_VERIFY_FAILED" in refused(url.replace("localhost", "127.0.0.1"), timeout=5)


def test_the_time_is_for_tls_bodies_too(tls: tuple[ssl.SSLContext, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is cut off under the encryption."""
    context, authority = tls
    trusting = ssl.create_default_context(cadata=authority.decode())
    monkeypatch.setattr(_line, "_system_context", lambda: trusting)
    with server(drip(b"HTTP/1.1 200 OK\r\nX: ", b"y"), context) as (url, _):
        assert "timed out" in refused(url)


# ------------------------------------------------------------------------------------------------ how long it is good

NOON, LATER = "Sun, 22 Nov 2026 12:00:00 GMT", "Sun, 22 Nov 2026 12:01:40 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, math.inf),
        ({"cache-control": "public, s-maxage=1, x-max-age=1, max-age"}, math.inf),
        ({"cache-control": "max-age=100"}, 100),
        ({"cache-control": 'PUBLIC ,\tMax-Age="100"'}, 100),
        ({"cache-control": "max-age=100, max-age=50, max-age=70"}, 50),
        ({"cache-control": "max-age=100, max-age="}, 0),
        ({"cache-control": "max-age=1\u0660"}, 0),
        ({"cache-control": "max-age=\u00b2"}, 0),
        ({"cache-control": "max-age=1.5"}, 0),
        ({"cache-control": "max-age=-1"}, 0),
        ({"cache-control": "max-age=100, no-store"}, 0),
        ({"cache-control": "no-cache, max-age=100"}, 0),
        ({"cache-control": 'no-cache="x-a"'}, math.inf),
        ({"cache-control": "max-age=100", "age": "30"}, 70),
        ({"cache-control": "max-age=100", "age": "101"}, 0),
        ({"cache-control": "max-age=100", "age": "-30"}, 100),
        ({"age": "30"}, math.inf),
        ({"expires": LATER}, math.inf),
        ({"date": NOON}, math.inf),
        ({"expires": LATER, "date": NOON}, 100),
        ({"expires": LATER, "date": NOON, "age": "30"}, 70),
        ({"expires": LATER, "date": NOON, "cache-control": "max-age=5"}, 5),
        ({"expires": NOON, "date": LATER}, 0),
        ({"expires": "never", "date": NOON}, 0),
        ({"expires": LATER, "date": "now"}, 0),
        ({"expires": f"{LATER[:-3]}+99999999999999999", "date": NOON}, 0),
    ],
)
def test_an_answer_says_how_long_it_is_good(headers: dict[str, str], seconds: float) -> None:
    """RFC 9111 section 4.2; of several figures the smallest, and what cannot be read is stale at once."""
    assert max_age(FetchResult(200, b"{}", headers)) == seconds


PIECES = st.sampled_from(
    ["Sun,", "22", "Nov", "2026", "9999", "0001", "12:00:00", "24:61:61", "GMT", "+2359", "-0000", "max-age=", "no-",
     "1e9", "nan", "-1", ",", ":", '"', " ", "\u0661", "\x00"]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=8).map(" ".join) | st.text(max_size=20)


@given(st.dictionaries(st.sampled_from(["cache-control", "age", "expires", "date"]), TEXTS))
def test_any_headers_say_something(headers: dict[str, str]) -> None:
    """A good key set is not lost over a date that nobody can read."""
    assert max_age(FetchResult(200, b"{}", headers)) >= 0


# ------------------------------------------------------------------------------------------------ discovery

ISSUER = "https://issuer.example/realm"
DOCUMENT = {"issuer": ISSUER, "jwks_uri": "https://keys.example/jwks"}


def scripted(body: bytes | dict[str, Any], status: int = 200) -> tuple[list[str], Any]:
    """A fetch that always answers this, and the URLs it was asked for."""
    asked: list[str] = []
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    def get(url: str, *, timeout: float) -> FetchResult:
        asked.append(url)
        return FetchResult(status, data)

    return asked, get


@pytest.mark.parametrize("issuer", [ISSUER, f"{ISSUER}/"])
def test_discovery_finds_the_key_set(issuer: str) -> None:
    """At the well-known place under the issuer, one trailing slash aside."""
    asked, get = scripted({**DOCUMENT, "issuer": issuer})
    assert discover(issuer, timeout=1, fetch=get) == "https://keys.example/jwks"
    assert asked == [f"{ISSUER}/.well-known/openid-configuration"]


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": f"{ISSUER}/"},
        {"issuer": "https://other.example"},
        {"issuer": None},
        {"issuer": [ISSUER]},
        {"jwks_uri": None},
        {"jwks_uri": 7},
        {"jwks_uri": "http://keys.example/jwks"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "/jwks"},
        {"jwks_uri": ""},
    ],
)
def test_a_discovery_document_must_be_the_issuers_own(change: dict[str, Any]) -> None:
    """Another issuer's, one without keys, and one that leads out of TLS or out of HTTP are refused."""
    assert discover(ISSUER, timeout=1, fetch=scripted(DOCUMENT)[1])
    with pytest.raises(KeysUnavailableError):
        discover(ISSUER, timeout=1, fetch=scripted({**DOCUMENT, **change})[1])


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"", b'{"issuer": "a", "issuer": "b"}'])
def test_a_discovery_document_is_json(body: bytes) -> None:
    """One object, one reading."""
    with pytest.raises(KeysUnavailableError, match="unreadable"):
        discover(ISSUER, timeout=1, fetch=scripted(body)[1])


def test_a_discovery_document_comes_with_200() -> None:
    """A document beside an error is none; over plain http the key set may be on http too."""
    with pytest.raises(KeysUnavailableError, match="status 500"):
        discover(ISSUER, timeout=1, fetch=scripted(DOCUMENT, 500)[1])
    plain = {"issuer": "http://localhost:1", "jwks_uri": "http://localhost:1/jwks"}
    assert discover("http://localhost:1", timeout=1, fetch=scripted(plain)[1]) == "http://localhost:1/jwks"
