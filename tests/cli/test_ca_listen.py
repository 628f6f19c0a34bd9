"""An authority on real sockets: who gets which identity, and who gets none."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from endpoint import CART, TD, WEB, World, rules, token
from meshsec import Connection, HttpRequest, Mesh
from meshsec.ca import CertificateAuthority, new_request
from meshsec.cli import main
from meshsec.errors import ConfigError, IssuanceError, KeysUnavailableError, MeshsecError, SvidError
from meshsec.sources import IdentityKeeper, endpoint_id
from meshsec.spiffe import X509Svid, check_leaf
from threadless import no_more_threads
from tokens import signing_key
from waiting import PATIENCE, until

HOUR = 3600.0


@pytest.fixture
def world(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    """An authority that listens."""
    with World.open(tmp_path, caplog) as world:
        yield world


def issued(answer: tuple[int, Any]) -> x509.Certificate:
    """The leaf of a good answer."""
    status, found = answer
    assert status == 200, found
    return x509.load_pem_x509_certificate(found["certChain"][0].encode())


def refused(answer: tuple[int, Any]) -> tuple[int, str]:
    """Status and code of a refusal, which brings nothing else."""
    status, found = answer
    assert set(found) == {"code", "message"}
    return status, found["code"]


# ---------------------------------------------------------------- who asks


def test_a_token_gets_its_own_account(world: World) -> None:
    """The identity is the token's; the record says whose token it was."""
    assert check_leaf(issued(world.by_token(token("prod:cart")))) == CART
    *_, last = world.authority.issued()
    assert (last.id, last.requester) == (str(CART), "csr: token of https://issuer.example")


def test_a_certificate_gets_its_own_identity_again(world: World) -> None:
    """Renewal of exactly what was shown, whatever else a request brings along."""
    svid = world.authority.authority.issue_x509_svid(WEB)
    fresh = issued(world.by_certificate(svid, authorization=f"Bearer {token('prod:cart')}"))
    assert check_leaf(fresh) == WEB
    assert fresh.serial_number != svid.serial


BAD_TOKENS: dict[str, Callable[[], str | None]] = {
    "none": lambda: None,
    "another audience": lambda: token(aud=["somebody-else"]),
    "no audience": lambda: token(aud=None),
    "another issuer": lambda: token(iss="https://evil.example"),
    "another key": lambda: token(key=signing_key(name="k2")),
    "expired": lambda: token(exp=int(time.time()) - 120),
    "a user's": lambda: token(sub="alice"),
    "one part too many": lambda: token("prod:web:x"),
    "no namespace": lambda: token(":web"),
    "a path in the name": lambda: token("prod:web/../cart"),
    "a node's": lambda: token(sub="system:node:prod:web"),
}


@pytest.mark.parametrize("make", BAD_TOKENS.values(), ids=BAD_TOKENS)
def test_a_token_that_proves_nothing_gets_nothing(world: World, make: Callable[[], str | None]) -> None:
    """401, always in the same words."""
    assert refused(world.by_token(make())) == (401, "unauthenticated")


def test_an_account_that_is_gone_gets_nothing(world: World) -> None:
    """Neither by a token nor by a certificate that is still valid."""
    svid = world.authority.authority.issue_x509_svid(WEB)
    assert issued(world.by_certificate(svid))
    world.accounts.remove(WEB)
    world.look()
    assert refused(world.by_certificate(svid)) == (403, "account_unknown")
    assert refused(world.by_token(token())) == (403, "account_unknown")
    assert issued(world.by_token(token("prod:cart")))


def test_a_list_that_cannot_be_read_changes_nothing(world: World) -> None:
    """The last good one counts; the endpoint's own name is never an account's."""
    world.accounts.append(endpoint_id(TD))
    with pytest.raises(ConfigError) as caught:
        world.look()
    assert caught.value.code == "account_reserved"
    assert issued(world.by_token(token()))


def _expired(world: World) -> X509Svid:
    return world.authority.authority.issue_x509_svid(WEB, ttl=HOUR, now=time.time() - 2 * HOUR)


