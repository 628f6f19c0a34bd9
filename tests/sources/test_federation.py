"""Bundles of other trust domains: who may give them, when they are asked for, and that none replaces a better one."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.client import HTTPException, HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from answering import answering
from meshsec import Mesh
from meshsec.ca import AuthorityFolder, CertificateAuthority
from meshsec.cli._ca_listen import Accounts, Listening, listening
from meshsec.errors import ConfigError, KeysUnavailableError, MeshsecError
from meshsec.resources import MeshConfig, TrustBundle, Workload, load_mesh
from meshsec.sources import Federation, Identity, IdentityKeeper, StaticIdentity, endpoint_id
from meshsec.sources._bundle_endpoint import MAX_REDIRECTS, fetch_bundle
from meshsec.spiffe import SpiffeId, TrustDomain, X509Bundle, X509BundleSet, X509Svid, write_bundle
from meshsec.tls import StaticMaterial, authorize_id, client_context, load_svid
from pki import NOW, TestCA
from threadless import no_more_threads
from waiting import until
from world import World, serve

TD = TrustDomain("partner.example")
SERVER = "spiffe://partner.example/spire/server"
OURS = SpiffeId.for_service_account("cluster.local", "prod", "web")
TIMEOUT = 20.0

Reply = tuple[int, dict[str, str], bytes]


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server: Any = self.server
        server.heard.append((self.path, self.connection.getpeercert(True)))  # type: ignore[attr-defined]
        status, headers, body = server.replies[self.path]
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    """Says on each path what it is told to, with a certificate that may change."""

    daemon_threads = True

    def __init__(self, svid: X509Svid) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: dict[str, Reply] = {}
        self.heard: list[tuple[str, bytes | None]] = []
        self.show(svid)

    def show(self, svid: X509Svid) -> None:
        """Present this from now on; a client's certificate is welcome, but not demanded."""
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.verify_mode = ssl.CERT_OPTIONAL
        load_svid(self.context, svid)

    def say(self, body: bytes, path: str = "/") -> None:
        """A bundle."""
        self.replies[path] = (200, {"content-type": "application/json"}, body)

    def url(self, path: str = "/", host: str = "localhost") -> str:
        """Of one of its paths."""
        return f"https://{host}:{self.server_port}{path}"

    def finish_request(self, request: Any, client_address: Any) -> None:
        with self.context.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)  # type: ignore[arg-type]

    def handle_error(self, request: object, client_address: object) -> None:
        """Refused by our side; that is asserted."""


@contextmanager
def serving(svid: X509Svid) -> Iterator[_Server]:
    """On a free port."""
    with answering(_Server(svid)) as server:
        yield server
        # A fetch that is under way would be reset, and ssl does not close what is reset before its handshake begins.
        until(lambda: "meshsec-bundle" not in {thread.name for thread in threading.enumerate()})


@pytest.fixture(scope="module")
def partner() -> TestCA:
    """The foreign root."""
    return TestCA(TD.name)


@pytest.fixture
def bundle(partner: TestCA) -> X509Bundle:
    """What the partner publishes."""
    return X509Bundle(TD, [partner.certificate])


def svid(ca: TestCA, uri: str = SERVER, **options: Any) -> X509Svid:
    """A server's certificate."""
    chain, key = ca.leaf(uris=[uri], dns=["localhost"], **options)
    return X509Svid(chain, key)


@pytest.fixture
def server(partner: TestCA, bundle: X509Bundle) -> Iterator[_Server]:
    """The partner's endpoint."""
    with serving(svid(partner)) as server:
        server.say(document(bundle))
        yield server


def document(bundle: X509Bundle, sequence: int = 1, hint: int = 60) -> bytes:
    """A bundle as it is served."""
    return write_bundle(bundle, sequence=sequence, refresh_hint=hint)


def spiffe(server: _Server, path: str = "/") -> TrustBundle:
    """``https_spiffe``."""
    return TrustBundle(endpoint=server.url(path), profile="https_spiffe", spiffe_id=SERVER, bundle="b.pem")


def web(server: _Server, ca_file: Path | None, host: str = "localhost") -> TrustBundle:
    """``https_web``."""
    file = str(ca_file) if ca_file else None
    return TrustBundle(endpoint=server.url(host=host), profile="https_web", ca_file=file)


