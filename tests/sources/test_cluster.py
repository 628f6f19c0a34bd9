"""Service accounts from a cluster: a real HTTPS server that pages, wants a token and forgets as Kubernetes' does."""

from __future__ import annotations

import json
import ssl
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from answering import answering
from meshsec.ca import CertificateAuthority, write_identity
from meshsec.cli import main
from meshsec.errors import KeysUnavailableError
from meshsec.resources import ServiceAccount
from meshsec.sources import ClusterAccounts, _cluster
from meshsec.sources._fetch import FetchResult

TOKEN = "the-pods-own-token"
Names = list[tuple[str, str]]
WEB = ("prod", "web")


class ApiServer(ThreadingHTTPServer):
    """What Kubernetes says to ``list serviceaccounts``, its words taken from the API reference."""

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.names: Names = [WEB]
        self.page = 500  # the server may give fewer than it is asked for
        self.expired = 0  # so many continue tokens are too old
        self.refusing = 0  # the status, if it does
        self.asked: list[str] = []
        self.change: Callable[[dict[str, Any]], Any] = lambda page: page

    def answer(self, query: dict[str, list[str]], bearer: str | None) -> tuple[int, Any]:
        if bearer != f"Bearer {TOKEN}":
            return 401, _status(401, "Unauthorized")
        if self.refusing:
            return self.refusing, _status(self.refusing, "Refused")
        start = int(b64decode(query["continue"][0])) if "continue" in query else 0
        if start and self.expired:
            self.expired -= 1
            return 410, _status(410, "Expired")
        end = start + min(self.page, int(query["limit"][0]))
        items = [
            {"metadata": {"name": name, "namespace": space, "uid": f"{space}/{name}"}, "secrets": []}
            for space, name in self.names[start:end]
        ]
        metadata: dict[str, Any] = {"resourceVersion": "7"}
        if end < len(self.names):
            metadata |= {
                "continue": b64encode(str(end).encode()).decode(),
                "remainingItemCount": len(self.names) - end,
            }
        page = {"kind": "ServiceAccountList", "apiVersion": "v1", "metadata": metadata, "items": items}
        return 200, self.change(page)

    def handle_error(self, *_: object) -> None:
        """A refused handshake is asserted at the client's side."""


class _Handler(BaseHTTPRequestHandler):
    server: ApiServer

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.server.asked.append(self.path)
        assert parts.path == "/api/v1/serviceaccounts"
        status, page = self.server.answer(parse_qs(parts.query), self.headers.get("authorization"))
        body = page if isinstance(page, bytes) else json.dumps(page).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _status(code: int, reason: str) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    """A running server, and in ``credentials`` what a pod has to call it."""
    authority = CertificateAuthority.create("cluster.local")
    svid = authority.issue_x509_svid("spiffe://cluster.local/api", dns_names=["localhost"])
    write_identity(tmp_path / "own", svid, authority.bundle)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "own" / "cert-chain.pem", tmp_path / "own" / "key.pem")
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "credentials" / "ca.crt").write_bytes(authority.bundle.to_pem())
    with answering(ApiServer(context)) as server:
        yield server