def _foreign(world: World) -> X509Svid:
    return CertificateAuthority.create(TD).issue_x509_svid(WEB)


def _revoked(world: World) -> X509Svid:
    svid = world.authority.authority.issue_x509_svid(WEB)
    world.authority.revoke(f"{svid.serial:x}")
    world.look()
    return svid


@pytest.mark.parametrize("make", [_expired, _foreign, _revoked])
def test_a_certificate_that_does_not_hold_gets_no_connection(world: World, make: Callable[[World], X509Svid]) -> None:
    """Refused in the handshake."""
    svid = make(world)
    with pytest.raises(OSError):
        world.by_certificate(svid)


def test_each_listener_believes_its_own_evidence_only(world: World) -> None:
    """Without a certificate the first one has no connection; a certificate is nothing to the second one."""
    mutual, plain = world.ports
    world.ports = (plain, mutual)
    with pytest.raises(OSError):
        world.by_token(token())
    svid = world.authority.authority.issue_x509_svid(WEB)
    assert refused(world.by_certificate(svid)) == (401, "unauthenticated")


# ---------------------------------------------------------------- what is asked for


def csr(*names: x509.GeneralName, ca: bool = False) -> bytes:
    """A request with wishes."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), SHA256()).public_bytes(Encoding.PEM)


URI = x509.UniformResourceIdentifier
WISHES = {
    "a CA": csr(ca=True),
    "another identity": csr(URI(str(CART))),
    "two identities": csr(URI(str(WEB)), URI(str(CART))),
    "a name of the Web": csr(x509.DNSName("bank.example")),
}


@pytest.mark.parametrize("request_pem", WISHES.values(), ids=WISHES)
def test_wishes_are_ignored(world: World, request_pem: bytes) -> None:
    """Of a request the key is taken and nothing else."""
    leaf = issued(world.by_token(token(), request_pem))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [URI(str(WEB))]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert leaf.public_key() == x509.load_pem_x509_csr(request_pem).public_key()


def test_a_flipped_bit_of_the_signature_is_refused(world: World) -> None:
    """Whoever asks must hold the key."""
    der = bytearray(x509.load_pem_x509_csr(new_request()[0]).public_bytes(Encoding.DER))
    assert issued(world.by_token(token(), bytes(der)))
    der[-1] ^= 1
    assert refused(world.by_token(token(), bytes(der))) == (400, "request_signature")


@pytest.mark.parametrize(
    ("body", "path", "status"),
    [(b"", "/v1/svid", 400), (b"x" * 60_000, "/v1/svid", 400), (b"", "/", 404), (b"", "/v1/svid?a", 404)],
)
def test_nonsense_is_refused(world: World, body: bytes, path: str, status: int) -> None:
    """With a status that says whose fault it is."""
    assert world.by_token(token(), body, path)[0] == status


@pytest.mark.parametrize("length", ["70000", "-1", "1_0", "0x1", ""])
def test_a_body_has_one_small_length(world: World, length: str) -> None:
    """Nothing more is read."""
    svid = world.authority.authority.issue_x509_svid(WEB)
    assert refused(world.by_certificate(svid, b"", **{"content-length": length})) == (400, "bad_request")


def test_whoever_dawdles_holds_nobody_up(world: World) -> None:
    """A connection that says nothing has its own thread."""
    with socket.create_connection(("127.0.0.1", world.ports[1]), timeout=10):
        assert issued(world.by_token(token()))


def test_too_many_connections_are_sent_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their number is bounded, and so is the time that one may take."""
    monkeypatch.setattr("meshsec.cli._ca_http.MOST_CONNECTIONS", 1)
    monkeypatch.setattr("meshsec.cli._ca_http.PATIENCE", 1.0)
    with (
        World.open(tmp_path, caplog) as world,
        socket.create_connection(("127.0.0.1", world.ports[1]), timeout=10) as idle,
    ):
        with pytest.raises(OSError):
            world.by_token(token())
        assert idle.recv(1) == b""
        until(lambda: answered(world))


def answered(world: World) -> bool:
    """Whether a token is answered with a certificate; a connection that breaks is none."""
    with suppress(OSError):
        return world.by_token(token())[0] == 200
    return False


