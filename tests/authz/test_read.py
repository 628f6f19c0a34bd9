"""authz: what each attribute of a request is, read directly; what policies make of it is tested beside this."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from authz.cases import request
from meshsec.attributes import Attributes, Bound, RequestPrincipal, freeze_claims
from meshsec.authz import _read

XFF = "x-forwarded-for"


def texts(addresses: Any) -> Any:
    """Addresses as text, so that rows can be read."""
    return None if addresses is None else tuple(str(address) for address in addresses)


@pytest.mark.parametrize(
    ("connection", "forwarded", "judged", "istio"),
    [
        ({"source_ip": "10.0.0.1"}, [], ("10.0.0.1",), "10.0.0.1"),
        ({"source_ip": "10.0.0.1"}, ["9.9.9.9"], ("10.0.0.1", "9.9.9.9"), "9.9.9.9"),
        ({"source_ip": "10.0.0.1"}, ["8.8.8.8, 9.9.9.9 "], ("10.0.0.1", "9.9.9.9"), "9.9.9.9"),
        ({"source_ip": "10.0.0.1"}, ["8.8.8.8", "9.9.9.9"], ("10.0.0.1", "9.9.9.9"), "9.9.9.9"),
        ({"source_ip": "10.0.0.1"}, ["10.0.0.1"], ("10.0.0.1",), "10.0.0.1"),
        ({"source_ip": "10.0.0.1"}, ["unknown"], ("10.0.0.1",), "10.0.0.1"),
        ({"source_ip": "10.0.0.1"}, [""], ("10.0.0.1",), "10.0.0.1"),
        ({"source_ip": None}, ["9.9.9.9"], None, "9.9.9.9"),
        ({"source_ip": None}, ["unknown"], None, None),
        ({"source_ip": "10.0.0.1", "remote_ip": "7.7.7.7"}, ["9.9.9.9"], ("7.7.7.7",), "9.9.9.9"),
        ({"source_ip": None, "remote_ip": "7.7.7.7"}, [], ("7.7.7.7",), None),
        ({"source_ip": "10.0.0.1", "remote_ip": "unknown"}, [], ("10.0.0.1",), "10.0.0.1"),
    ],
)
def test_the_clients_address(
    connection: dict[str, Any], forwarded: list[str], judged: tuple[str, ...] | None, istio: str | None
) -> None:
    """What proven proxies say; else the peer's beside what a header says, or the header's alone as Istio has it."""
    asked = request(headers=[(XFF, line) for line in forwarded], **connection)
    assert texts(_read.remote_ips(asked)) == judged
    assert _read.forwarded_ip(asked) == (istio and ip_address(istio))


@pytest.mark.parametrize(
    ("host", "names"),
    [
        ("web.prod", ("web.prod",)),
        ("web.prod:80", ("web.prod:80", "web.prod", "web.prod", "web.prod:80")),
        ("web.prod.", ("web.prod.", "web.prod.", "web.prod", "web.prod")),
        ("web.prod.:80", ("web.prod.:80", "web.prod.", "web.prod", "web.prod:80")),
        ("[::1]:80", ("[::1]:80", "[::1]", "[::1]", "[::1]:80")),
        ("[::1]", ("[::1]", "[::1]", "[::1]", "[::1]")),
        ("127.0.0.1:80", ("127.0.0.1:80", "127.0.0.1", "127.0.0.1", "127.0.0.1:80")),
    ],
)
def test_a_host_and_what_else_it_is_called(host: str, names: tuple[str, ...]) -> None:
    """As sent; without port; without port and dot; without the dot alone."""
    assert _read.hosts(request(host=host)) == names


@pytest.mark.parametrize(
    ("claims", "issuer", "subject", "found"),
    [
        ({"iss": "i", "sub": "s"}, "", "", ("i", "s")),
        ({"iss": "i", "sub": "s"}, "other", "other", ("i", "s")),
        ({"iss": "i"}, "i", "", None),
        ({"sub": "s"}, "", "s", None),
        ({"iss": 7, "sub": "s"}, "i", "s", None),
        ({"iss": "i", "sub": None}, "i", "s", None),
        ({"iss": "", "sub": ""}, "", "", ("", "")),
        ({}, "i", "s", ("i", "s")),
        ({}, "", "", None),
    ],
)
def test_the_user(claims: dict[str, Any], issuer: str, subject: str, found: tuple[str, str] | None) -> None:
    """Both claims must be there as text; a principal that was built by hand says it in its fields."""
    principal = RequestPrincipal(issuer, subject, freeze_claims(claims))
    assert _read.request_principal(with_principal(principal)) == found


def with_principal(principal: RequestPrincipal | None, bound: Bound | None = None) -> Attributes:
    """A request of this user."""
    return replace(request(), principal=principal, bound=bound)


def test_what_a_legacy_policy_binds_comes_first() -> None:
    """Nobody is nobody then, whatever the token says."""
    user = RequestPrincipal("i", "s", freeze_claims({"iss": "i", "sub": "s", "aud": ["a", "b", 7]}))
    assert _read.request_principal(with_principal(None)) is None
    assert _read.request_principal(with_principal(user, Bound("td/ns/a/sa/b", "web"))) == "td/ns/a/sa/b"
    assert _read.request_principal(with_principal(user, Bound("", ""))) is None
    assert _read.audiences(with_principal(user)) == ("a", "b")
    assert _read.audiences(with_principal(user, Bound("x", "web"))) == ("web",)
    assert _read.audiences(with_principal(user, Bound("x", ""))) == ()


@pytest.mark.parametrize(
    ("claims", "path", "found"),
    [
        ({"a": "x"}, ("a",), ("x",)),
        ({"a": ["x", 7, "y", None, ["z"]]}, ("a",), ("x", "y")),
        ({"a": 7}, ("a",), ()),
        ({"a": True}, ("a",), ()),
        ({"a": {"b": "x"}}, ("a",), ()),
        ({"a": {"b": "x"}}, ("a", "b"), ("x",)),
        ({"a": {"b": {"c": ["x"]}}}, ("a", "b", "c"), ("x",)),
        ({"a": [{"b": "x"}]}, ("a", "b"), ()),
        ({"a": "x"}, ("a", "b"), ()),
        ({}, ("a",), ()),
    ],
)
@pytest.mark.parametrize("frozen", [True, False])
def test_a_claim(claims: dict[str, Any], path: tuple[str, ...], found: tuple[str, ...], frozen: bool) -> None:
    """Text, or the texts of a list; objects only as a way to what is in them."""
    principal = RequestPrincipal("i", "s", freeze_claims(claims) if frozen else claims)
    assert _read.claim(path)(with_principal(principal)) == found
    assert _read.claim(path)(with_principal(None)) == ()


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (_read.show_text, None, None),
        (_read.show_text, "", None),
        (_read.show_text, "a\n\u20ac", "'a\\n\\u20ac'"),
        (_read.show_text, "x" * 80, f"'{'x' * 80}'"),
        (_read.show_text, "x" * 81, f"'{'x' * 80}'..."),
        (_read.show_first, (), "(not known)"),
        (_read.show_first, ("a", "b"), "'a'"),
        (_read.show_names, None, None),
        (_read.show_names, ("prod", "spiffe://x"), "'prod'"),
        (_read.show_names, (None, "spiffe://x"), "'spiffe://x'"),
        (_read.show_number, None, "(not known)"),
        (_read.show_number, 0, "0"),
        (_read.show_numbers, None, "(not known)"),
        (_read.show_numbers, (ip_address("10.0.0.1"), ip_address("::1")), "10.0.0.1 or ::1"),
        (_read.show_request_principal, None, None),
        (_read.show_request_principal, "td/a", "'td/a'"),
        (_read.show_request_principal, ("i", "s"), "'i/s'"),
        (_read.show_lines, ((), ""), None),
        (_read.show_lines, (("a", "", "b"), ""), "'a' and '' and 'b'"),
        (_read.show_hidden, (), None),
        (_read.show_hidden, ("secret",), "(hidden)"),
        (_read.show_hidden, ((), ""), None),
    ],
)
def test_how_it_is_shown(show: Any, value: Any, text: str | None) -> None:
    """Quoted, escaped and cut; what is missing, and what is hidden, is said."""
    assert show(value) == text