def test_a_bundle_is_fetched_of_the_server_that_is_meant(server: _Server, bundle: X509Bundle) -> None:
    """Known by its SPIFFE ID; no certificate of ours is shown."""
    found = fetch_bundle(TD, spiffe(server), bundle)
    assert (found.x509, found.sequence, found.refresh_hint) == (bundle, 1, 60)
    assert server.heard == [("/", None)]


def _of_another(partner: TestCA) -> X509Svid:
    return svid(partner, "spiffe://partner.example/spire/agent")


def _of_another_root(_: TestCA) -> X509Svid:
    return svid(TestCA(TD.name))


def _of_another_domain(partner: TestCA) -> X509Svid:
    return svid(partner, "spiffe://other.example/spire/server")


def _expired(partner: TestCA) -> X509Svid:
    return svid(partner, not_before=NOW - 7200, not_after=NOW - 3600)


IMPOSTORS = [_of_another, _of_another_root, _of_another_domain, _expired]


@pytest.mark.parametrize("made", IMPOSTORS, ids=lambda made: made.__name__.strip("_"))
def test_nobody_else_is_asked(
    server: _Server, partner: TestCA, bundle: X509Bundle, made: Callable[[TestCA], X509Svid]
) -> None:
    """Whatever its host name: the request is not even sent."""
    server.show(made(partner))
    with pytest.raises(KeysUnavailableError):
        fetch_bundle(TD, spiffe(server), bundle)
    assert server.heard == []


def test_without_a_voucher_nobody_is_asked(server: _Server) -> None:
    """The trust domain that the server is in has no bundle here."""
    with pytest.raises(KeysUnavailableError, match="nothing is known"):
        fetch_bundle(TD, spiffe(server), None)


def test_a_web_server_is_known_by_its_name(server: _Server, partner: TestCA, tmp_path: Path) -> None:
    """By one of the authorities that are given, or the system's, and under its own name only."""
    (tmp_path / "ca.pem").write_bytes(partner.pem)
    assert fetch_bundle(TD, web(server, tmp_path / "ca.pem"), None).sequence == 1
    for wrong in (web(server, tmp_path / "ca.pem", host="127.0.0.1"), web(server, None)):
        with pytest.raises(KeysUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            fetch_bundle(TD, wrong, None)


def test_a_redirect_is_followed_for_once(server: _Server, partner: TestCA, bundle: X509Bundle) -> None:
    """Also to another server with the same ID; each fetch begins at the configured URL again."""
    with serving(svid(partner)) as other:
        other.say(document(bundle, 2), "/moved")
        server.replies["/"] = (308, {"location": "/here"}, b"")
        server.replies["/here"] = (302, {"location": other.url("/moved")}, b"")
        for _ in range(2):
            assert fetch_bundle(TD, spiffe(server), bundle).sequence == 2
    assert [path for path, _ in server.heard] == ["/", "/here"] * 2


def test_a_redirect_does_not_lead_to_somebody_else(server: _Server, partner: TestCA, bundle: X509Bundle) -> None:
    """The new server is held to the same profile and the same ID."""
    with serving(svid(partner, "spiffe://partner.example/cdn")) as other:
        other.say(document(bundle, 2))
        server.replies["/"] = (302, {"location": other.url()}, b"")
        with pytest.raises(KeysUnavailableError):
            fetch_bundle(TD, spiffe(server), bundle)
        assert other.heard == []


@pytest.mark.parametrize(
    "target",
    [
        "http://localhost/",
        "https://user@localhost/",
        "https://user:pw@localhost/",
        "file:///etc/passwd",
        "https://",
        "//[",
    ],
)
def test_a_redirect_leads_to_bundle_endpoints_only(server: _Server, bundle: X509Bundle, target: str) -> None:
    """https, without user and password."""
    server.replies["/"] = (302, {"location": target}, b"")
    with pytest.raises(KeysUnavailableError):
        fetch_bundle(TD, spiffe(server), bundle)


def test_redirects_end(server: _Server, bundle: X509Bundle) -> None:
    """A circle is left."""
    server.replies["/"] = (302, {"location": "/"}, b"")
    with pytest.raises(KeysUnavailableError, match="redirects"):
        fetch_bundle(TD, spiffe(server), bundle)
    assert len(server.heard) == MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    "reply",
    [
        (404, {}, b"{}"),
        (204, {}, b""),
        (503, {}, b""),
        (302, {}, b""),
        (200, {}, b"no JSON"),
        (200, {}, b"{}"),
        (200, {}, b'{"keys": [], "keys": []}'),
        (200, {}, b'{"keys": []}' + b" " * (4 << 20)),
    ],
    ids=["404", "204", "503", "nowhere", "text", "no keys", "twice", "too large"],
)
def test_an_answer_that_is_no_bundle_is_refused(server: _Server, bundle: X509Bundle, reply: Reply) -> None:
    """With an error that a keeper understands."""
    server.replies["/"] = reply
    with pytest.raises(MeshsecError):
        fetch_bundle(TD, spiffe(server), bundle)