def test_what_cannot_be_recorded_is_not_issued(world: World) -> None:
    """As on a full disk: it is nobody's fault but the authority's, and may be asked again."""
    record = world.folder / "ca/issued.jsonl"
    record.rename(world.folder / "kept")
    record.mkdir()
    assert refused(world.by_token(token())) == (503, "unavailable")
    record.rmdir()
    (world.folder / "kept").rename(record)
    assert issued(world.by_token(token()))


def test_no_secret_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a token nor a key, well or badly."""
    bearers = [token(), token(aud=["x"]), token("prod:nobody")]
    for bearer in bearers:
        world.by_token(bearer)
    world.identity().read(time.time())
    assert not any(part in caplog.text for bearer in bearers for part in bearer.split("."))
    assert "PRIVATE KEY" not in caplog.text


# ---------------------------------------------------------------- the workload's side


def test_the_first_is_had_by_token_and_the_next_by_certificate(world: World) -> None:
    """Renewed at half its life with a new key; between, nothing is asked."""
    now, source = time.time(), world.identity()
    first = source.read(now)
    (world.folder / "token").unlink()
    assert source.read(now) is first
    world.clock += 60
    second = source.read(now + 0.6 * HOUR)
    assert second.svid.id == first.svid.id == WEB
    assert second.svid.private_key != first.svid.private_key
    assert [item.requester[:8] for item in world.authority.issued()] == ["ca endpo", "csr: tok", "csr: cer"]


def test_without_a_renewal_address_everything_is_had_by_token(world: World) -> None:
    """The token is read anew each time."""
    now, source = time.time(), world.identity(renewal=None)
    source.read(now)
    (world.folder / "token").write_text("nonsense")
    world.clock += 60
    with pytest.raises(IssuanceError, match="status 401 unauthenticated"):
        source.read(now + 0.6 * HOUR)


def test_when_renewal_fails_the_token_helps(world: World) -> None:
    """Nobody listens for certificates any more."""
    now, source = time.time(), world.identity(renewal="https://localhost:1")
    first = source.read(now)
    world.clock += 60
    assert source.read(now + 0.6 * HOUR).svid.serial != first.svid.serial


def test_an_authority_that_is_away_is_asked_less_and_less_often(world: World) -> None:
    """The failure is told meanwhile; when it is back, all is well at the next attempt."""
    source, away = world.identity(), world.folder / "away"
    (world.folder / "token").rename(away)
    for pause in (1, 2, 4):
        with pytest.raises(KeysUnavailableError, match="unreadable"):
            source.read(time.time())
        world.clock += pause - 0.1
        away.rename(world.folder / "token")
        with pytest.raises(KeysUnavailableError):
            source.read(time.time())
        (world.folder / "token").rename(away)
        world.clock += 0.1
    away.rename(world.folder / "token")
    assert source.read(time.time()).svid.id == WEB


def test_at_the_limit_of_threads_it_is_asked_less_often_too(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """What waits for an answer needs one: without, one line says so, and the last good identity serves."""
    keeper, now = IdentityKeeper(world.identity(renewal=None), expected=WEB), time.time()
    keeper.load(now)
    before = keeper.material.current()

    caplog.clear()
    world.clock += 60
    with no_more_threads() as attempts:
        for _ in range(31):
            world.clock += 1
            keeper.refresh(now + 0.6 * HOUR)
    assert keeper.material.current() is before
    assert len(attempts) == 5
    [line] = [record.getMessage() for record in caplog.records if record.name == "meshsec.identity"]
    assert "can't start new thread" in line
    assert "the last good identity keeps serving" in line
    assert str(keeper.status()["failure"]) in line
    world.clock += 60
    keeper.refresh(now + 0.6 * HOUR)
    assert keeper.material.current() is not before
    assert keeper.status()["failure"] is None


def test_new_roots_and_lists_arrive_within_minutes(world: World) -> None:
    """Without a new certificate; and one that an old root signed is replaced when that root goes."""
    now, source = time.time(), world.identity()
    first = source.read(now)
    world.authority.publish_root()
    world.clock += 301
    second = source.read(now)
    assert (second.svid, len(second.bundle.x509_authorities)) == (first.svid, 2)
    world.authority.activate_root(settle=0)
    world.look()
    world.authority.retire_old_roots(force=True)
    world.look()
    world.clock += 301
    third = source.read(now)
    assert third.svid.serial != first.svid.serial
    assert third.bundle == world.authority.authority.bundle


def test_a_revoked_certificate_is_replaced_by_token(world: World) -> None:
    """It learns so from the list, and does not try to renew with it."""
    now, source = time.time(), world.identity()
    first = source.read(now)
    world.authority.revoke(f"{first.svid.serial:x}")
    world.look()
    world.clock += 301
    second = source.read(now)
    assert (second.svid.serial != first.svid.serial, len(second.revoked.entries)) == (True, 1)
    assert [item.requester[:8] for item in world.authority.issued()][1:] == ["csr: tok", "csr: tok"]


def test_the_token_of_another_account_is_noticed(world: World) -> None:
    """The authority issues what the token says; the workload does not take it."""
    (world.folder / "token").write_text(token("prod:cart"))
    with pytest.raises(SvidError, match="whose token") as caught:
        world.identity().read(time.time())
    assert caught.value.code == "wrong_identity"


@pytest.mark.parametrize(("later", "code"), [(0, None), (2 * HOUR, "expired"), (-2 * HOUR, "not_yet_valid")])
def test_an_answer_that_does_not_hold_here_is_not_taken(world: World, later: float, code: str | None) -> None:
    """What the authority sends is verified as a peer would: here the clocks do not agree, or do."""
    source = world.identity()
    if code is None:
        assert source.read(time.time() + later).svid.id == WEB
        return
    with pytest.raises(SvidError) as caught:
        source.read(time.time() + later)
    assert caught.value.code == code


@pytest.mark.parametrize("root", ["missing", "foreign"])
def test_the_token_is_shown_to_the_authority_only(world: World, root: str) -> None:
    """A server that rootCert does not vouch for gets no request."""
    if root == "foreign":
        (world.folder / root).write_bytes(CertificateAuthority.create(TD).bundle.to_pem())
    with pytest.raises(KeysUnavailableError):
        world.identity(root_cert=world.folder / root).read(time.time())
    assert len(list(world.authority.issued())) == 1


def test_another_name_of_the_server_is_refused(world: World) -> None:
    """The host's name is checked against the certificate."""
    with pytest.raises(KeysUnavailableError, match=r"mismatch|doesn't match"):
        world.identity(url=f"https://127.0.0.1:{world.ports[1]}").read(time.time())


