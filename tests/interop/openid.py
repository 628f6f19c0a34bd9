"""A certified OpenID Provider, npm's ``oidc-provider``, as a process of its own over HTTPS with a private authority.

It is installed below the environment that runs the tests, in the versions that provider/package.json names.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import secrets
import shutil
import ssl
import subprocess
import sys
import tempfile
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlencode, urlsplit
from urllib.request import HTTPCookieProcessor, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from joserfc.jwk import JWKRegistry

from live import free_port
from meshsec.ca import CertificateAuthority
from meshsec.spiffe import X509Bundle, X509Svid
from tokens import pem

__all__ = ["Provider", "provider", "signing_jwk", "unavailable"]

SOURCES: Final = Path(__file__).parent / "provider"
CALLBACK: Final = "https://web.example/callback"
RESOURCE: Final = "https://reviews.example/"
TIMEOUT: Final = 20.0
_SEARCHED: Final = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
_KINDS: Final = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}


@cache
def unavailable() -> str | None:
    """Install it where that was not done; why it cannot be had, None where it can."""
    npm = shutil.which("npm", path=_SEARCHED)
    if npm is None or shutil.which("node", path=_SEARCHED) is None:
        return "there is no node with npm"
    folder = _folder()
    return None if folder.is_dir() else _install(npm, folder)


def _install(npm: str, folder: Path) -> str | None:
    """The folder appears in one step: what was cut off half way never counts. Why it cannot be had, or None."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    with tempfile.TemporaryDirectory(dir=folder.parent) as spare:
        whole = Path(spare, "whole")
        whole.mkdir()
        shutil.copy(SOURCES / "package.json", whole)
        done = subprocess.run(command, cwd=whole, capture_output=True, text=True, check=False, env=_environment())
        if done.returncode:
            return f"npm install says: {done.stderr.strip()[-300:]}"
        try:
            whole.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    return None


def _folder() -> Path:
    """One for each version that is wanted, in the environment."""
    wanted = hashlib.sha256((SOURCES / "package.json").read_bytes()).hexdigest()[:12]
    return Path(sys.prefix) / "share" / "meshsec-interop" / f"oidc-provider-{wanted}"


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": _SEARCHED}


def signing_jwk(algorithm: str, kid: str) -> dict[str, Any]:
    """A private key; the same one for the same names."""
    key = JWKRegistry.import_key(pem(algorithm, kid), _KINDS[algorithm[:2]])
    return {**key.as_dict(private=True), "kid": kid, "alg": algorithm, "use": "sig"}


class _UntilCallback(HTTPRedirectHandler):
    """Follows the provider's own redirects; the one to the client's address ends the way."""

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> Request | None:
        """None: do not follow."""
        return None if newurl.startswith(CALLBACK) else super().redirect_request(req, fp, code, msg, headers, newurl)