# ------------------------------------------------------------------ keeping them


@dataclass
class Kept:
    """A keeper of an identity whose foreign bundles come as a test says, and the time."""

    relations: dict[str, TrustBundle | str]
    now: float = 1000.0
    own: CertificateAuthority = field(default_factory=lambda: CertificateAuthority.create("cluster.local"))

    def __post_init__(self) -> None:
        self.federation = Federation(self.relations, clock=lambda: self.now)
        source = StaticIdentity(Identity(self.own.issue_x509_svid(OURS), self.own.bundle))
        self.keeper = IdentityKeeper(source, expected=OURS, foreign=self.federation)

    def bundle(self, name: str = TD.name) -> X509Bundle | None:
        """What is trusted after another look."""
        self.keeper.refresh(time.time())
        return self.keeper.material.current().bundles.get(TrustDomain(name))

    def failure(self) -> str:
        """What last failed, after another look."""
        self.keeper.refresh(time.time())
        return str(self.keeper.status()["federation"][0]["failure"] or "")


def bootstrapped(server: _Server, folder: Path, bundle: X509Bundle) -> Kept:
    """A relation with an endpoint, and a file to begin with."""
    (folder / "b.pem").write_bytes(bundle.to_pem())
    return Kept({TD.name: spiffe(server).below(folder)})


def test_a_file_counts_until_the_first_fetch(
    server: _Server, partner: TestCA, bundle: X509Bundle, tmp_path: Path
) -> None:
    """And then what was fetched does."""
    more = X509Bundle(TD, [partner.certificate, TestCA(TD.name).certificate])
    server.say(document(more))
    kept = bootstrapped(server, tmp_path, bundle)
    assert kept.bundle() in (bundle, more)
    until(lambda: kept.bundle() == more)
    status = kept.keeper.status()["federation"]
    assert status == [{"trust_domain": TD.name, "origin": server.url(), "age": 0.0, "failure": None}]


def test_an_endpoint_is_asked_as_often_as_it_says(server: _Server, bundle: X509Bundle, tmp_path: Path) -> None:
    """Also after a failure, and no sooner."""
    kept = bootstrapped(server, tmp_path, bundle)
    kept.bundle()
    until(lambda: kept.keeper.status()["federation"][0]["age"] is not None)
    for round_, reply in enumerate([(503, {}, b""), server.replies["/"]], 1):
        server.replies["/"] = reply
        kept.now += 53  # nine tenths of the hint, at the least
        kept.bundle()
        assert len(server.heard) == round_
        kept.now += 8
        kept.bundle()
        until(lambda: len(server.heard) == round_ + 1)  # noqa: B023
        until(lambda: bool(kept.failure()) == (round_ == 1))  # noqa: B023
        assert kept.bundle() == bundle


def test_a_hint_that_is_too_low_is_not_followed(server: _Server, bundle: X509Bundle, tmp_path: Path) -> None:
    """A partner does not decide that we do nothing else."""
    server.say(document(bundle, hint=0))
    kept = bootstrapped(server, tmp_path, bundle)
    kept.bundle()
    until(lambda: kept.keeper.status()["federation"][0]["age"] is not None)
    kept.now += 9
    kept.bundle()
    assert len(server.heard) == 1


