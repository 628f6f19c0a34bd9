"""``meshsec ca``: the certificate authority from a shell: make one, issue, revoke, replace its root, let it run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from ..ca import KEY_TYPES, AuthorityFolder, CertificateAuthority, KeyType, write_chain, write_identity
from ..errors import ConfigError, Problem
from ..spiffe import SpiffeId
from ._ca_rotate import rotate_root
from ._ca_run import run
from ._ca_show import format_option, show

__all__ = ["ca"]

DAY: Final = 86_400
_PATH: Final = click.Path(path_type=Path)
_DIR: Final = click.option(
    "--dir", "folder", type=_PATH, default="ca", show_default=True, help="The authority's folder."
)


class _PlainFiles(click.Group):
    """A file that cannot be read or written is a problem of the configuration, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except OSError as error:
            problem = Problem(error.strerror or str(error), source=str(error.filename or "<file>"))
            raise ConfigError(problem, code="file_error") from error


@click.group(cls=_PlainFiles)
def ca() -> None:
    """An embedded certificate authority: SPIFFE identities for service accounts."""


@ca.command()
@click.option("--trust-domain", required=True, help="Such as cluster.local; it cannot be changed later.")
@_DIR
@click.option("--key-type", type=click.Choice(KEY_TYPES), default=KEY_TYPES[0], show_default=True)
@click.option("--lifetime", type=float, default=3650, show_default=True, help="Of the root, in days.")
@click.option("--plugged-in", type=_PATH, help="Take a CA from this folder instead: Istio's or cert-manager's files.")
@format_option
def init(
    trust_domain: str, folder: Path, key_type: KeyType, lifetime: float, plugged_in: Path | None, output: str
) -> None:
    """Make a new authority in a folder that has none."""
    if plugged_in:
        authority = CertificateAuthority.load(plugged_in, trust_domain=trust_domain)
    else:
        authority = CertificateAuthority.create(trust_domain, lifetime=lifetime * DAY, key_type=key_type)
    lists = plugged_in / "ca-crl.pem" if plugged_in else None
    crls = lists.read_bytes() if lists and lists.exists() else b""
    made = AuthorityFolder.create(folder, authority, crls=crls)
    show(made.status(), output, text=f"{folder}: an authority for {trust_domain}")


@ca.command()
@_DIR
@click.option("--namespace", default="default", show_default=True)
@click.option("--service-account", required=True)
@click.option("--out", type=_PATH, required=True, help="Where the three files go.")
@click.option("--ttl", type=float, default=DAY, show_default=True, help="Seconds.")
@click.option("--dns-name", "dns_names", multiple=True, help="For callers that know no SPIFFE; may be repeated.")
@click.option("--csr", type=_PATH, help="Sign this request's key; out then gets no key.pem.")
@format_option
def issue(
    folder: Path,
    namespace: str,
    service_account: str,
    out: Path,
    ttl: float,
    dns_names: tuple[str, ...],
    csr: Path | None,
    output: str,
) -> None:
    """Issue one identity: cert-chain.pem, key.pem and root-cert.pem."""
    authority = AuthorityFolder(folder).authority
    spiffe_id = SpiffeId.for_service_account(authority.trust_domain, namespace, service_account)
    if csr:
        chain = authority.issue_from_csr(
            csr.read_bytes(), spiffe_id, ttl=ttl, dns_names=dns_names, requester="meshsec ca issue"
        )
        write_chain(out, chain, authority.bundle)
        show({"id": str(spiffe_id), "out": str(out)}, output)
        return
    svid = authority.issue_x509_svid(spiffe_id, ttl=ttl, dns_names=dns_names, requester="meshsec ca issue")
    write_identity(out, svid, authority.bundle)
    show({"id": str(svid.id), "serial": f"{svid.serial:x}", "notAfter": svid.not_after, "out": str(out)}, output)


@ca.command()
@_DIR
@format_option
def status(folder: Path, output: str) -> None:
    """Show the authority, where a rotation stands, and what is wrong."""
    show(AuthorityFolder(folder).status(), output)


@ca.command()
@click.argument("serial")
@_DIR
@click.option("--reason", default="", help="For the record.")
@format_option
def revoke(serial: str, folder: Path, reason: str, output: str) -> None:
    """Revoke the certificate with this SERIAL number (hexadecimal) and publish the new CRL."""
    AuthorityFolder(folder).revoke(serial.lower(), reason=reason)
    lists = folder / "ca-crl.pem"
    show({"serial": serial.lower(), "crl": str(lists)}, output, text=f"{serial.lower()}: revoked; {lists} says so")


@ca.command()
@_DIR
@click.option("--refresh-hint", type=int, default=300, show_default=True, help="Seconds.")
def bundle(folder: Path, refresh_hint: int) -> None:
    """Print the trust domain's SPIFFE bundle: its roots and the keys of its JWT-SVIDs."""
    click.echo(AuthorityFolder(folder).authority.bundle_document(refresh_hint=refresh_hint))


ca.add_command(rotate_root)
ca.add_command(run)
