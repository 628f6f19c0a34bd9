"""What a value must look like for any request to match it: one check for each attribute that has a form.

A value that can match nothing is a mistake that Istio does not see: in a DENY it protects nothing, under a negation
it is always true. Must not know: fields, how an attribute is matched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ..matching import IpBlock, Kind, StringPattern

__all__ = [
    "METHODS",
    "check_header_value",
    "check_host",
    "check_ip_block",
    "check_method",
    "check_namespace",
    "check_port",
    "check_principal",
    "check_request_principal",
    "check_service_account",
    "check_sni",
    "check_trust_domain",
]

METHODS: Final = frozenset({
    "ACL", "BIND", "CHECKOUT", "COPY", "DELETE", "GET", "HEAD", "LINK", "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR",
    "MKCOL", "MOVE", "NOTIFY", "OPTIONS", "PATCH", "POST", "PROPFIND", "PROPPATCH", "PURGE", "PUT", "REBIND",
    "REPORT", "SEARCH", "SOURCE", "SUBSCRIBE", "TRACE", "UNBIND", "UNLINK", "UNLOCK", "UNSUBSCRIBE",
})  # fmt: skip
"""What Envoy's HTTP/1 codec takes; every other method is 400, there and here. Methods are case-sensitive."""

_SCHEME: Final = "spiffe://"
_ID: Final = re.compile(r"[A-Za-z0-9._/-]*")  # the characters of a SPIFFE ID after its scheme
_GLOB: Final = re.compile(r"[A-Za-z0-9._/*-]*")
_DOMAIN: Final = re.compile(r"[a-z0-9._-]{0,255}")
_ACCOUNT: Final = re.compile(r"[A-Za-z0-9._-]+")
_HOST: Final = re.compile(r"[a-z0-9._~:@!$&'()+,;=%\[\]-]*")
_SNI: Final = re.compile(r"[!-@\[-~]*")  # visible ASCII without upper case
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_NO_SEGMENTS: Final = ("", ".", "..")
_REST_SLASHES: Final = 3  # of ns/namespace/sa/account, after the trust domain and its slash


def check_ip_block(text: str) -> None:
    """An address or a CIDR block."""
    IpBlock.parse(text)


def check_port(text: str) -> None:
    """A decimal port, as text."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) <= 65535):
        raise ValueError(f"{text[:20]!a} is no port: a number from 1 to 65535, in quotes")


def check_service_account(text: str) -> None:
    """``name`` or ``namespace/name``, no wildcard."""
    parts = text.split("/")
    if len(text) > 320 or len(parts) > 2 or not _are_segments(parts) or not _ID.fullmatch(text):
        raise ValueError(f"{text[:80]!a} is no service account: name or namespace/name, without wildcards")


def check_trust_domain(text: str) -> None:
    """A trust domain, with at most one star, at an end."""
    if "/" in text or "*" in text[1:-1] or text.count("*") > 1:
        raise ValueError(f"{text[:80]!a} is no trust domain: no slash, and at most one '*', at an end")
    if not _DOMAIN.fullmatch(text.strip("*")):
        raise _nothing(text, "a trust domain has lower-case letters, digits and . _ - only")


def check_principal(text: str) -> None:
    """A SPIFFE ID without its scheme, or the beginning or the end of one."""
    if text.startswith(_SCHEME):
        raise _nothing(text, f"a principal is written without {_SCHEME}")
    pattern = StringPattern.parse(_with_plain_domain(text), nonempty=True)
    segments = pattern.text.split("/")
    if not _ID.fullmatch(pattern.text):
        raise _nothing(text, "SPIFFE IDs hold no such character, and a star counts at one end only")
    if not _are_segments(segments[_WHOLE[pattern.kind]]):
        raise _nothing(text, "SPIFFE IDs have no empty segments and no dot segments")
    if pattern.kind in (Kind.EXACT, Kind.PREFIX) and not _DOMAIN.fullmatch(segments[0]):
        raise _nothing(text, "trust domains are in lower case")
    if pattern.kind is Kind.EXACT and len(segments) == 1:
        raise _nothing(text, "it names no workload: write trust-domain/ns/namespace/sa/account, or a star")


def check_namespace(text: str) -> None:
    """A Kubernetes namespace, in which stars may stand anywhere."""
    if not _GLOB.fullmatch(text) or not _are_segments(text.split("/")):
        raise _nothing(text, "a namespace has letters, digits and . _ - only")


def check_request_principal(text: str) -> None:
    """``issuer/subject``, which are split at the last slash, or with a star."""
    head, slash, tail = text.rpartition("/")
    if text == "*" or (not slash and "*" in (text[0], text[-1])):
        return
    if head.endswith(":/"):
        raise _nothing(text, "it is split at its last slash, inside the issuer: write issuer/subject or issuer/*")
    if not head or not tail:
        raise _nothing(text, "it names an issuer or a subject only: write issuer/subject, issuer/* or */subject")


def check_host(text: str) -> None:
    """A host, with the port if the client is to send one."""
    literal = StringPattern.parse(text.lower()).text
    if "*" in literal:
        raise _nothing(text, "a star counts at one end only")
    if not _HOST.fullmatch(literal):
        raise _nothing(text, "hosts hold no such character: neither a scheme nor a path belongs here")


def check_method(text: str) -> None:
    """A method in upper case."""
    pattern = StringPattern.parse(text)
    if not any(map(pattern.matches, METHODS)):
        known = text.upper() in METHODS
        raise _nothing(text, f"write {text.upper()}" if known else "no request with such a method is let in")


def check_sni(text: str) -> None:
    """A TLS server name, which is compared in lower case."""
    if not _SNI.fullmatch(text):
        raise _nothing(text, "server names are compared in lower case, and are visible ASCII")


def check_header_value(text: str) -> None:
    """The value of a header's line, which has no white space at its ends and no control characters."""
    pattern = StringPattern.parse(text)
    ends = (pattern.text[:1] if pattern.kind is not Kind.SUFFIX else "") + (
        pattern.text[-1:] if pattern.kind is not Kind.PREFIX else ""
    )
    if _CONTROL.search(text) or " " in ends or "\t" in ends:
        raise _nothing(text, "values have no white space at their ends, and no control characters")


# Which segments of a pattern for SPIFFE IDs are whole ones.
_WHOLE: Final = {
    Kind.EXACT: slice(None),
    Kind.PREFIX: slice(0, -1),
    Kind.SUFFIX: slice(1, None),
    Kind.NONEMPTY: slice(0, 0),
}


def _nothing(text: str, why: str) -> ValueError:
    return ValueError(f"{text[:80]!a} can match nothing: {why}")


def _are_segments(parts: Iterable[str]) -> bool:
    return not any(part in _NO_SEGMENTS for part in parts)


def _with_plain_domain(text: str) -> str:
    """Where the trust domain of an Istio ID has a star, it may stand for the mesh's own: read as one of these."""
    domain, _, rest = text.partition("/")
    starred = rest.count("/") == _REST_SLASHES and "*" in domain and domain != "*"
    return f"{domain.strip('*')}/{rest}" if starred else text