def test_a_hint_that_is_too_high_is_not_followed(server: _Server, bundle: X509Bundle, tmp_path: Path) -> None:
    """A partner that said ten years once is still asked each day: what it withdraws is seen."""
    server.say(document(bundle, hint=10 * 365 * 86_400))
    kept = bootstrapped(server, tmp_path, bundle)
    kept.bundle()
    until(lambda: kept.keeper.status()["federation"][0]["age"] is not None)
    kept.now += 0.89 * 86_400
    kept.bundle()
    assert len(server.heard) == 1
    kept.now += 0.11 * 86_400 + 1
    kept.bundle()
    until(lambda: len(server.heard) == 2)


SEQUENCES = [(5, 4, False), (5, 5, True), (5, 6, True), (5, None, True), (None, 1, True)]


@pytest.mark.parametrize(("held", "offered", "taken"), SEQUENCES)
def test_an_older_bundle_is_not_taken(
    server: _Server,
    partner: TestCA,
    bundle: X509Bundle,
    tmp_path: Path,
    held: int | None,
    offered: int | None,
    taken: bool,
) -> None:
    """By its number; without one, what was fetched last counts (section 4.2)."""

    def numbered(bundle: X509Bundle, sequence: int | None) -> bytes:
        given = json.loads(document(bundle))
        del given["spiffe_sequence"]
        return json.dumps(given if sequence is None else {**given, "spiffe_sequence": sequence}).encode()

    server.say(numbered(bundle, held))
    kept = bootstrapped(server, tmp_path, bundle)
    kept.bundle()
    until(lambda: kept.keeper.status()["federation"][0]["age"] is not None)
    other = X509Bundle(TD, [TestCA(TD.name).certificate])
    server.say(numbered(other, offered))
    kept.now += 60
    kept.bundle()
    until(lambda: kept.bundle() == other if taken else "older" in kept.failure())
    assert (kept.bundle() == other) == taken


def test_the_latest_bundle_vouches_for_the_server(
    server: _Server, partner: TestCA, bundle: X509Bundle, tmp_path: Path
) -> None:
    """So a partner can replace its root without a word to us; the file alone would not do any more."""
    kept = bootstrapped(server, tmp_path, bundle)
    second = TestCA(TD.name)
    both = X509Bundle(TD, [partner.certificate, second.certificate])
    server.say(document(both, 2))
    until(lambda: kept.bundle() == both)
    server.show(svid(second))
    alone = X509Bundle(TD, [second.certificate])
    server.say(document(alone, 3))
    kept.now += 60
    until(lambda: kept.bundle() == alone)
    with pytest.raises(KeysUnavailableError):
        fetch_bundle(TD, spiffe(server), bundle)


def test_a_bundle_without_keys_revokes_everybody(server: _Server, bundle: X509Bundle, tmp_path: Path) -> None:
    """It is no failure."""
    server.say(b'{"keys": [], "spiffe_sequence": 2}')
    kept = bootstrapped(server, tmp_path, bundle)
    until(lambda: (found := kept.bundle()) is not None and not found.x509_authorities)
    assert not kept.failure()


def test_another_trust_domain_may_vouch(partner: TestCA, bundle: X509Bundle, tmp_path: Path) -> None:
    """For an endpoint that is not in the trust domain whose bundle it serves: that one's latest bundle counts."""
    third = TestCA("third.example")
    (tmp_path / "third.pem").write_bytes(third.pem)
    with serving(svid(third, "spiffe://third.example/bundles")) as server:
        server.say(document(bundle))
        relation = TrustBundle(
            endpoint=server.url(), profile="https_spiffe", spiffe_id="spiffe://third.example/bundles"
        )
        kept = Kept({TD.name: relation, "third.example": str(tmp_path / "third.pem")})
        until(lambda: kept.bundle() == bundle)


def test_our_own_trust_domain_may_vouch(bundle: X509Bundle) -> None:
    """An endpoint of ours serves what we have fetched of others."""
    own = CertificateAuthority.create("cluster.local")
    with serving(own.issue_x509_svid("spiffe://cluster.local/ns/infra/sa/bundles")) as server:
        server.say(document(bundle))
        id_ = "spiffe://cluster.local/ns/infra/sa/bundles"
        kept = Kept({TD.name: TrustBundle(endpoint=server.url(), profile="https_spiffe", spiffe_id=id_)}, own=own)
        until(lambda: kept.bundle() == bundle)