# ---------------------------------------------------------------- end to end


def mesh_yaml(world: World) -> Path:
    """A mesh whose workload gets its identity so."""
    mutual, plain = world.ports
    (world.folder / "mesh").mkdir()
    (world.folder / "mesh/mesh.yaml").write_text(
        f"""
workloads:
  web:
    namespace: prod
    serviceAccount: web
    identity:
      csr: https://localhost:{plain}
      renewal: https://localhost:{mutual}
      tokenFile: ../token
      rootCert: ../root.pem
allowNoPolicy: true
"""
    )
    return world.folder / "mesh"


def test_a_mesh_gets_its_identity_so(world: World) -> None:
    """Loaded from mesh.yaml; its contexts shake hands with each other."""
    with Mesh.load(mesh_yaml(world)) as mesh:
        status = mesh.status()["identity"]
        assert (status["id"], status["failure"]) == (str(WEB), None)
        server, client = mesh.server_context(), mesh.client_context(authorize=str(WEB))
        assert shake(server, client)
        request = HttpRequest("GET", "/", "web.prod", [], "https")
        assert mesh.decide(Connection(), request).allowed


def shake(server: ssl.SSLContext, client: ssl.SSLContext) -> bool:
    """Whether a handshake in memory ends well."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [server.wrap_bio(up, down, server_side=True), client.wrap_bio(down, up, server_hostname="web.prod")]
    done: set[int] = set()
    for _ in range(6):
        for number, end in enumerate(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            done.add(number)
    return len(done) == 2


def test_an_authority_that_hangs_delays_no_policy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Identity and policy are kept fresh in threads of their own."""
    monkeypatch.setattr("meshsec.mesh._mesh._POLL_SECONDS", 0.01)
    path = mesh_yaml(world) / "mesh.yaml"
    asked, over = threading.Event(), threading.Event()

    def hang(_self: object, _now: float) -> None:
        asked.set()
        over.wait(2 * PATIENCE)

    monkeypatch.setattr("meshsec.sources._identity.IdentityKeeper.refresh", hang)
    with Mesh.load(path) as mesh:
        assert asked.wait(10)
        path.write_text(path.read_text() + "services: {new.prod: {ids: ['spiffe://cluster.local/x']}}\n")
        until(lambda: mesh.naming.knows("new.prod"))
        assert not over.is_set()
        over.set()