@dataclass
class Provider:
    """A running provider.

    Attributes:
        process: which is told what to do on its standard input.
        port: where it listens.
        roots: who vouches for it: a PEM file.
    """

    process: subprocess.Popen[str]
    port: int
    roots: Path

    @property
    def issuer(self) -> str:
        """Its name."""
        return f"https://localhost:{self.port}"

    def say(self, **command: Any) -> Mapping[str, int]:
        """Change it, as provider.mjs says; how often its documents were asked for until now."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        counts: Mapping[str, int] = json.loads(self.process.stdout.readline())
        return counts

    def sign_with(self, *keys: tuple[str, str], publish: Sequence[tuple[str, str]] = ()) -> None:
        """Use the first of these keys for access tokens and publish them all; algorithm and kid of each."""
        algorithm, kid = keys[0]
        known = [signing_jwk(*key) for key in dict.fromkeys((*keys, *publish, ("RS256", "id")))]
        self.say(keys=known, sign={"alg": algorithm, "kid": kid})

    def service_token(self, resource: str = RESOURCE) -> str:
        """An access token for a program that knows a secret."""
        basic = b64encode(b"service:of+the+service").decode()
        fields = {"grant_type": "client_credentials", "scope": "reviews", "resource": resource}
        return str(self._token(fields, {"authorization": f"Basic {basic}"})["access_token"])

    def bound_token(self, svid: X509Svid, folder: Path) -> str:
        """An access token for a workload that shows its SVID, and for its connections alone (RFC 8705)."""
        pair = folder / "pair.pem"
        pair.write_bytes(svid.key_pem() + svid.chain_pem())
        fields = {
            "grant_type": "client_credentials", "client_id": "batch", "scope": "reviews", "resource": RESOURCE,
        }  # fmt: skip
        return str(self._token(fields, {}, pair)["access_token"])

    def person_tokens(self, name: str) -> dict[str, Any]:
        """What a person gets who logs in in a browser: authorization code flow with PKCE (RFC 7636)."""
        verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(8)
        challenge = urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "client_id": "web", "response_type": "code", "scope": "openid reviews", "redirect_uri": CALLBACK,
            "code_challenge": challenge, "code_challenge_method": "S256", "state": state, "resource": RESOURCE,
        }  # fmt: skip
        answer = self._visit(f"{self.issuer}/auth?{urlencode(query)}", name)
        assert answer["state"] == [state]
        assert answer["iss"] == [self.issuer]
        return self._token(
            {
                "grant_type": "authorization_code", "client_id": "web", "code": answer["code"][0],
                "redirect_uri": CALLBACK, "code_verifier": verifier, "resource": RESOURCE,
            },
            {},
        )  # fmt: skip

    def _visit(self, url: str, name: str) -> dict[str, list[str]]:
        """Fill in the forms, first to log in and then to agree, until the provider sends us back."""
        handlers = (HTTPSHandler(context=self._context()), HTTPCookieProcessor(CookieJar()), _UntilCallback())
        browser = build_opener(*handlers)
        forms = [None, {"prompt": "login", "login": name, "password": "any"}, {"prompt": "consent"}]
        for form in forms:
            try:
                with browser.open(url, form and urlencode(form).encode(), timeout=TIMEOUT) as page:
                    found = re.search(r'action="([^"]+)"', page.read().decode())
                assert found
                url = found[1]
            except HTTPError as back:
                with back:
                    location = str(back.headers["location"])
                assert location.startswith(CALLBACK), location
                return parse_qs(urlsplit(location).query)
        raise AssertionError("the provider asks for more than expected")

    def _token(
        self, fields: Mapping[str, str], headers: Mapping[str, str], pair: Path | None = None
    ) -> dict[str, Any]:
        context = self._context()
        if pair:
            context.load_cert_chain(pair)
        lines = {**headers, "content-type": "application/x-www-form-urlencoded"}
        connection = http.client.HTTPSConnection("localhost", self.port, context=context, timeout=TIMEOUT)
        connection.request("POST", "/token", urlencode(fields), lines)
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
        assert "access_token" in answer, answer
        return answer

    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.roots)


@contextmanager
def provider(folder: Path, clients: X509Bundle) -> Iterator[Provider]:
    """A provider until the block ends; its files are in the folder, whose clients' certificates are signed so."""
    authority = CertificateAuthority.create("idp.example")
    own = authority.issue_x509_svid("spiffe://idp.example/provider", dns_names=("localhost",))
    for name, content in {
        "chain": own.chain_pem(), "key": own.key_pem(),
        "roots": authority.bundle.to_pem(), "clients": clients.to_pem(),
    }.items():  # fmt: skip
        (folder / f"{name}.pem").write_bytes(content)
    program = shutil.copy(SOURCES / "provider.mjs", _folder())
    port = free_port()
    node = str(shutil.which("node", path=_SEARCHED))
    command = [node, str(program), str(folder), str(port)]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=_environment()
        ) as process,
    ):
        try:
            found = Provider(process, port, folder / "roots.pem")
            found.sign_with(("RS256", "first"))
            yield found
        finally:
            process.kill()