def test_a_forked_process_asks_for_what_its_parent_had_not_got(server: _Server, bundle: X509Bundle) -> None:
    """The thread that fetched did not come along."""
    relation = TrustBundle(endpoint=server.url(), profile="https_web")
    kept = Kept({TD.name: relation})
    until(kept.failure)
    origin: Any = kept.federation._origins[TD]
    due = origin.due_at
    origin.process = -1
    kept.now += 100
    kept.bundle()
    assert origin.due_at > due


@pytest.mark.parametrize("form", ["PEM", "JSON"])
def test_a_file_is_looked_at_anew(bundle: X509Bundle, tmp_path: Path, form: str) -> None:
    """A bad one never replaces a good one."""
    file = tmp_path / "partner"
    write = {"PEM": X509Bundle.to_pem, "JSON": document}[form]
    file.write_bytes(write(bundle))  # type: ignore[operator]
    kept = Kept({TD.name: str(file)})
    assert kept.bundle() == bundle
    generation = kept.keeper.material.current().generation
    file.write_bytes(file.read_bytes()[:-40])
    kept.bundle()
    assert kept.failure()
    file.unlink()
    assert "No such file" in kept.failure()
    assert (kept.bundle(), kept.keeper.material.current().generation) == (bundle, generation)
    other = X509Bundle(TD, [TestCA(TD.name).certificate])
    file.write_bytes(write(other))  # type: ignore[operator]
    kept.bundle()
    assert not kept.failure()
    assert (kept.bundle(), kept.keeper.material.current().generation) == (other, generation + 1)


def test_a_file_that_is_being_written_is_waited_for(bundle: X509Bundle, tmp_path: Path) -> None:
    """Its first authority alone would be a bundle; it counts when nothing has changed for one look."""
    file = tmp_path / "partner.pem"
    file.write_bytes(bundle.to_pem())
    kept = Kept({TD.name: str(file)})
    first, second = TestCA(TD.name), TestCA(TD.name)
    file.write_bytes(first.pem)
    assert kept.bundle() == bundle
    file.write_bytes(first.pem + second.pem)
    assert kept.bundle() == bundle
    assert kept.bundle() == X509Bundle(TD, [first.certificate, second.certificate])
    file.write_bytes(first.pem)
    kept.bundle()
    assert kept.bundle() == X509Bundle(TD, [first.certificate])


def test_no_thread_is_a_failed_fetch(server: _Server, bundle: X509Bundle, tmp_path: Path) -> None:
    """At a process's limit of threads; it is tried again an interval later, and our own identity goes on."""

    kept = bootstrapped(server, tmp_path, bundle)
    with no_more_threads():
        assert kept.bundle() == bundle
        assert "new thread" in kept.failure()
    kept.now += 300
    until(lambda: kept.bundle() and not kept.failure())


def test_a_file_that_cannot_be_used_is_an_error_at_the_start(tmp_path: Path) -> None:
    """As any other mistake in mesh.yaml."""
    with pytest.raises(ConfigError, match=r"partner\.example"):
        Federation({TD.name: str(tmp_path / "missing.pem")})


def test_bundles_of_others_go_on_while_our_own_source_fails(bundle: X509Bundle, tmp_path: Path) -> None:
    """Theirs are not ours."""
    file = tmp_path / "partner.pem"
    file.write_bytes(bundle.to_pem())
    kept = Kept({TD.name: str(file)})
    kept.bundle()
    kept.keeper._source = StaticIdentity(Identity(kept.own.issue_x509_svid(OURS), bundle))
    other = X509Bundle(TD, [TestCA(TD.name).certificate])
    file.write_bytes(other.to_pem())
    kept.bundle()
    assert kept.bundle() == other
    assert kept.keeper.status()["failure"]


FORMS = """
trustBundles:
  file.example: f.pem
  web.example: {endpoint: https://web.example/bundle?x=1, profile: https_web, caFile: c.pem}
  partner.example:
    {endpoint: "https://[::1]:8443", profile: https_spiffe, spiffeId: spiffe://partner.example/s, bundle: b.json}
  third.example: {endpoint: https://third.example, profile: https_spiffe, spiffeId: spiffe://partner.example/s}
  ours.example: {endpoint: https://ours.example, profile: https_spiffe, spiffeId: spiffe://cluster.local/s}
  agent.example: {workloadApi: true}
"""


