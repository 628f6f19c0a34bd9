"""matching: every form of a policy's value, against what it matches and what it just misses."""

from __future__ import annotations

import contextlib
import ipaddress
import re

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from meshsec.matching import (
    Glob,
    IpBlock,
    Kind,
    PathSet,
    PathTemplate,
    PatternSet,
    StringPattern,
    parse_ip,
    parse_path_pattern,
)
from sweeping import sweep

FORMS = [
    ("/a", Kind.EXACT, "/a"),
    ("/a*", Kind.PREFIX, "/a"),
    ("*.html", Kind.SUFFIX, ".html"),
    ("*", Kind.PRESENT, ""),
    ("*/x*", Kind.SUFFIX, "/x*"),
    ("**", Kind.SUFFIX, "*"),
    ("a*b", Kind.EXACT, "a*b"),
    (" a ", Kind.EXACT, " a "),
]

MATCHES = [
    ("/a", "/a", "/a/"),
    ("/a*", "/a", "/"),
    ("/a*", "/ab/c", "x/a"),
    ("*.html", ".html", "html"),
    ("*.html", "/x.html", "/x.html/"),
    ("*/x*", "/a/x*", "/a/xy"),
    ("a*b", "a*b", "acb"),
    ("Case", "Case", "case"),
]

# Template, path, whether Envoy 1.39 matches.
TEMPLATES = [
    ("/foo/{*}", "/foo/a", True),
    ("/foo/{*}", "/foo/a%2Fb", True),
    ("/foo/{*}", "/foo/*", True),
    ("/foo/{*}", "/foo/", False),
    ("/foo/{*}", "/foo/a/", False),
    ("/foo/{*}", "/foo", False),
    ("/foo/{*}", "/foo/a/bar", False),
    ("/foo/{**}", "/foo/", True),
    ("/foo/{**}", "/foo//", True),
    ("/foo/{**}", "/foo/a/b", True),
    ("/foo/{**}", "/foo", False),
    ("/foo/{**}/", "/foo/a/", True),
    ("/foo/{**}/", "/foo//", True),
    ("/foo/{**}/", "/foo/", False),
    ("/foo/{**}/", "/foo/a", False),
    ("/foo/{*}/bar/{**}", "/foo/a/bar/", True),
    ("/foo/{*}/bar/{**}", "/foo/a/bar/b/c", True),
    ("/foo/{*}/bar/{**}", "/foo/a/bar", False),
    ("/foo/{*}/bar/{**}", "/foo//bar/", False),
    ("/store/{**}/cart", "/store//cart", True),
    ("/store/{**}/cart", "/store/a/b/cart", True),
    ("/store/{**}/cart", "/store/cart", False),
    ("/{**}", "/", True),
    ("/{**}", "/a//b", True),
    ("/{*}", "/a", True),
    ("/{*}", "/", False),
    ("/a%2Fb/{*}", "/a%2Fb/x", True),
    ("/a%2Fb/{*}", "/a%2fb/x", False),
    ("/a:b/{*}/", "/a:b/x/", True),
]

BAD_PATHS = [
    "",
    "admin",
    "admin*",
    "{*}",
    "foo/{*}",
    "/a/{*}.txt",
    "/a/{*}{*}",
    "/{**}/{*}",
    "/{**}/a/{**}",
    "/a//{*}",
    "//{*}",
    "/a*/{*}",
    "/a b/{*}",
    "/a/{x}",
    "/a{",
    "/a}",
    "/{*",
    "/{}/{*}",
    "/a?b",
    "/a#b",
    "*?b",
    "/a b",
    "/a\n",
    "/caf\u00e9",
]

BLOCKS = [
    ("10.1.2.3", "10.1.2.3", "10.1.2.4"),
    ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
    ("10.9.9.9/8", "10.0.0.1", "9.9.9.9"),
    ("0.0.0.0/0", "255.255.255.255", "::1"),
    ("10.0.0.0/31", "10.0.0.1", "10.0.0.2"),
    ("::/0", "::ffff:10.0.0.1", "10.0.0.1"),
    ("2001:db8::/32", "2001:db8:1::1", "2001:db9::1"),
    ("::ffff:10.0.0.0/104", "::ffff:10.1.2.3", "10.1.2.3"),
    ("fe80::/10", "fe80::1%eth0", "fec0::1"),
]

