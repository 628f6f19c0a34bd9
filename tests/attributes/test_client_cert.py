"""A certificate in a proxy's header: one certificate, in one notation, or a ValueError."""

from __future__ import annotations

import base64
import contextlib
import ssl
from collections.abc import Callable
from hashlib import sha256
from typing import Final, get_args
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsec.attributes import ClientCertFormat, read_client_cert, read_client_cert_chain
from sweeping import sweep

LEAF: Final = b"the leaf's DER, which nothing here looks into"
OTHER: Final = b"another certificate"
NOTATIONS: Final[tuple[ClientCertFormat, ...]] = get_args(ClientCertFormat)


def pem(*certificates: bytes) -> str:
    """As Envoy and nginx escape PEM."""
    return quote("".join(map(ssl.DER_cert_to_PEM_cert, certificates)), safe="")


def xfcc(cert: str = pem(LEAF), digest: str = sha256(LEAF).hexdigest(), rest: str = "") -> str:
    """One element as Envoy writes it."""
    return f'By=spiffe://a/b;Hash={digest};Cert="{cert}"{rest}'


WRITE: Final[dict[ClientCertFormat, Callable[[bytes], str]]] = {
    "xfcc": lambda der: xfcc(pem(der), sha256(der).hexdigest()),
    "client-cert": lambda der: f":{base64.b64encode(der).decode()}:",
    "nginx": pem,
    "haproxy": lambda der: base64.b64encode(der).decode(),
    "alb": lambda der: quote(ssl.DER_cert_to_PEM_cert(der), safe="+=/"),
}


@pytest.mark.parametrize("notation", NOTATIONS)
@given(der=st.binary(min_size=1, max_size=300))
@settings(max_examples=30)
def test_what_a_proxy_writes_is_read(notation: ClientCertFormat, der: bytes) -> None:
    """In every notation, to the byte."""
    assert read_client_cert(WRITE[notation](der), notation) == (der,)


@pytest.mark.parametrize("notation", NOTATIONS)
def test_an_empty_value_is_no_certificate(notation: ClientCertFormat) -> None:
    """Proxies write one where the client showed none."""
    assert read_client_cert(" ", notation) == ()


@pytest.mark.parametrize(
    "rest",
    [
        ';Subject="CN=a\\"b\\,c\\;d=e\\\\f"',
        ';Subject="";URI=spiffe://a/b;URI=;DNS=a.example',
        f';Chain="{pem(LEAF)}"',
        ";URI=spiffe://a/b?x=1",
    ],
)
def test_envoys_other_keys_are_passed_over(rest: str) -> None:
    """In Envoy's order."""
    assert read_client_cert(xfcc(rest=rest), "xfcc") == (LEAF,)


def test_envoys_chain_is_the_chain() -> None:
    """Intermediates stand there; the leaf is its first."""
    assert read_client_cert(xfcc(rest=f';Chain="{pem(LEAF, OTHER)}"'), "xfcc") == (LEAF, OTHER)


OTHERS: Final = f'Hash={sha256(OTHER).hexdigest()};Cert="{pem(OTHER)}"'


@pytest.mark.parametrize(
    "text",
    [
        f"{xfcc()},{xfcc()}",
        f"{xfcc()},",
        f",{xfcc()}",
        xfcc(digest=sha256(OTHER).hexdigest()),
        xfcc(digest=sha256(LEAF).hexdigest().upper()),
        xfcc(cert=pem(LEAF, OTHER)),
        xfcc(cert=""),
        xfcc(rest=f';Chain="{pem(OTHER, LEAF)}"'),
        xfcc(rest=f";{OTHERS}"),
        xfcc(rest=f";URI=x;{OTHERS}"),
        f"By=a;URI=spiffe://a/b;{OTHERS}",
        f"Subject=x;{OTHERS}",
        f"By=a;Hash={sha256(LEAF).hexdigest()};URI=spiffe://cluster.local/ns/prod/sa/admin",
        f"By=a;Hash={sha256(LEAF).hexdigest()}",
        "URI=spiffe://cluster.local/ns/prod/sa/admin",
        xfcc().replace("Cert=", "cert="),
        xfcc(rest=";Other=1"),
        xfcc(rest=";"),
        xfcc(rest=";URI"),
        xfcc(rest=';Subject="'),
        xfcc(rest=';Subject="\\'),
        xfcc().replace("%", "%%", 1),
    ],
)
def test_any_other_element_is_refused(text: str) -> None:
    """Appended and spoofed elements, another's hash, and pairs that a certificate's names have forged."""
    with pytest.raises(ValueError, match=r"\w"):
        read_client_cert(text, "xfcc")