def test_every_form_of_mesh_yaml_is_read(tmp_path: Path) -> None:
    """Files are seen from its folder."""
    (tmp_path / "mesh.yaml").write_text(FORMS)
    found = load_mesh(tmp_path).config.trust_bundles
    assert found["file.example"] == TrustBundle(bundle=str(tmp_path / "f.pem"))
    assert found["web.example"].ca_file == str(tmp_path / "c.pem")  # type: ignore[union-attr]
    assert found["partner.example"].bundle == str(tmp_path / "b.json")  # type: ignore[union-attr]
    assert found["third.example"].spiffe_id == "spiffe://partner.example/s"  # type: ignore[union-attr]
    assert found["agent.example"] == TrustBundle(workload_api=True)


@contextmanager
def published(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> Iterator[tuple[AuthorityFolder, Callable[[], None], int]]:
    """A partner's authority and its endpoint: the folder, what its process does now and then, and the port."""
    made = CertificateAuthority.create(TD, now=time.time() - 86_400)
    authority = AuthorityFolder.create(folder / "ca", made)
    options = Listening(None, None, None, (), 3600.0, ("127.0.0.1", 0))
    with caplog.at_level("INFO", "meshsec.ca"), listening(options, authority, Accounts(list, TD)) as refresh:
        yield authority, refresh, int(caplog.text.split(" port ")[1].split()[0])


def test_an_authority_of_ours_is_federated_with(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its endpoint tells everything that the bundle has, and the rotation of its root is followed."""
    with published(tmp_path, caplog) as (authority, refresh, port):
        (tmp_path / "first.json").write_bytes(authority.authority.bundle_document())
        relation = TrustBundle(
            endpoint=f"https://127.0.0.1:{port}/",
            profile="https_spiffe",
            spiffe_id=str(endpoint_id(TD)),
            bundle=str(tmp_path / "first.json"),
        )
        kept = Kept({TD.name: relation})
        for step in (authority.publish_root, lambda: authority.activate_root(settle=0), None):
            expected = authority.authority.bundle
            until(lambda: kept.bundle() == expected)  # noqa: B023
            if step is not None:
                step()
                refresh()
                kept.now += 400
        found = fetch_bundle(TD, relation, authority.authority.bundle)
        assert found.jwt_keys
        assert found.sequence == authority.authority.state.sequence
        with pytest.raises(KeysUnavailableError, match="404"):
            fetch_bundle(TD, replace(relation, endpoint=f"{relation.endpoint}other"), authority.authority.bundle)


def test_workloads_of_two_trust_domains_talk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The one that is federated with is let in; one whose authority merely says so is not."""
    with published(tmp_path, caplog) as (authority, _, port):
        (tmp_path / "first.pem").write_bytes(authority.authority.bundle.to_pem())
        relation = TrustBundle(
            endpoint=f"https://127.0.0.1:{port}/",
            profile="https_spiffe",
            spiffe_id=str(endpoint_id(TD)),
            bundle=str(tmp_path / "first.pem"),
        )
        ours = World()
        config = MeshConfig(trust_bundles={TD.name: relation}, allow_no_policy=True)
        workload = Workload(name="web", namespace="prod", service_account="web")
        peer = f"spiffe://{TD}/ns/prod/sa/client"
        impostor = CertificateAuthority.create(TD)
        with (
            Mesh(workload=workload, config=config, identity=ours.identity("web")) as mesh,
            serve(mesh.server_context()) as server,
        ):
            for issuer, expected in ((authority.authority, True), (impostor, False)):
                trusted = X509BundleSet([ours.authority.bundle, issuer.bundle])
                context = client_context(
                    StaticMaterial(issuer.issue_x509_svid(peer), trusted), authorize=authorize_id(ours.id("web"))
                )
                assert answers(server.server_port, context) is expected


def answers(port: int, context: ssl.SSLContext) -> bool:
    """Whether a request is answered; how a refusal looks is TLS's affair."""
    connection = HTTPSConnection("localhost", port, context=context, timeout=TIMEOUT)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