BAD_BLOCKS = [
    "", "/", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0.0/255.0.0.0", "10.0.0.0/8/8", "10.0.0",
    "010.0.0.1", "10.0.0.0/٨", " 10.0.0.1", "::/129", "fe80::1%eth0", "fe80::%1/64", "localhost", "10.0.0.0/0008",
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "literal"), FORMS)
def test_forms(text: str, kind: Kind, literal: str) -> None:
    """A leading star is looked at first, and only one star is special."""
    pattern = StringPattern.parse(text)
    assert (pattern.kind, pattern.text) == (kind, literal)
    assert str(pattern) == text


@pytest.mark.parametrize(("text", "good", "bad"), MATCHES)
def test_strings_match(text: str, good: str, bad: str) -> None:
    """Each form matches one value and misses its near neighbour."""
    pattern = StringPattern.parse(text)
    assert pattern.matches(good)
    assert not pattern.matches(bad)


def test_star_means_present_or_not_empty() -> None:
    """Whether the empty value counts is the attribute's business."""
    assert StringPattern.parse("*").matches("")
    assert not StringPattern.parse("*", nonempty=True).matches("")
    assert StringPattern.parse("*", nonempty=True).matches("x")


def test_empty_patterns_are_refused() -> None:
    """An empty value would match nothing, or everything."""
    with pytest.raises(ValueError, match="empty"):
        StringPattern.parse("")


@pytest.mark.parametrize(("template", "path", "expected"), TEMPLATES)
def test_templates(template: str, path: str, expected: bool) -> None:
    """Templates match whole paths as Envoy does."""
    parsed = parse_path_pattern(template)
    assert isinstance(parsed, PathTemplate)
    assert parsed.matches(path) is expected
    assert parsed.matches(path, strict=True) is expected
    assert str(parsed) == template


@pytest.mark.parametrize("text", BAD_PATHS)
def test_bad_path_patterns(text: str) -> None:
    """What is no template, or can match no path, is refused with a reason."""
    with pytest.raises(ValueError, match=r"."):
        parse_path_pattern(text)


def test_operators_stand_for_every_byte() -> None:
    """No character of a path escapes a template, wherever it stands."""
    one, any_ = PathTemplate.parse("/a/{*}"), PathTemplate.parse("/a/{**}")
    missed = {chr(byte) for byte in range(256) if not one.matches(f"/a/x{chr(byte)}y")}
    assert missed == {"/"}
    assert all(any_.matches(f"/a/{chr(byte)}") for byte in range(256))


def test_envoy_operators_do_not() -> None:
    """Envoy's miss what RFC 3986 does not have in a path: measured on 1.39.3."""
    one = PathTemplate.parse("/a/{*}")
    missed = {chr(code) for code in range(0x21, 0x7F) if not one.matches(f"/a/{chr(code)}", strict=True)}
    assert missed == set('"#/<>?[\\]^`{|}')


def naive_template(text: str) -> re.Pattern[str]:
    """The template as a regular expression: an oracle that shares no code with the matcher."""
    pieces = ({"{*}": "[^/]+", "{**}": ".*"}.get(piece, re.escape(piece)) for piece in re.split(r"(\{\*\*?\})", text))
    return re.compile("".join(pieces), re.DOTALL)


SEGMENTS = st.sampled_from(["a", "b", "ab", "{*}", "a.b", "%2F"])


@given(
    head=st.lists(SEGMENTS, max_size=3),
    tail=st.one_of(st.none(), st.lists(st.sampled_from(["a", "ab", ""]), max_size=2)),
    path=st.lists(st.sampled_from(["a", "b", "ab", "", "a.b", "%2F", "x\n"]), max_size=6),
)
@settings(max_examples=400)
@example(head=["a"], tail=["", ""], path=["a", "", ""])
def test_templates_agree_with_a_naive_matcher(head: list[str], tail: list[str] | None, path: list[str]) -> None:
    """The linear matcher and a regular expression say the same."""
    text = "/" + "/".join(head if tail is None else [*head, "{**}", *tail])
    assume("{" in text and "//" not in text)
    value = "/" + "/".join(path)
    assert PathTemplate.parse(text).matches(value) is bool(naive_template(text).fullmatch(value))


@given(pattern=st.text("ab*/.", max_size=8), value=st.text("ab/.", max_size=10))
@settings(max_examples=400)
def test_globs_agree_with_a_naive_matcher(pattern: str, value: str) -> None:
    """Every star stands for any text."""
    naive = re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)
    assert Glob.parse(pattern).matches(value) is bool(naive.fullmatch(value))


