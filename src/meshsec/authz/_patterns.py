"""What one value of a policy becomes: trust domain aliases expanded, request principals split, names separated.

Each function reads one value of one kind of attribute into patterns, which are data. Must not know: requests.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from ..attributes import Target, read_target
from ..matching import Glob, IpBlock, Kind, PathTemplate, StringPattern, parse_path_pattern
from ..resources import PathNormalization

__all__ = ["Pattern", "RequestPrincipalPattern", "Scope", "ServiceAccount"]

_LOCAL: Final = "cluster.local"
_NONEMPTY: Final = StringPattern(Kind.NONEMPTY, "")


@dataclass(frozen=True, slots=True)
class Scope:
    """What the meaning of a value depends on, besides its own text.

    Attributes:
        namespace: the policy's.
        trust_domains: the mesh's own first, then its aliases.
        normalization: what becomes of a path before it is judged.
    """

    namespace: str
    trust_domains: tuple[str, ...]
    normalization: PathNormalization = PathNormalization.BASE


@dataclass(frozen=True, slots=True)
class RequestPrincipalPattern:
    """A request principal is not one text: the issuer and the subject are matched apart, split at the last slash.

    Attributes:
        issuer: of the token.
        subject: of the token.
        whole: what a legacy Policy binds, which is one text.
    """

    issuer: StringPattern
    subject: StringPattern
    whole: StringPattern = _NONEMPTY

    @classmethod
    def parse(cls, text: str) -> Self:
        """Istio's split. ``https://issuer*`` is split inside ``//`` and so matches nothing; write ``issuer/*``."""
        return cls(*_split(text), StringPattern.parse(text, nonempty=True))

    def matches(self, issuer: str, subject: str) -> bool:
        """Whether a token that has both claims matches."""
        return self.issuer.matches(issuer) and self.subject.matches(subject)

    def __str__(self) -> str:
        return f"{self.issuer}/{self.subject}"


def _split(text: str) -> tuple[StringPattern, StringPattern]:
    head, slash, tail = text.rpartition("/")
    if text == "*":
        return _NONEMPTY, _NONEMPTY
    if text.startswith("*"):
        return (_ends(head), _exact(tail)) if slash else (_NONEMPTY, _ends(text))
    if text.endswith("*"):
        return (_exact(head), _begins(tail)) if slash else (_begins(text), _NONEMPTY)
    return (_exact(head), _exact(tail)) if slash else (_exact(text), _exact(""))


def _exact(text: str) -> StringPattern:
    return StringPattern(Kind.EXACT, text)


def _ends(text: str) -> StringPattern:
    return _NONEMPTY if text == "*" else StringPattern(Kind.SUFFIX, text[1:])


def _begins(text: str) -> StringPattern:
    return _NONEMPTY if text == "*" else StringPattern(Kind.PREFIX, text[:-1])


@dataclass(frozen=True, slots=True, order=True)
class ServiceAccount:
    """A Kubernetes service account; the trust domain does not count."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


Pattern = StringPattern | PathTemplate | Glob | IpBlock | RequestPrincipalPattern | ServiceAccount | int


def present_text(text: str, _scope: Scope) -> Iterable[Pattern]:
    """Headers, methods: ``*`` asks for presence, even of an empty value."""
    return (StringPattern.parse(text),)


def nonempty_text(text: str, _scope: Scope) -> Iterable[Pattern]:
    """Claims, SNI: ``*`` asks for one character at least."""
    return (StringPattern.parse(text, nonempty=True),)


def host(text: str, _scope: Scope) -> Iterable[Pattern]:
    """Hosts do not know case."""
    return (StringPattern.parse(text.lower()),)


def path(text: str, scope: Scope) -> Iterable[Pattern]:
    """Star forms and templates. Raises ValueError for a path that is always normalized to another one."""
    pattern = parse_path_pattern(text)
    if isinstance(pattern, StringPattern) and pattern.kind is Kind.EXACT:
        target = read_target(text, scope.normalization, "istio")
        if not isinstance(target, Target) or target.path != text:
            judged = f": it is judged as {target.path!a}" if isinstance(target, Target) else ""
            raise ValueError(f"{text[:80]!a} can match no path under {scope.normalization}{judged}")
    return (pattern,)


def port(text: str, _scope: Scope) -> Iterable[Pattern]:
    """A decimal port."""
    return (int(text),)


def ip_block(text: str, _scope: Scope) -> Iterable[Pattern]:
    """An address or a CIDR block."""
    return (IpBlock.parse(text),)


def namespace(text: str, _scope: Scope) -> Iterable[Pattern]:
    """Stars anywhere."""
    return (Glob.parse(text),)


def service_account(text: str, scope: Scope) -> Iterable[Pattern]:
    """``namespace/name``, or ``name`` in the policy's own namespace."""
    head, _, tail = text.rpartition("/")
    return (ServiceAccount(head or scope.namespace, tail),)


def request_principal(text: str, _scope: Scope) -> Iterable[Pattern]:
    """``issuer/subject``."""
    return (RequestPrincipalPattern.parse(text),)


def trust_domain(text: str, scope: Scope) -> Iterable[Pattern]:
    """One of the mesh's own domains stands for all of them; ``cluster.local`` is not magic here."""
    names = scope.trust_domains if text in scope.trust_domains else (text,)
    return (StringPattern.parse(name) for name in names)


def principal(text: str, scope: Scope) -> Iterable[Pattern]:
    """A SPIFFE ID without its scheme. One of the mesh's own trust domains, or ``cluster.local``, stands for all."""
    return (StringPattern.parse(name, nonempty=True) for name in _expand_aliases(text, scope.trust_domains))


def _expand_aliases(text: str, domains: tuple[str, ...]) -> tuple[str, ...]:
    domain, _, rest = text.partition("/")
    if text.count("/") != 4 or domain == "*":
        return (text,)
    if domain != _LOCAL and not any(_compatible(domain, own) for own in domains):
        return (text,)
    # A pattern such as *-td already covers the domains that end so: it is kept, once.
    kept = domain.startswith("*")
    return tuple(dict.fromkeys(text if kept and _covers(domain, own) else f"{own}/{rest}" for own in domains))


def _compatible(domain: str, own: str) -> bool:
    return domain == own or _covers(domain, own) or _covers(own, domain)


def _covers(pattern: str, domain: str) -> bool:
    return "*" in pattern and StringPattern.parse(pattern).matches(domain)
