"""The Workload API's messages: what protobuf writes we read, what we write it reads, and nothing else passes."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import messages
from meshsec.errors import MeshsecError, SvidError
from meshsec.sources._workload_api_wire import (
    Code,
    read_jwt_bundles,
    read_jwt_svids,
    read_validated,
    read_x509_bundles,
    read_x509_svids,
    write_jwt_request,
    write_validate_request,
)

READERS = [read_x509_svids, read_x509_bundles, read_jwt_bundles, read_jwt_svids, read_validated]
TEXT = st.text(min_size=1, max_size=20)
BYTES = st.binary(min_size=1, max_size=300)
SVIDS = st.lists(st.tuples(TEXT, BYTES, BYTES, BYTES, st.text(max_size=5)), min_size=1, max_size=4)
PAIRS = st.dictionaries(TEXT, st.binary(max_size=300), max_size=4)


def pairs(entries: dict[str, bytes]) -> list[object]:
    """A map, as it is written."""
    return [messages()["Pair"](key=key, value=value) for key, value in entries.items()]


@settings(max_examples=60)
@given(SVIDS, st.lists(BYTES, max_size=3), PAIRS)
def test_what_protobuf_writes_is_read(
    svids: list[tuple[str, bytes, bytes, bytes, str]], lists: list[bytes], federated: dict[str, bytes]
) -> None:
    """Every field of an answer with SVIDs, in order."""
    names = ("spiffe_id", "x509_svid", "x509_svid_key", "bundle", "hint")
    written = [messages()["X509SVID"](**dict(zip(names, svid, strict=True))) for svid in svids]
    answer = messages()["X509SVIDResponse"](svids=written, crl=lists, federated_bundles=pairs(federated))
    found = read_x509_svids(answer.SerializeToString())
    assert [(item.spiffe_id, item.chain, item.key, item.bundle) for item in found.svids] == [s[:4] for s in svids]
    assert found.crls == tuple(lists)
    assert found.bundles == federated


@settings(max_examples=30)
@given(PAIRS.filter(bool), st.lists(BYTES, max_size=3))
def test_bundles_are_read(entries: dict[str, bytes], lists: list[bytes]) -> None:
    """Both kinds of answers about bundles."""
    x509 = messages()["X509BundlesResponse"](bundles=pairs(entries), crl=lists)
    found = read_x509_bundles(x509.SerializeToString())
    assert (found.bundles, found.crls) == (entries, tuple(lists))
    jwt = messages()["JWTBundlesResponse"](bundles=pairs(entries))
    assert read_jwt_bundles(jwt.SerializeToString()) == entries


@settings(max_examples=30)
@given(st.lists(TEXT, max_size=3), TEXT)
def test_what_we_write_protobuf_reads(audience: list[str], spiffe_id: str) -> None:
    """The two requests that are not empty."""
    found = messages()["JWTSVIDRequest"].FromString(write_jwt_request(audience, spiffe_id))
    assert (list(found.audience), found.spiffe_id) == (audience, spiffe_id)
    asked = messages()["ValidateJWTSVIDRequest"].FromString(write_validate_request(spiffe_id, "t"))
    assert (asked.audience, asked.svid) == (spiffe_id, "t")


def test_a_long_text_is_written() -> None:
    """Its length takes two bytes."""
    assert messages()["JWTSVIDRequest"].FromString(write_jwt_request(["a" * 300], "")).audience == ["a" * 300]


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=60)
@given(data=st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(reader: object, data: bytes) -> None:
    """Nothing else than a MeshsecError ever comes out."""
    with suppress(MeshsecError):
        reader(data)  # type: ignore[operator]


@pytest.mark.parametrize("reader", READERS)
def test_every_byte_at_every_place(reader: object) -> None:
    """A good answer with any one byte changed is read or refused; what protobuf also reads, it reads the same."""
    svid = messages()["X509SVID"](spiffe_id="s", x509_svid=b"c", x509_svid_key=b"k", bundle=b"b")
    good = messages()["X509SVIDResponse"](svids=[svid]).SerializeToString()
    for at in range(len(good)):
        for byte in range(256):
            data = good[:at] + bytes([byte]) + good[at + 1 :]
            try:
                found = reader(data)  # type: ignore[operator]
            except MeshsecError:
                continue
            if reader is read_x509_svids:
                theirs = messages()["X509SVIDResponse"].FromString(data)
                assert [item.spiffe_id for item in found.svids] == [item.spiffe_id for item in theirs.svids]


MANDATORY = ["spiffe_id", "x509_svid", "x509_svid_key", "bundle"]


@pytest.mark.parametrize("missing", MANDATORY)
def test_a_mandatory_field_is_not_empty(missing: str) -> None:
    """An answer without it is no answer (Workload API, section 4.5)."""
    fields = {"spiffe_id": "s", "x509_svid": b"c", "x509_svid_key": b"k", "bundle": b"b"}
    whole = messages()["X509SVID"](**fields)
    assert read_x509_svids(messages()["X509SVIDResponse"](svids=[whole]).SerializeToString()).svids
    del fields[missing]
    lacking = messages()["X509SVID"](**fields)
    with pytest.raises(SvidError) as caught:
        read_x509_svids(messages()["X509SVIDResponse"](svids=[whole, lacking]).SerializeToString())
    assert caught.value.code == "answer_malformed"


@pytest.mark.parametrize("reader", READERS)
def test_an_empty_answer_is_refused(reader: object) -> None:
    """Each has a field that is not empty."""
    with pytest.raises(SvidError):
        reader(b"")  # type: ignore[operator]


def test_fields_of_tomorrow_are_passed_over() -> None:
    """Numbers of every kind, and fields that nobody knows yet."""
    svid = messages()["JWTSVID"](spiffe_id="s", svid="t").SerializeToString()
    more = b"\x78\xff\xff\xff\xff\x0f" + b"\x79" + bytes(8) + b"\x7d" + bytes(4) + b"\x7a\x02ab"
    answer = more + b"\x0a" + bytes([len(svid + more)]) + svid + more
    assert read_jwt_svids(answer) == [("s", "t")]


def test_no_key_is_shown() -> None:
    """An answer may end up in a message."""
    svid = messages()["X509SVID"](spiffe_id="s", x509_svid=b"c", x509_svid_key=b"SECRET", bundle=b"b")
    assert "SECRET" not in repr(read_x509_svids(messages()["X509SVIDResponse"](svids=[svid]).SerializeToString()))


def test_a_code_that_means_nothing_here_is_unknown() -> None:
    """There are sixteen of them, and servers that make up more."""
    assert Code(8) is Code(99) is Code.UNKNOWN
