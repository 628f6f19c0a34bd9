"""``meshsec ca run``: the authority as a process that keeps every account's identity in order."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click

from ..ca import AuthorityFolder, FolderStore, Rotator, Sweep
from ..resources import ServiceAccount, load_service_accounts
from ..sources import ClusterAccounts
from ..spiffe import SpiffeId, TrustDomain
from ._ca_listen import Accounts, Listening, listen_options, listening
from ._ca_show import format_option

__all__ = ["run"]

_log = logging.getLogger("meshsec.ca")
_PATH = click.Path(path_type=Path)


@click.command()
@click.option("--dir", "folder", type=_PATH, default="ca", show_default=True, help="The authority's folder.")
@click.option(
    "--accounts",
    required=True,
    help="ServiceAccount manifests, a list of {namespace, name}, or the URL of a Kubernetes API server.",
)
@click.option(
    "--credentials", type=_PATH, help="For the API server: a folder with token and ca.crt; by default the pod's own."
)
@click.option("--store", type=_PATH, required=True, help="Gets NAMESPACE/istio.ACCOUNT with three files each.")
@click.option("--ttl", type=float, default=86_400, show_default=True, help="Of each identity, seconds.")
@click.option("--interval", type=float, default=5, show_default=True, help="Between two looks, seconds.")
@click.option("--dns-name", "dns_names", multiple=True, help="For every identity; may be repeated.")
@listen_options
@click.option("--once", is_flag=True, help="Look once; the exit status is 1 if something failed.")
@format_option
def run(
    folder: Path,
    accounts: str,
    credentials: Path | None,
    store: Path,
    ttl: float,
    interval: float,
    dns_names: tuple[str, ...],
    once: bool,
    output: str,
    **where: Any,
) -> None:
    """Issue, renew and repair the identities of all service accounts until told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    listens = Listening(**where, ttl=ttl)
    _check(listens, dns_names, once=once)
    read = _reader(accounts, credentials)
    authority = AuthorityFolder(folder)
    stop = _stop_on_signals()
    ids = _accounts(read, authority.authority.trust_domain)
    with authority.exclusively(), _progress() as progress, listening(listens, authority, ids) as refresh:
        rotator = Rotator(authority, FolderStore(store), ids, ttl=ttl, dns_names=dns_names, progress=progress)
        if warning := authority.authority.warning(ttl=ttl):
            _log.warning("%s", warning)
        while not stop.is_set():
            sweep = rotator.sweep()
            refresh()
            _tell(sweep, output)
            if once:
                sys.exit(1 if sweep.failed else 0)
            stop.wait(interval)


def _reader(accounts: str, credentials: Path | None) -> Callable[[], Sequence[ServiceAccount]]:
    """A cluster's own list where a URL is given; only over https, for a token goes with the question."""
    if accounts.startswith("https://"):
        return ClusterAccounts(accounts, credentials)
    if "://" in accounts:
        raise click.UsageError("--accounts is a path, or a URL with https")
    return partial(load_service_accounts, accounts)


def _accounts(read: Callable[[], Sequence[ServiceAccount]], trust_domain: TrustDomain) -> Accounts:
    def ids() -> list[SpiffeId]:
        return [SpiffeId.for_service_account(trust_domain, item.namespace, item.name) for item in read()]

    return Accounts(ids, trust_domain)


def _check(listens: Listening, dns_names: tuple[str, ...], *, once: bool) -> None:
    if once and listens.anywhere:
        raise click.UsageError("--once does not listen")
    if listens.listen_token and not (listens.listen_names and listens.token_rules):
        raise click.UsageError("--listen-token needs --listen-name, by which clients know it, and --token-rules")
    if shared := set(listens.listen_names) & set(dns_names):
        names = ", ".join(sorted(shared))
        raise click.UsageError(f"with {names} as a name of every identity, each could pose as the authority")


def _tell(sweep: Sweep, output: str) -> None:
    """Print what a sweep has done, if anything."""
    if not (sweep.issued or sweep.published or sweep.failed):
        return
    if output == "json":
        done = {"issued": sweep.issued, "published": sweep.published, "failed": sweep.failed}
        click.echo(json.dumps({"accounts": sweep.accounts, **done}))
    else:
        counts = f"{len(sweep.issued)} issued, {len(sweep.published)} given new roots, {len(sweep.failed)} failed"
        click.echo(f"{sweep.accounts} accounts: {counts}")


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    return stop


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Shows how far a sweep is, where somebody looks and rich is installed."""
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        yield lambda _done, _total: None
        return
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bars:
        task = bars.add_task("identities", total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total, visible=done < total)
