"""What a connection's own objects say about it."""

from __future__ import annotations

import socket

import pytest

from meshsec.middleware import Transport


class FakeTransport:
    """An asyncio transport as far as it is asked."""

    def __init__(self, **known: object) -> None:
        self.known = known

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self.known.get(name, default)


@pytest.mark.parametrize(
    ("peer", "source"),
    [
        (("10.0.0.7", 1), "10.0.0.7"),
        (("::ffff:10.0.0.7", 1, 0, 0), "10.0.0.7"),
        (("2001:db8::7", 1, 0, 0), "2001:db8::7"),
        (("::ffff:0:7", 1, 0, 0), "::ffff:0:7"),
        ("", None),
        (None, None),
    ],
)
def test_source_is_the_address_of_the_peer(peer: object, source: str | None) -> None:
    """IPv4 as IPv4 even on a dual-stack socket; a unix socket has none."""
    transport = Transport.of_asyncio(FakeTransport(peername=peer, sockname=("127.0.0.1", 8443)))
    assert (transport.source_ip, transport.destination_port, transport.tls) == (source, 8443, None)


@pytest.mark.parametrize(
    ("peer", "own", "unix"),
    [
        ("", "/run/web.sock", True),
        (None, "/run/web.sock", True),
        ("", b"\0abstract", True),
        ("", "", True),
        (None, ("127.0.0.1", 8443), False),
        ("", ("127.0.0.1", 8443), False),
        (None, None, False),
        (("10.0.0.7", 1), ("127.0.0.1", 8443), False),
    ],
)
def test_a_connection_without_an_address_is_not_a_unix_socket(peer: object, own: object, unix: bool) -> None:
    """A TCP connection that is gone has none either, and is not trusted as one from this machine."""
    assert Transport.of_asyncio(FakeTransport(peername=peer, sockname=own)).unix is unix


def test_real_socket_on_both_families() -> None:
    """A v4 client of a dual-stack listener is a v4 address on both sides."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), listener.accept()[0] as accepted:
            transport = Transport.of_socket(accepted)
            assert (transport.source_ip, transport.destination_ip) == ("127.0.0.1", "127.0.0.1")
            assert transport.destination_port == port