class Clock:
    """Stands where it is put."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def url(api: ApiServer) -> str:
    """Where it is."""
    return f"https://localhost:{api.server_port}"


def accounts(api: ApiServer, folder: Path, clock: Callable[[], float] | None = None) -> ClusterAccounts:
    """A source that asks it."""
    return ClusterAccounts(url(api), folder / "credentials", clock=clock or Clock())


def test_every_page_is_read(api: ApiServer, tmp_path: Path) -> None:
    """However small the pages are that the server gives."""
    api.names = [(f"ns{number % 3}", f"a{number}") for number in range(7)]
    api.page = 2
    assert accounts(api, tmp_path)() == tuple(sorted(ServiceAccount(*names) for names in api.names))
    assert len(api.asked) == 4


def test_an_empty_cluster_has_no_accounts(api: ApiServer, tmp_path: Path) -> None:
    """An empty list is a list; Go writes it as null."""
    api.names = []
    assert accounts(api, tmp_path)() == ()
    api.change = lambda page: page | {"items": None}
    assert accounts(api, tmp_path)() == ()


def test_it_is_asked_again_after_a_while(api: ApiServer, tmp_path: Path) -> None:
    """Not at each look, of which there is one every few seconds."""
    clock = Clock()
    source = accounts(api, tmp_path, clock)
    assert source() == (ServiceAccount(*WEB),)
    api.names.append(("prod", "cart"))
    assert len(source()) == 1
    clock.now += _cluster.REFRESH
    assert len(source()) == 2
    assert len(api.asked) == 2


def test_a_list_that_expires_is_begun_anew(api: ApiServer, tmp_path: Path) -> None:
    """Once: a server that never finishes is an error."""
    api.names, api.page = [("prod", f"a{number}") for number in range(4)], 2
    api.expired = 1
    assert len(accounts(api, tmp_path)()) == 4
    api.expired = 2
    with pytest.raises(KeysUnavailableError, match="ended early"):
        accounts(api, tmp_path)()


BAD: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no JSON": lambda page: b"<html>",
    "another kind": lambda page: page | {"kind": "PodList"},
    "another version": lambda page: page | {"apiVersion": "v2"},
    "no list": lambda page: page | {"items": {}} | {"items": 7},
    "no metadata": lambda page: page | {"items": [{}]},
    "no object": lambda page: page | {"items": ["web"]},
    "no name": lambda page: page | {"items": [{"metadata": {"namespace": "prod"}}]},
    "no namespace": lambda page: page | {"items": [{"metadata": {"name": "web"}}]},
    "a path for a name": lambda page: page | {"items": [{"metadata": {"namespace": "prod", "name": "../x"}}]},
    "not said whether it is all": lambda page: {name: page[name] for name in page if name != "metadata"},
    "a number to continue at": lambda page: page | {"metadata": {"continue": 7}},
    "no end": lambda page: page | {"metadata": {"continue": "MA=="}},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_what_is_no_whole_list_is_none(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], Any]
) -> None:
    """Nobody is taken off the list because the answer was odd; the next call asks again."""
    monkeypatch.setattr(_cluster, "MAX_PAGES", 3)
    clock = Clock()
    source = accounts(api, tmp_path, clock)
    api.change = change
    with pytest.raises(KeysUnavailableError):
        source()
    api.change = lambda page: page
    assert source() == (ServiceAccount(*WEB),)


@pytest.mark.parametrize("status", [403, 404, 410, 429, 500, 503])
def test_a_refusal_is_no_list(api: ApiServer, tmp_path: Path, status: int) -> None:
    """It is told with its status, asked once, and the next look asks again."""
    source = accounts(api, tmp_path)
    api.refusing = status
    with pytest.raises(KeysUnavailableError, match=f"status {status}"):
        source()
    assert len(api.asked) == 1
    api.refusing = 0
    assert source() == (ServiceAccount(*WEB),)


def test_the_token_is_read_anew_and_never_told(api: ApiServer, tmp_path: Path) -> None:
    """Kubernetes replaces it every hour; a wrong one is refused, and shows in no message."""
    source = accounts(api, tmp_path)
    (tmp_path / "credentials" / "token").write_text("another-token")
    with pytest.raises(KeysUnavailableError, match="status 401") as caught:
        source()
    assert "another-token" not in str(caught.value)
    (tmp_path / "credentials" / "token").write_text(TOKEN)
    assert len(source()) == 1


def test_the_token_is_shown_to_the_cluster_only(api: ApiServer, tmp_path: Path) -> None:
    """A server that another authority vouches for sees no request."""
    other = CertificateAuthority.create("cluster.local").bundle.to_pem()
    (tmp_path / "credentials" / "ca.crt").write_bytes(other)
    with pytest.raises(KeysUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
        accounts(api, tmp_path)()
    assert api.asked == []


def test_no_credentials_no_question(api: ApiServer, tmp_path: Path) -> None:
    """Outside a cluster there are none."""
    with pytest.raises(KeysUnavailableError, match="unreadable"):
        ClusterAccounts(url(api), tmp_path / "nowhere")()
    assert api.asked == []


def test_the_command_keeps_identities_for_a_clusters_accounts(api: ApiServer, tmp_path: Path) -> None:
    """``meshsec ca run --accounts https://…``: all of them; where the server fails, what is stored stays."""
    api.names = [WEB, ("test", "cart.v2")]
    folder, store = str(tmp_path / "ca"), tmp_path / "store"
    assert CliRunner().invoke(main, ["ca", "init", "--trust-domain", "td", "--dir", folder]).exit_code == 0
    command = ["ca", "run", "--dir", folder, "--store", str(store), "--once", "--format", "json"]
    command += ["--accounts", url(api), "--credentials", str(tmp_path / "credentials")]
    done = json.loads(CliRunner().invoke(main, command).stdout)
    assert set(done["issued"]) == {"spiffe://td/ns/prod/sa/web", "spiffe://td/ns/test/sa/cart.v2"}
    api.change = BAD["no JSON"]
    failed = CliRunner().invoke(main, command)
    assert failed.exit_code == 1
    assert "unreadable" in json.loads(failed.stdout)["failed"]["accounts"]
    assert (store / "test" / "istio.cart.v2" / "key.pem").exists()


def test_a_token_never_goes_in_plaintext(tmp_path: Path) -> None:
    """Not even where it is asked for."""
    command = ["ca", "run", "--dir", str(tmp_path), "--store", str(tmp_path), "--accounts", "http://localhost"]
    result = CliRunner().invoke(main, command)
    assert (result.exit_code, "https" in result.output) == (2, True)


JSON = st.recursive(st.none() | st.integers() | st.text(), lambda of: st.lists(of) | st.dictionaries(st.text(), of))


@given(items=JSON, metadata=JSON)
@settings(max_examples=50)
def test_any_answer_is_a_list_or_our_error(items: Any, metadata: Any) -> None:
    """Whatever stands where the items and the metadata should."""
    page = {"kind": "ServiceAccountList", "apiVersion": "v1", "metadata": metadata, "items": items}
    try:
        read = _cluster._read(FetchResult(200, json.dumps(page).encode()), "https://x")
        found, more = list(_cluster._accounts(read, "https://x")), _cluster._next_page(read, "https://x")
    except KeysUnavailableError:
        return
    assert (found, more) == ([], more)
