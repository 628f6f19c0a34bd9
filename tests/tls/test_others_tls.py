"""Chains that somebody else's TLS took: what is remembered of one vouches for no other."""

from __future__ import annotations

from typing import Any, Final

import pytest

from meshsec.errors import SvidError
from meshsec.tls import verify_presented
from pki import NOW, TestCA
from wire import material

CA: Final = TestCA("td.example")
MINUTE: Final = NOW // 60 * 60 + 60
"""The beginning of one: within it a chain that held is remembered."""


@pytest.mark.parametrize(("eku", "taken"), [(["client"], True), (["server"], False), (None, True)])
def test_only_a_clients_certificate_makes_a_client(eku: Any, taken: bool) -> None:
    """By the same profile as in our own handshakes."""
    chain, _ = CA.leaf(eku=eku)
    if taken:
        assert verify_presented(tuple(chain), material(CA), now=NOW).role == "client"
        return
    with pytest.raises(SvidError):
        verify_presented(tuple(chain), material(CA), now=NOW)


def test_a_leaf_that_held_vouches_for_no_other_chain_of_its_own() -> None:
    """What is remembered is the whole of what was presented."""
    source, (chain, _) = material(CA), CA.intermediate().leaf()
    leaf, between = chain
    verify_presented((leaf, between), source, now=NOW)
    for other in ((leaf,), (leaf, CA.intermediate().leaf()[0][1])):
        with pytest.raises(SvidError, match="no trusted path"):
            verify_presented(other, source, now=NOW)
    assert verify_presented((leaf, between), source, now=NOW).chain == (leaf, between)


@pytest.mark.parametrize(("leaf", "between"), [(30, 900), (900, 30)], ids=["leaf", "intermediate"])
def test_a_chain_that_held_ends_with_its_first_certificate(leaf: float, between: float) -> None:
    """To the second, although it is remembered for the minute."""
    chain, _ = CA.intermediate(not_after=MINUTE + between).leaf(not_after=MINUTE + leaf)
    source = material(CA)
    for moment in (10, 30):
        assert verify_presented(tuple(chain), source, now=MINUTE + moment).chain == tuple(chain)
    with pytest.raises(SvidError):
        verify_presented(tuple(chain), source, now=MINUTE + 31)
