"""``meshsec ca rotate-root``: one step of a rotation at a time, each of which can be looked at and taken back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import click

from ..ca import KEY_TYPES, AuthorityFolder, KeyType, Phase, read_signer
from ._ca_show import format_option, show

__all__ = ["rotate_root"]

_WORDS: Final = {
    Phase.STEADY: "no rotation is under way",
    Phase.PUBLISHED: "the new root is in the bundle, the old key signs; next is activate",
    Phase.ACTIVATED: "the new key signs, the old root is still in the bundle; next is retire",
}
_NEXT: Final = {Phase.STEADY: "publish", Phase.PUBLISHED: "activate", Phase.ACTIVATED: "retire"}


@click.command("rotate-root")
@click.option("--dir", "folder", type=click.Path(path_type=Path), default="ca", show_default=True)
@click.option(
    "--step",
    type=click.Choice(["publish", "activate", "retire", "back", "renew"]),
    help="The next step by default; back takes the last one back; renew keeps the key.",
)
@click.option("--force", is_flag=True, help="Do not wait until all have the new root, or none needs the old.")
@click.option("--key-type", type=click.Choice(KEY_TYPES), default=KEY_TYPES[0], show_default=True)
@click.option("--plugged-in", type=click.Path(path_type=Path), help="publish: the new CA's folder; else one is made.")
@format_option
def rotate_root(
    folder: Path, step: str | None, force: bool, key_type: KeyType, plugged_in: Path | None, output: str
) -> None:
    """Replace the root: publish the new one, activate its key, retire the old one; one step each time.

    Safe while `meshsec ca run` runs: it sees each step and gives every workload what the step asks for.
    """
    authority = AuthorityFolder(folder)
    steps: Mapping[str, Callable[[], object]] = {
        "publish": lambda: authority.publish_root(read_signer(plugged_in) if plugged_in else None, key_type=key_type),
        "activate": lambda: authority.activate_root(settle=0) if force else authority.activate_root(),
        "retire": lambda: authority.retire_old_roots(force=force),
        "back": lambda: authority.roll_back(force=force),
        "renew": authority.renew_root,
    }
    steps[step or _NEXT[authority.authority.state.phase]]()
    phase = authority.authority.state.phase
    show(authority.status(), output, text=f"{phase}: {_WORDS[phase]}")
