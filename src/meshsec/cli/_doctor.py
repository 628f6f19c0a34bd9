"""``meshsec doctor``: what does a running server let through?

It connects as those would who must not get in, and with headers that no client may set. This file must not know the
server's configuration: it looks from outside, as an attacker does.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click

from ..ca import CertificateAuthority
from ..errors import ConfigError, Problem
from ..spiffe import SpiffeId, X509Svid
from ..tls import load_svid
from ._quic import alternative_ports, quic_versions

__all__ = ["doctor"]

_TIMEOUT: Final = 10.0
_YEAR: Final = 365 * 86400.0
_WRITE: Final = "write https://host:port/path"
_PATH: Final = re.compile(r"(?:/[!-~]*)?")
# What proxies write for applications that believe them.
_SPOOFED: Final = {
    "x-forwarded-client-cert": "By=spiffe://{domain}/x;Hash={zeros};URI=spiffe://{domain}/ns/default/sa/admin",
    "x_forwarded_client_cert": "By=spiffe://{domain}/x;Hash={zeros};URI=spiffe://{domain}/ns/default/sa/admin",
    "x-forwarded-for": "127.0.0.1",
    "x-forwarded-proto": "https",
    "ssl-client-verify": "SUCCESS",
}


@dataclass(frozen=True, slots=True)
class _Target:
    """Where to knock."""

    host: str
    port: int
    path: str
    trust_domain: str


@dataclass(frozen=True, slots=True)
class _Finding:
    """What became of one attempt. ``open`` means that an application answered who should not have been reached."""

    attempt: str
    answer: str
    open: bool


@click.command()
@click.argument("url")
@click.option(
    "--identity", type=click.Path(path_type=Path, file_okay=False), help="cert-chain.pem and key.pem of a friend."
)
@click.option(
    "--expired", type=click.Path(path_type=Path, file_okay=False), help="the same of somebody whose time is up."
)
@click.option("--trust-domain", default="cluster.local", show_default=True, help="whose names the strangers take.")
def doctor(url: str, identity: Path | None, expired: Path | None, trust_domain: str) -> None:
    """Knock at URL (https://host:port/path) as those would who must not get in, and say what was let through.

    With --identity also as a friend: with TLS 1.2, a resumed session, and headers that pretend to be somebody else.
    With --expired as somebody of the mesh whose certificate has ended; without it, as somebody of a foreign mesh.
    Of HTTP/3 only that somebody offers it (Alt-Svc, or QUIC at the same UDP port) is found out, not whom it takes.
    Exits with 0 if every stranger was refused, else with 3.
    """
    target = _target(url, trust_domain)
    friend = None if identity is None else _read(identity)
    late = None if expired is None else _read(expired)
    _reach(target)
    findings = _strangers(target, late)
    findings.append(_http3(target, friend))
    if friend is not None:
        findings += _as_a_friend(target, friend)
    width = max(len(finding.attempt) for finding in findings)
    for finding in findings:
        click.echo(f"{'OPEN' if finding.open else 'ok  '}  {finding.attempt:<{width}}  {finding.answer}")
    if any(finding.open for finding in findings):
        raise click.exceptions.Exit(3)


def _target(url: str, trust_domain: str) -> _Target:
    try:
        parts = urlsplit(url)
        port = parts.port or 443
    except ValueError:
        raise ConfigError(_WRITE) from None
    if parts.scheme != "https" or not parts.hostname or not _PATH.fullmatch(parts.path):
        raise ConfigError(_WRITE)
    return _Target(parts.hostname, port, parts.path or "/", trust_domain)


def _read(folder: Path) -> X509Svid:
    try:
        return X509Svid.from_pem((folder / "cert-chain.pem").read_bytes(), (folder / "key.pem").read_bytes())
    except OSError as error:
        raise ConfigError(Problem(f"cannot be read: {error.strerror}", source=str(error.filename))) from error


def _reach(target: _Target) -> None:
    """Where nothing can be reached, nobody is let in, and nothing is known."""
    try:
        socket.create_connection((target.host, target.port), timeout=_TIMEOUT).close()
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"nobody listens at {target.host}:{target.port}: {error}") from error


def _strangers(target: _Target, late: X509Svid | None) -> list[_Finding]:
    now = time.time()
    foreign = CertificateAuthority.create(target.trust_domain)
    name = SpiffeId.for_service_account(target.trust_domain, "default", "doctor")
    stranger = foreign.issue_x509_svid(name)
    if late is not None and late.not_after >= now:
        raise ConfigError("--expired: the certificate there has not expired")
    whose = "an expired certificate" if late else "an expired certificate of a foreign authority"
    expired = late or CertificateAuthority.create(target.trust_domain, now=now - _YEAR).issue_x509_svid(
        name, now=now - _YEAR / 2
    )
    attempts: list[tuple[str, Callable[[], ssl.SSLContext | None]]] = [
        ("plaintext", lambda: None),
        ("no certificate", _context),
        ("no certificate, TLS 1.2", lambda: _context(version=ssl.TLSVersion.TLSv1_2)),
        ("a certificate of a foreign authority", lambda: _context(stranger)),
        (whose, lambda: _context(expired)),
    ]
    return [_stranger(target, attempt, make()) for attempt, make in attempts]


def _stranger(target: _Target, attempt: str, context: ssl.SSLContext | None) -> _Finding:
    answer = _ask(target, context, _spoofed(target))
    # 401 and 403 are an application's door, or the middleware's: the request was refused where it should be.
    return _Finding(attempt, answer, open=answer.isdecimal() and answer not in ("400", "401", "403"))


def _http3(target: _Target, friend: X509Svid | None) -> _Finding:
    """QUIC asks nobody for a certificate on the servers that offer it, unless somebody has taken great care."""
    offered: tuple[int, ...] = ()
    with suppress(OSError, http.client.HTTPException):  # who is not let in is told nothing
        offered = alternative_ports(_get(target, _context(friend)).getheader("alt-svc", ""))
    for port in dict.fromkeys((*offered, target.port)):
        versions = quic_versions(target.host, port)
        if versions or port in offered:
            answers = f"versions {', '.join(f'{version:#x}' for version in versions)}" if versions else "no answer"
            unknown = "whether it asks for a certificate is not checked"
            return _Finding("HTTP/3", f"offered at UDP port {port} ({answers}); {unknown}", open=True)
    return _Finding("HTTP/3", "not offered, and no QUIC at this UDP port", open=False)


def _as_a_friend(target: _Target, svid: X509Svid) -> list[_Finding]:
    plain = _ask(target, _context(svid))
    spoofed = _ask(target, _context(svid), _spoofed(target))
    old = _ask(target, _context(svid, version=ssl.TLSVersion.TLSv1_2))
    resumed = _resumed(target, _context(svid))
    return [
        _Finding("a friend", plain, open=False),
        _Finding("a friend with spoofed identity headers", spoofed, open=_better(spoofed, plain)),
        _Finding("a friend, TLS 1.2", old, open=old.isdecimal()),
        _Finding("a friend's resumed session", "resumed" if resumed else "not resumed", open=resumed),
    ]


def _better(spoofed: str, plain: str) -> bool:
    """Whether pretending opened a door."""
    return plain in ("401", "403") and spoofed.isdecimal() and spoofed not in ("400", "401", "403")


def _spoofed(target: _Target) -> dict[str, str]:
    return {name: value.format(domain=target.trust_domain, zeros="0" * 64) for name, value in _SPOOFED.items()}


def _context(svid: X509Svid | None = None, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """A careless client's: who the server is does not matter here, nothing secret is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version is not None:
        context.maximum_version = version
    if svid is not None:
        load_svid(context, svid)
    return context


def _ask(target: _Target, context: ssl.SSLContext | None, headers: dict[str, str] | None = None) -> str:
    """One GET: the status, or why there was none."""
    try:
        return str(_get(target, context, headers).status)
    except ConnectionRefusedError as error:
        raise ConfigError(f"nobody listens at {target.host}:{target.port}") from error
    except (OSError, http.client.HTTPException) as error:
        return f"no answer ({type(error).__name__})"


def _get(
    target: _Target, context: ssl.SSLContext | None, headers: dict[str, str] | None = None
) -> http.client.HTTPResponse:
    connection = (
        http.client.HTTPConnection(target.host, target.port, timeout=_TIMEOUT)
        if context is None
        else http.client.HTTPSConnection(target.host, target.port, timeout=_TIMEOUT, context=context)
    )
    with closing(connection):
        connection.request("GET", target.path, headers=headers or {})
        return connection.getresponse()


def _resumed(target: _Target, context: ssl.SSLContext) -> bool:
    """Whether a second connection is spared the proof of who it is."""
    session: ssl.SSLSession | None = None
    reused = False
    for _ in range(2):
        with (
            suppress(OSError),
            socket.create_connection((target.host, target.port), timeout=_TIMEOUT) as raw,
            context.wrap_socket(raw, server_hostname=target.host, session=session) as sock,
        ):
            request = f"GET {target.path} HTTP/1.1\r\nhost: {target.host}\r\nconnection: close\r\n\r\n"
            sock.sendall(request.encode())
            while sock.recv(4096):
                pass  # tickets come with the answer
            session, reused = sock.session, bool(sock.session_reused)
    return reused