@given(texts=st.lists(st.text("ab*", min_size=1, max_size=4), max_size=5), value=st.text("ab", max_size=5))
@settings(max_examples=200)
def test_a_set_is_its_patterns(texts: list[str], value: str) -> None:
    """Sorting patterns by form changes no answer."""
    patterns = [StringPattern.parse(text, nonempty=True) for text in texts]
    assert PatternSet.of(patterns).matches(value) is any(pattern.matches(value) for pattern in patterns)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [("/a:b", "/a%3Ab"), ("/a%3Ab", "/a:b"), ("/caf%C3%A9", "/caf%c3%a9"),
     ("/a%20b*", "/a%20%62c"), ("/a:b/{*}", "/a%3Ab/c"), ("/a", "/a/"), ("/a", "/a//"), ("/a", "/%61%2F"),
     ("/{*}", "/a/"), ("*.html", "/a.html/"), ("/a/", "/a"), ("/a//", "/a"), ("/a/", "/a///"), ("/a/*", "/a"),
     ("*/a/", "/b/a"), ("/a/{*}/", "/a/b"), ("/a/{**}", "/a"), ("/{*}/{**}", "/a"), ("/a/{**}/b/", "/a/c/b"),
     ("/%61/", "/a"), ("/a%2F", "/a")],
)  # fmt: skip
def test_spellings(pattern: str, path: str) -> None:
    """Two spellings of one path match, unless the very spelling is asked for."""
    paths = PathSet.of([parse_path_pattern(pattern)])
    assert paths.matches(path)
    assert not paths.matches_strictly(path)


def test_other_paths_are_other_paths() -> None:
    """Neither decoding nor a slash at the end makes a path match that is another one."""
    assert not PathSet.of([parse_path_pattern("/a:b")]).matches("/a;b")
    assert not PathSet.of([parse_path_pattern("/a/")]).matches("/")
    assert not PathSet.of([parse_path_pattern("/a/{*}")]).matches("/a/")
    assert PathSet.of([parse_path_pattern("/a:b")]).matches_strictly("/a:b")


@pytest.mark.parametrize(
    ("pattern", "path"),
    [("*/", "/a"), ("/a/{**}/", "/a/b"), ("/a/b/*", "/a"), ("/a/", "/ab"), ("/a/{*}/", "/a")],
)
def test_a_slash_that_is_meant(pattern: str, path: str) -> None:
    """Where the slash is all that a pattern asks for, or where another segment is missing, it stays another path."""
    assert not PathSet.of([parse_path_pattern(pattern)]).matches(path)


@pytest.mark.parametrize(("block", "inside", "outside"), BLOCKS)
def test_blocks(block: str, inside: str, outside: str) -> None:
    """Host bits do not count, and IPv4 and IPv6 never meet."""
    parsed = IpBlock.parse(block)
    assert parsed.contains(inside)
    assert not parsed.contains(outside)


@pytest.mark.parametrize("text", BAD_BLOCKS)
def test_bad_blocks(text: str) -> None:
    """Neither zones nor netmasks nor odd numbers."""
    with pytest.raises(ValueError, match=r"address|prefix"):
        IpBlock.parse(text)


@given(
    network=st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
    length=st.integers(0, 128),
    value=st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
)
@settings(max_examples=200)
def test_blocks_agree_with_the_standard_library(
    network: ipaddress.IPv4Address | ipaddress.IPv6Address,
    length: int,
    value: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """The same addresses lie in the block."""
    text = f"{network}/{min(length, network.max_prefixlen)}"
    assert IpBlock.parse(text).contains(str(value)) is (value in ipaddress.ip_network(text, strict=False))
    assert str(IpBlock.parse(text)) == str(ipaddress.ip_network(text, strict=False))


@given(text=st.text(max_size=12))
@settings(max_examples=200)
def test_every_parser_refuses_with_a_reason(text: str) -> None:
    """Any text is a value or a ValueError, never anything else."""
    for parser in (parse_path_pattern, StringPattern.parse, IpBlock.parse):
        with contextlib.suppress(ValueError):
            parser(text)
    parse_ip(text)


@sweep("code")
def test_one_odd_character(code: int) -> None:
    """No character breaks a parser or a matcher."""
    char = chr(code)
    paths = PathSet.of([StringPattern.parse(f"/x{char}y")])
    assert paths.matches(f"/x{char}y")
    assert paths.matches(f"/x%{code:02x}y") is (code < 0x80)
    assert not IpBlock.parse("::/0").contains(f"::g{char}")
