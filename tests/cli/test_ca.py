"""``meshsec ca``, as a user runs it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from meshsec.cli import main
from meshsec.spiffe import X509Bundle, X509Svid, read_bundle, verify_x509_svid
from pki import key_pem

ACCOUNTS = "- {namespace: prod, name: web}\n- {namespace: prod, name: cart}\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an authority in ``ca`` and two accounts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "accounts.yaml").write_text(ACCOUNTS)
    ok("init", "--trust-domain", "cluster.local")
    return tmp_path


def run(*arguments: str) -> Result:
    """Run ``meshsec ca``; nothing but an exit status may come out of it."""
    result = CliRunner().invoke(main, ["ca", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def ok(*arguments: str) -> str:
    """Run it and expect success."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def state(*arguments: str) -> Any:
    """Run it for its JSON."""
    return json.loads(ok(*arguments, "--format", "json"))


def read(folder: Path) -> X509Svid:
    """The identity in a folder, verified."""
    svid = X509Svid.from_pem((folder / "cert-chain.pem").read_bytes(), (folder / "key.pem").read_bytes())
    bundle = X509Bundle.from_pem("cluster.local", (folder / "root-cert.pem").read_bytes())
    verify_x509_svid(svid.chain, bundle, now=time.time(), role="client")
    return svid


def test_an_identity_is_issued(here: Path) -> None:
    """The three files, verifiable, and a line that says what they are."""
    shown = state("issue", "--namespace", "prod", "--service-account", "reviews", "--out", "certs", "--ttl", "600")
    svid = read(here / "certs")
    assert str(svid.id) == shown["id"] == "spiffe://cluster.local/ns/prod/sa/reviews"
    assert (shown["serial"], shown["notAfter"]) == (f"{svid.serial:x}", svid.not_after)
    assert state("status")["issued"] == 1


def test_a_request_is_signed(here: Path) -> None:
    """The key stays where it is: no key.pem is written."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder(x509.Name([])).sign(key, SHA256())
    (here / "web.csr").write_bytes(request.public_bytes(Encoding.PEM))
    ok("issue", "--service-account", "web", "--csr", "web.csr", "--out", "certs")
    assert X509Svid.from_pem((here / "certs/cert-chain.pem").read_bytes(), key_pem(key)).id.service_account == "web"
    assert not (here / "certs/key.pem").exists()


def test_a_root_is_rotated_step_by_step(here: Path) -> None:
    """Each call is one step; too early is refused, back goes back, force does not wait."""
    run("issue", "--service-account", "web", "--out", "certs")
    assert state("rotate-root")["phase"] == "published"
    early = run("rotate-root")
    assert (early.exit_code, "rotation_too_early" in early.output) == (1, True)
    assert state("rotate-root", "--step", "back")["phase"] == "steady"
    assert [state("rotate-root", "--force")["phase"] for _ in range(3)] == ["published", "activated", "steady"]
    assert len(state("rotate-root", "--step", "renew")["roots"]) == 1


def test_run_once_fills_the_store(here: Path) -> None:
    """What it did is printed; a second time there is nothing to do."""
    arguments = ("run", "--accounts", "accounts.yaml", "--store", "store", "--once")
    assert "2 issued" in ok(*arguments)
    assert ok(*arguments) == ""
    for name in ("web", "cart"):
        assert read(here / "store" / "prod" / f"istio.{name}").id.service_account == name
    (here / "accounts.yaml").write_text("- {namespace: prod, name: Web}\n")
    assert run(*arguments).exit_code == 1


def test_run_goes_on_until_it_is_told_to_stop(here: Path) -> None:
    """As a process: it repairs, takes a rotation's steps, excludes a second one, and ends on SIGTERM."""
    command = [sys.executable, "-c", "from meshsec.cli import main; main()", "ca", "run", "--format", "json"]
    command += ["--accounts", "accounts.yaml", "--store", "store", "--interval", "0.05"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        assert len(json.loads(process.stdout.readline())["issued"]) == 2
        second = run("run", "--accounts", "accounts.yaml", "--store", "store", "--once")
        assert (second.exit_code, "locked" in second.output) == (1, True)
        (here / "store/prod/istio.web/key.pem").unlink()
        assert json.loads(process.stdout.readline())["issued"] == {
            "spiffe://cluster.local/ns/prod/sa/web": "it is missing"
        }
        ok("rotate-root")
        assert len(json.loads(process.stdout.readline())["published"]) == 2
        ok("rotate-root", "--force")
        assert len(json.loads(process.stdout.readline())["issued"]) == 2
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert read(here / "store/prod/istio.web")


def test_revoke_and_bundle(here: Path) -> None:
    """A serial number of the record is revoked; the bundle is the standard's."""
    serial = state("issue", "--service-account", "web", "--out", "certs")["serial"]
    assert "revoked" in ok("revoke", serial.upper())
    assert state("revoke", serial) == {"serial": serial, "crl": "ca/ca-crl.pem"}
    assert state("status")["revoked"] == 1
    [crl] = [x509.load_pem_x509_crl((here / "ca/ca-crl.pem").read_bytes())]
    assert crl.get_revoked_certificate_by_serial_number(int(serial, 16))
    document = read_bundle("cluster.local", ok("bundle").encode())
    assert (len(document.x509.x509_authorities), len(document.jwt_keys)) == (1, 1)


MISTAKES = [
    (["init", "--trust-domain", "cluster.local"], "authority_exists"),
    (["init", "--trust-domain", "UPPER", "--dir", "new"], "spiffe_id_invalid"),
    (["init", "--trust-domain", "a", "--dir", "accounts.yaml/ca"], "accounts.yaml"),
    (["status", "--dir", "nowhere"], "nowhere"),
    (["issue", "--service-account", "a/b", "--out", "x"], "slash"),
    (["issue", "--service-account", "a", "--out", "accounts.yaml/x"], "accounts.yaml"),
    (["issue", "--service-account", "a", "--out", "x", "--csr", "accounts.yaml"], "request_malformed"),
    (["revoke", "12"], "unknown_serial"),
    (["rotate-root", "--plugged-in", "nowhere"], "nowhere"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=lambda value: str(value[0]))
def test_a_mistake_is_one_plain_line(here: Path, arguments: list[str], words: str) -> None:
    """Status 1, no traceback, and what it was."""
    result = run(*arguments)
    assert (result.exit_code, "Traceback" in result.output) == (1, False)
    assert words in result.output


def test_status_without_rich_is_plain_text(here: Path) -> None:
    """Names and values, dates as dates."""
    output = ok("status")
    assert "phase" in output
    assert " UTC" in output
