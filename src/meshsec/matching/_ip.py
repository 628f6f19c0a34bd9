"""IP addresses and CIDR blocks. Must not know: whose address is compared."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Self

__all__ = ["IpAddress", "IpBlock", "parse_ip"]

IpAddress = IPv4Address | IPv6Address

_LONGEST: Final = 64  # characters of an address that is remembered: with a zone, most are shorter
_DIGITS: Final = frozenset("0123456789")


@dataclass(frozen=True, slots=True)
class IpBlock:
    """An address or a CIDR block. IPv4 and IPv6 never meet: ``::ffff:1.2.3.4`` is an IPv6 address.

    Attributes:
        version: 4 or 6.
        network: the address with the host bits cleared.
        mask: the bits that count.
    """

    version: int
    network: int
    mask: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``10.1.2.3``, ``10.0.0.0/8`` or the same in IPv6; host bits of a block are cleared, as Istio does.

        Raises:
            ValueError: not an address, a zone, a netmask in place of a prefix length, or a length out of range.
        """
        address_text, slash, length_text = text.partition("/")
        address = parse_ip(address_text)
        if address is None or "%" in text:
            raise ValueError(f"{text!a} is neither an IP address nor a CIDR block")
        bits: int = address.max_prefixlen
        length = bits
        if slash:
            if not 0 < len(length_text) <= 3 or not _DIGITS.issuperset(length_text) or int(length_text) > bits:
                raise ValueError(f"the prefix length of {text!a} is not a number from 0 to {bits}")
            length = int(length_text)
        mask = (1 << bits) - (1 << (bits - length))
        return cls(address.version, int(address) & mask, mask)

    def contains(self, ip: str | IpAddress) -> bool:
        """Whether an address lies in the block; False for text that is no address: look at :func:`parse_ip` first."""
        address = parse_ip(ip) if isinstance(ip, str) else ip
        return address is not None and address.version == self.version and int(address) & self.mask == self.network

    def __str__(self) -> str:
        address = IPv4Address(self.network) if self.version == 4 else IPv6Address(self.network)
        return f"{address}/{self.mask.bit_count()}"


def parse_ip(text: str) -> IpAddress | None:
    """Read an IPv4 or IPv6 address; None for anything else. A zone (``fe80::1%eth0``) does not count."""
    return _remembered(text) if len(text) <= _LONGEST else _parse(text)


def _parse(text: str) -> IpAddress | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


# The same few peers ask again and again.
_remembered: Final = lru_cache(1024)(_parse)
