"""Certificates that stand one after the other as DER, as the Workload API hands them out."""

from __future__ import annotations

from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsec.errors import ConfigError, SvidError
from meshsec.spiffe import X509Bundle, X509Svid
from meshsec.spiffe._pem import split_der
from pki import TestCA

ROOTS = [TestCA("td.example") for _ in range(3)]
TOGETHER = b"".join(root.der for root in ROOTS)


def test_certificates_are_cut_apart() -> None:
    """Each is as it was; of nothing there is none."""
    assert split_der(TOGETHER) == [root.der for root in ROOTS]
    assert split_der(b"") == []


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=400), max_size=4))
def test_any_sequences_are_cut_apart(contents: list[bytes]) -> None:
    """Whatever is in them, and however their length is written."""

    def sequence(content: bytes) -> bytes:
        size = len(content)
        length = bytes([size]) if size < 0x80 else b"\x82" + size.to_bytes(2, "big")
        return b"\x30" + length + content

    whole = [sequence(content) for content in contents]
    assert split_der(b"".join(whole)) == whole


@pytest.mark.parametrize(
    "data",
    [
        TOGETHER[:-1],
        TOGETHER + b"\0",
        TOGETHER + b"\x30",
        b"\x30\x80ab\0\0",
        b"\x30\x85\0\0\0\0\1a",
        b"\x31\x00",
        b"0\x82\1",
    ],
)
def test_what_is_not_whole_is_refused(data: bytes) -> None:
    """Half a bundle would distrust half a mesh."""
    with pytest.raises(ValueError):
        split_der(data)
    with pytest.raises(ConfigError):
        X509Bundle.from_der("td.example", data)


@settings(max_examples=100)
@given(st.binary(max_size=40))
def test_any_bytes_are_a_bundle_or_a_config_error(data: bytes) -> None:
    """Nothing else comes out."""
    with suppress(ConfigError):
        X509Bundle.from_der("td.example", data)


def test_every_byte_at_the_beginning() -> None:
    """A sequence begins with one byte and no other; lengths that do not fit are refused."""
    for byte in range(256):
        with suppress(ConfigError):
            X509Bundle.from_der("td.example", bytes([byte]) + TOGETHER[1:])
            assert byte == TOGETHER[0]
        with suppress(ConfigError):
            X509Bundle.from_der("td.example", TOGETHER[:1] + bytes([byte]) + TOGETHER[2:])
            assert byte == TOGETHER[1]


def test_an_svid_is_read_as_from_pem() -> None:
    """With its key; with another's it is refused."""
    middle = ROOTS[0].intermediate()
    chain, key = middle.leaf()
    pkcs8 = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    found = X509Svid.from_der(b"".join(chain), pkcs8)
    assert found == X509Svid(chain, key)
    other = ROOTS[0].leaf()[1].private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(SvidError, match="key"):
        X509Svid.from_der(b"".join(chain), other)
    with pytest.raises(SvidError):
        X509Svid.from_der(b"".join(chain)[:-1], pkcs8)
    with pytest.raises(SvidError):
        X509Svid.from_der(b"", pkcs8)
    with pytest.raises(SvidError) as caught:
        X509Svid.from_der(b"".join(chain), pkcs8[:-1])
    assert caught.value.code == "key_malformed"
