"""A workload's own SVID: chain and key as a pair."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ed448, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsec.errors import MeshsecError, SvidError
from meshsec.spiffe import SpiffeId, X509Svid
from pki import NOW, Kind, TestCA, key_of, key_pem, pem

CA = TestCA("td.example")
CHAIN, KEY = CA.leaf()


def refusal(chain_pem: bytes, key: bytes) -> str:
    """The code with which a pair is refused."""
    with pytest.raises(SvidError) as caught:
        X509Svid.from_pem(chain_pem, key)
    assert "BEGIN" not in str(caught.value)
    return caught.value.code


def test_an_svid_says_who_and_until_when() -> None:
    """The ID is read from the leaf, times are POSIX seconds."""
    chain, key = CA.intermediate().leaf(not_before=NOW - 5, not_after=NOW + 5, serial=77)
    svid = X509Svid.from_pem(pem(chain), key_pem(key))
    assert svid.id == SpiffeId.parse("spiffe://td.example/ns/prod/sa/web")
    assert svid.chain == tuple(chain)
    assert (svid.not_before, svid.not_after, svid.serial) == (NOW - 5, NOW + 5, 77)
    assert svid.leaf.serial_number == 77
    assert [type(svid.not_before), type(svid.not_after)] == [float, float]


def test_it_is_written_as_it_was_read() -> None:
    """Chain and key survive the way through PEM."""
    chain, key = CA.intermediate().leaf()
    svid = X509Svid(chain, key)
    assert svid.chain_pem() == pem(chain)
    assert svid.key_pem() == key_pem(key)
    assert X509Svid.from_pem(svid.chain_pem(), svid.key_pem()) == svid


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa", "ed25519"])
def test_the_usual_kinds_of_key_are_taken(kind: Kind) -> None:
    """EC, RSA and Ed25519."""
    chain, key = CA.leaf(key=kind)
    assert X509Svid.from_pem(pem(chain), key_pem(key)).id.service_account == "web"


def test_other_forms_of_pem_key_are_taken() -> None:
    """SEC 1 and PKCS#1, as openssl writes them."""
    traditional = KEY.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    assert X509Svid.from_pem(pem(CHAIN), traditional).chain == tuple(CHAIN)


def test_the_key_is_never_shown() -> None:
    """Neither the key nor the certificate stands in repr or str."""
    svid = X509Svid(CHAIN, KEY)
    number = str(KEY.private_numbers().private_value)
    for text in (repr(svid), str(svid)):
        assert "web" in text
        assert "key" not in text.lower()
        assert number not in text
        assert "x30" not in text


def test_equality_is_by_chain_and_agrees_with_the_hash() -> None:
    """The same certificate is the same SVID; a renewed one is not."""
    assert X509Svid(CHAIN, KEY) == X509Svid.from_pem(pem(CHAIN), key_pem(KEY))
    assert hash(X509Svid(CHAIN, KEY)) == hash(X509Svid.from_pem(pem(CHAIN), key_pem(KEY)))
    assert X509Svid(CHAIN, KEY) != X509Svid(*CA.leaf())
    assert X509Svid(CHAIN, KEY) != tuple(CHAIN)


def test_it_cannot_be_changed() -> None:
    """The pair that was checked stays together."""
    with pytest.raises(AttributeError):
        X509Svid(CHAIN, KEY).chain = ()  # type: ignore[misc]


def test_a_key_of_another_certificate_is_refused() -> None:
    """Half of a rotation must not be used."""
    assert refusal(pem(CHAIN), key_pem(key_of())) == "key_mismatch"
    assert refusal(pem(CHAIN), key_pem(key_of("p384"))) == "key_mismatch"
    assert refusal(pem(CHAIN), key_pem(key_of("rsa"))) == "key_mismatch"


BAD_KEYS = {
    "empty": b"",
    "garbage": b"\0\xff",
    "a certificate": pem(CHAIN),
    "cut off": key_pem(KEY)[:-40],
    "damaged": key_pem(KEY).replace(b"M", b"!", 1),
    "encrypted": KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")),
    "public": key_pem(KEY).replace(b"PRIVATE", b"PUBLIC"),
    "dsa": key_pem(dsa.generate_private_key(1024)),
    "ed448": key_pem(ed448.Ed448PrivateKey.generate()),
    "x25519": key_pem(x25519.X25519PrivateKey.generate()),
}


@pytest.mark.parametrize("key", BAD_KEYS.values(), ids=BAD_KEYS.keys())
def test_an_unusable_key_is_refused(key: bytes) -> None:
    """One code for whatever is wrong with it, and no piece of it in the message."""
    assert refusal(pem(CHAIN), key) == "key_malformed"


INTERMEDIATE = CA.intermediate()
BAD_CHAINS = {
    "empty": (b"", "malformed"),
    "garbage": (b"\0\xff", "malformed"),
    "cut off": (pem(CHAIN)[:-40], "malformed"),
    "second cut off": (pem(CHAIN) + CA.pem[:-40], "malformed"),
    "only the root": (CA.pem, "uri_san_count"),
    "root first": (CA.pem + pem(CHAIN), "uri_san_count"),
    "a leaf as intermediate": (pem(CHAIN) + pem(CA.leaf()[0]), "intermediate_not_ca"),
}


@pytest.mark.parametrize(("chain", "code"), BAD_CHAINS.values(), ids=BAD_CHAINS.keys())
def test_an_unusable_chain_is_refused(chain: bytes, code: str) -> None:
    """All or nothing, leaf first, then CAs."""
    assert refusal(chain, key_pem(KEY)) == code


def test_the_root_may_follow() -> None:
    """Istio's agent writes the root at the chain's end."""
    assert len(X509Svid.from_pem(pem(CHAIN) + CA.pem, key_pem(KEY)).chain) == 2


def test_an_empty_chain_is_refused() -> None:
    """There is no SVID without a certificate."""
    with pytest.raises(SvidError, match="at least a leaf"):
        X509Svid([], KEY)


def test_the_own_leaf_is_held_to_the_profile() -> None:
    """What peers would refuse is refused at home."""
    chain, key = CA.leaf(ca=True)
    assert refusal(pem(chain), key_pem(key)) == "leaf_is_ca"


def test_an_expired_svid_can_be_looked_at() -> None:
    """This room has no clock: whether it is still good is the verifier's question."""
    assert X509Svid(*CA.leaf(not_before=NOW - 20, not_after=NOW - 10)).not_after == NOW - 10


@given(st.binary(max_size=120), st.binary(max_size=120))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_an_svid_or_a_refusal(chain: bytes, key: bytes) -> None:
    """Junk after a good chain, junk as a key: accepted or refused in our words."""
    for pair in ((chain, key), (pem(CHAIN) + chain, key_pem(KEY)), (pem(CHAIN), key)):
        try:
            X509Svid.from_pem(*pair)
        except MeshsecError:
            continue
