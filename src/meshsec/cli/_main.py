"""The command group, and what its commands share: an error is printed plainly and ends with status 1."""

from __future__ import annotations

import sys
from typing import Any

import click

from ..errors import ConfigError, MeshsecError
from ._ca import ca
from ._check import check
from ._doctor import doctor
from ._explain import explain
from ._naming import naming

__all__ = ["main"]


class _PlainErrors(click.Group):
    """Prints a MeshsecError without a traceback: each problem of a ConfigError on a line of its own."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            for problem in error.problems:
                click.echo(str(problem), err=True)
            count = len(error.problems)
            click.echo(f"{count} problem{'' if count == 1 else 's'}", err=True)
        except MeshsecError as error:
            click.echo(f"{error.code}: {error}", err=True)
        sys.exit(1)


@click.group(cls=_PlainErrors)
@click.version_option(package_name="meshsec")
def main() -> None:
    """A service mesh's security inside the process: check and explain its files."""


main.add_command(ca)
main.add_command(check)
main.add_command(doctor)
main.add_command(explain)
main.add_command(naming)