def test_a_mesh_with_another_ones_token_does_not_start(world: World) -> None:
    """Waiting would not mend that."""
    (world.folder / "token").write_text(token("prod:cart"))
    with pytest.raises(MeshsecError, match="whose token"):
        Mesh.load(mesh_yaml(world))


def test_the_command_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``meshsec ca run --listen-token`` as a process."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "accounts.yaml").write_text("- {namespace: prod, name: web}\n")
    (tmp_path / "rules.yaml").write_text(rules())
    assert CliRunner().invoke(main, ["ca", "init", "--trust-domain", "cluster.local"]).exit_code == 0
    command = [sys.executable, "-c", "from meshsec.cli import main; main()", "ca", "run", "--store", "store"]
    command += ["--accounts", "accounts.yaml", "--listen", "127.0.0.1:0", "--listen-token", "127.0.0.1:0"]
    command += ["--token-rules", "rules.yaml", "--listen-name", "localhost"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        heard = [line for line in (process.stderr.readline() for _ in range(2)) if "listening on" in line]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert ["mutual TLS" in line for line in heard] == [True, False]
    assert process.returncode == 0


MISTAKES = [
    (["--listen", "8443"], "host:port"),
    (["--listen", "x:99999"], "host:port"),
    (["--listen-token", "127.0.0.1:0", "--token-rules", "rules.yaml"], "--listen-name"),
    (["--listen-token", "127.0.0.1:0", "--listen-name", "ca.mesh"], "--token-rules"),
    (["--listen", "127.0.0.1:0", "--once"], "--once"),
    (["--listen-bundle", "127.0.0.1:0", "--once"], "--once"),
    (["--listen-bundle", "8443"], "host:port"),
    (["--listen", "127.0.0.1:0", "--listen-name", "a", "--dns-name", "a"], "pose"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=str)
def test_a_wrong_command_is_explained(tmp_path: Path, arguments: list[str], words: str) -> None:
    """Status 2 and what is missing."""
    base = ["ca", "run", "--dir", str(tmp_path), "--accounts", "a.yaml", "--store", "s"]
    result = CliRunner().invoke(main, [*base, *arguments])
    assert (result.exit_code, words in result.output) == (2, True)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("audiences: [meshsec-ca], ", "", "spec.jwtRules[0].audiences"),
        ("kind: RequestAuthentication", "kind: AuthorizationPolicy", "jwtRules"),
    ],
)
def test_rules_without_an_audience_are_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    """With their place: any service's token would do otherwise."""
    here = tmp_path / "rules.yaml"
    here.write_text(rules().replace(old, new))
    (tmp_path / "accounts.yaml").write_text("- {namespace: prod, name: web}\n")
    folder = str(tmp_path / "ca")
    assert CliRunner().invoke(main, ["ca", "init", "--trust-domain", "cluster.local", "--dir", folder]).exit_code == 0
    base = ["ca", "run", "--dir", folder, "--accounts", str(tmp_path / "accounts.yaml"), "--store", str(tmp_path)]
    listen = ["--listen-token", "127.0.0.1:0", "--listen-name", "localhost", "--token-rules", str(here)]
    result = CliRunner().invoke(main, [*base, *listen])
    assert result.exit_code == 1
    assert f"{here}:" in result.output
    assert words in result.output