@pytest.mark.parametrize(
    ("notation", "text"),
    [
        ("client-cert", ":YQ==:, :YQ==:"),
        ("client-cert", "YQ=="),
        ("client-cert", "::"),
        ("client-cert", ":"),
        ("client-cert", ":YQ==:;a=1"),
        ("haproxy", "YQ==,YQ=="),
        ("haproxy", "YQ== YQ=="),
        ("haproxy", "===="),
        ("nginx", f"{pem(LEAF)},{pem(LEAF)}"),
        ("nginx", pem(LEAF, OTHER)),
        ("nginx", "x" + pem(LEAF)),
        ("nginx", pem(LEAF) + "x"),
        ("nginx", ssl.DER_cert_to_PEM_cert(LEAF)),
        ("alb", f"{pem(LEAF)},{pem(LEAF)}"),
        ("alb", pem(LEAF) + "%00"),
        ("alb", pem(*[LEAF] * 11)),
        ("nginx", "%"),
        ("nginx", "%2"),
        ("nginx", "a" * 70000),
        ("nginx", "\u00e9"),
    ],
)
def test_anything_but_one_certificate_is_refused(notation: ClientCertFormat, text: str) -> None:
    """Two lines that a server has joined are two certificates."""
    with pytest.raises(ValueError, match=r"\w"):
        read_client_cert(text, notation)


def test_an_alb_may_hand_on_the_whole_chain() -> None:
    """In its pass-through mode, leaf first."""
    assert read_client_cert(pem(LEAF, OTHER), "alb") == (LEAF, OTHER)


SEQUENCE: Final = WRITE["client-cert"]


def test_the_chain_of_rfc_9440_is_a_list() -> None:
    """Without the leaf; spaces may stand between."""
    assert read_client_cert_chain(f"{SEQUENCE(OTHER)}, \t{SEQUENCE(LEAF)}") == (OTHER, LEAF)
    assert read_client_cert_chain(" ") == ()


@pytest.mark.parametrize(
    "text",
    [
        ",",
        SEQUENCE(LEAF) + ",",
        "YQ==",
        f"{SEQUENCE(LEAF)} {SEQUENCE(LEAF)}",
        ",".join([SEQUENCE(LEAF)] * 10),
        "\u00e9",
    ],
)
def test_what_is_no_short_list_is_refused(text: str) -> None:
    """Nine certificates and a leaf are the longest chain."""
    with pytest.raises(ValueError, match=r"\w"):
        read_client_cert_chain(text)
    assert len(read_client_cert_chain(",".join([SEQUENCE(LEAF)] * 9))) == 9


@given(st.text(alphabet=":YQ=, \t", max_size=40) | st.text(max_size=20))
@settings(max_examples=100)
def test_any_text_is_a_list_or_a_value_error(text: str) -> None:
    """Nothing else ever comes out."""
    with contextlib.suppress(ValueError):
        assert all(read_client_cert_chain(text)) or not text.strip(" \t")


@pytest.mark.parametrize("notation", NOTATIONS)
@sweep("code")
def test_any_character_is_taken_or_refused(notation: ClientCertFormat, code: int) -> None:
    """Anywhere in a good value: never anything but the leaf, or a ValueError."""
    good = WRITE[notation](LEAF)
    for position in (0, 3, len(good) // 2, len(good)):
        try:
            found = read_client_cert(good[:position] + chr(code) + good[position:], notation)
        except ValueError:
            continue
        assert notation != "xfcc" or found == (LEAF,)
        assert len(found) == 1


@given(st.sampled_from(NOTATIONS), st.text())
@settings(max_examples=100)
def test_any_text_is_certificates_or_a_value_error(notation: ClientCertFormat, text: str) -> None:
    """Nothing else ever comes out."""
    with contextlib.suppress(ValueError):
        assert all(read_client_cert(text, notation)) or not text.strip(" \t")


@given(st.text(alphabet='ByHashCertURI="\\;,%41 ', max_size=60))
@settings(max_examples=150)
def test_any_element_is_read_or_refused(text: str) -> None:
    """Made of the characters that mean something."""
    with contextlib.suppress(ValueError):
        assert read_client_cert(text, "xfcc") == ()
