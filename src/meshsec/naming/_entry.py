"""One host: who may answer for it, and from where that follows. Must not know: how it was computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..resources import TlsMode
from ..spiffe import SpiffeId

__all__ = ["Address", "Entry", "Ids", "merged"]

Address = tuple[str, int]
Ids = Mapping[SpiffeId, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One host of the mesh.

    Attributes:
        host: its full name, or ``*.`` before what many hosts end with.
        ids: who may answer, aliases included → what says so, as ``Kind namespace/name (file:line)``.
        names: all the names a client may call it by.
        addresses: port → where it is dialled; 0 stands for every other port.
        namespace: the service's; empty where it is not known.
        mode: how it is spoken to.
        sni: the TLS server name that is sent; empty: the name that the client asked for.
        by_port: what it is at ports of its own rules.
    """

    host: str
    ids: Ids
    names: tuple[str, ...]
    addresses: Mapping[int, tuple[Address, ...]] = field(default_factory=dict)
    namespace: str = ""
    mode: TlsMode = TlsMode.ISTIO_MUTUAL
    sni: str = ""
    by_port: Mapping[int, Entry] = field(default_factory=dict)

    def at(self, port: int | None) -> tuple[Entry, ...]:
        """What it is at a port; where none is given, all that it may be."""
        return (self, *self.by_port.values()) if port is None else (self.by_port.get(port, self),)


def merged(*parts: Ids) -> Ids:
    """All of them, each with everything that says so."""
    found: dict[SpiffeId, tuple[str, ...]] = {}
    for part in parts:
        for spiffe_id, origins in part.items():
            found[spiffe_id] = tuple(dict.fromkeys((*found.get(spiffe_id, ()), *origins)))
    return found
