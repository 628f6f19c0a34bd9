"""The ``meshsec`` command. Belongs here: reading arguments and printing. Must not know: how anything is decided."""

from ._main import main

__all__ = ["main"]
