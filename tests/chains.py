"""Chains of every right and wrong kind, as tables: for our own judgement, and for other people's TLS clients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography import x509
from cryptography.x509.oid import ObjectIdentifier

from meshsec.spiffe import Role
from pki import LIFETIME, NOW, Key, TestCA

__all__ = ["ACCEPTED", "NOT_SUPPORTED", "PROFILE", "REFUSED", "ROLES", "WEB", "Case", "uri_permitted"]

ROLES: Final[tuple[Role, ...]] = ("client", "server")
WEB: Final = "spiffe://td.example/ns/prod/sa/web"
UNKNOWN_CRITICAL: Final = (x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00"), True)
UNKNOWN: Final = (UNKNOWN_CRITICAL[0], False)


def uri_permitted(host: str) -> list[tuple[x509.ExtensionType, bool]]:
    """A name constraint on URIs."""
    return [(x509.NameConstraints([x509.UniformResourceIdentifier(host)], None), True)]


def dns_excluded(name: str) -> list[tuple[x509.ExtensionType, bool]]:
    """A name constraint on DNS names."""
    return [(x509.NameConstraints(None, [x509.DNSName(name)]), True)]


def _to_the_root(chain: list[bytes], cas: list[TestCA]) -> tuple[list[bytes], list[bytes]]:
    return chain, [cas[0].der]


@dataclass
class Case:
    """A chain to be judged: a root, the CAs between, a leaf, and what of them is presented and what trusted.

    By default the peer presents all but the root, and the root is trusted. ``code`` is for those that are refused.
    """

    name: str
    root: dict[str, Any] = field(default_factory=dict)
    between: list[dict[str, Any]] = field(default_factory=list)
    leaf: dict[str, Any] = field(default_factory=dict)
    arrange: Callable[[list[bytes], list[TestCA]], tuple[list[bytes], list[bytes]]] = _to_the_root
    roles: tuple[Role, ...] = ROLES
    code: str = "untrusted_chain"

    def build(self) -> tuple[list[bytes], Key, list[bytes]]:
        """The chain that is presented, its key, and the anchors."""
        cas = [TestCA("td.example", **self.root)]
        for options in self.between:
            cas.append(cas[-1].intermediate(**options))
        chain, key = cas[-1].leaf(**self.leaf)
        presented, anchors = self.arrange(chain, cas)
        return presented, key, anchors


ACCEPTED = [
    Case("plain"),
    Case("leaf with a subject", leaf={"subject": "web"}),
    Case("leaf without authority key identifier", leaf={"aki": False}),
    Case("leaf without subject key identifier", leaf={"ski": False}),
    Case("leaf with SAN not critical and no subject", leaf={"san_critical": False}),
    Case("leaf without keyUsage", leaf={"key_usage": None}),
    Case("leaf without basicConstraints", leaf={"ca": None}),
    Case("leaf without extended key usage", leaf={"eku": None}),
    Case("leaf with critical extended key usage", leaf={"eku_critical": True}),
    Case("leaf for clients only, as client", leaf={"eku": ["client"]}, roles=("client",)),
    Case("leaf for servers only, as server", leaf={"eku": ["server"]}, roles=("server",)),
    Case("leaf with DNS and IP names", leaf={"dns": ["localhost"], "ips": ["127.0.0.1"]}),
    Case("leaf with an unknown extension", leaf={"extensions": [UNKNOWN]}),
    Case("Ed25519 leaf", leaf={"key": "ed25519"}),
    Case("RSA leaf", leaf={"key": "rsa"}),
    Case("RSA root", root={"key": "rsa"}),
    Case("P-384 root", root={"key": "p384"}),
    Case("root without subject key identifier", root={"ski": False}),
    Case("no key identifier anywhere", root={"ski": False, "aki": False}, leaf={"aki": False, "ski": False}),
    Case("root with basicConstraints not critical", root={"bc_critical": False}),
    Case("root without keyUsage", root={"key_usage": None}),
    Case("root with a SPIFFE ID", root={"uris": ["spiffe://td.example"]}),
    Case("root for serverAuth and clientAuth", root={"eku": ["server", "client"]}),
    Case("root with path length 0", root={"path_length": 0}),
    Case("one intermediate", between=[{}]),
    Case("three intermediates", between=[{}, {}, {}]),
    Case("intermediate without keyUsage", between=[{"key_usage": None}]),
    Case("intermediate with path length 0", between=[{"path_length": 0}]),
    Case("intermediate with another DNS name excluded", between=[{"extensions": dns_excluded("evil.test")}]),
    Case("root sent along", arrange=lambda chain, cas: ([*chain, cas[0].der], [cas[0].der])),
    Case(
        "intermediates out of order",
        between=[{}, {}, {}],
        arrange=lambda chain, cas: ([chain[0], *reversed(chain[1:])], [cas[0].der]),
    ),
    Case(
        "strangers among the intermediates",
        between=[{}],
        arrange=lambda chain, cas: ([chain[0], TestCA("x").der, *chain[1:]], [cas[0].der]),
    ),
    Case("intermediate as the only anchor", between=[{}], arrange=lambda chain, cas: (chain, [cas[1].der])),
    Case(
        "intermediate as the only anchor, not sent",
        between=[{}],
        arrange=lambda chain, cas: (chain[:1], [cas[1].der]),
    ),
    Case("other roots in the bundle", arrange=lambda chain, cas: (chain, [TestCA().der, cas[0].der, TestCA().der])),
]

REFUSED = [
    Case("another root", arrange=lambda chain, cas: (chain, [TestCA().der])),
    Case(
        "another root of the same name",
        root={"name": "N"},
        arrange=lambda chain, cas: (chain, [TestCA(name="N").der]),
    ),
    Case("empty bundle", arrange=lambda chain, cas: (chain, [])),
    Case("expired root", root={"not_after": NOW - 1}),
    Case("root valid from in half a day", root={"not_before": NOW + LIFETIME / 2}),
    Case("expired intermediate", between=[{"not_after": NOW - 1}]),
    Case("root without keyCertSign", root={"key_usage": ["crl_sign"]}),
    Case("intermediate without keyCertSign", between=[{"key_usage": ["crl_sign"]}]),
    Case("intermediate that is not a CA", between=[{"ca": False}]),
    Case("intermediate without basicConstraints", between=[{"ca": None}]),
    Case("path length exceeded", root={"path_length": 0}, between=[{}]),
    Case("path length exceeded below", between=[{"path_length": 0}, {}]),
    Case("intermediate not sent", between=[{}], arrange=lambda chain, cas: (chain[:1], [cas[0].der])),
    Case("intermediate for code signing", between=[{"eku": ["code"]}]),
    Case("intermediate for servers, above a client", between=[{"eku": ["server"]}], roles=("client",)),
    Case("intermediate for clients, above a server", between=[{"eku": ["client"]}], roles=("server",)),
    Case("DNS name excluded", between=[{"extensions": dns_excluded("localhost")}], leaf={"dns": ["localhost"]}),
    Case("unknown critical extension in the leaf", leaf={"extensions": [UNKNOWN_CRITICAL]}),
    Case("unknown critical extension in a CA", between=[{"extensions": [UNKNOWN_CRITICAL]}]),
    Case("nine intermediates", between=[{}] * 9),
    Case("twelve intermediates", between=[{}] * 12, code="chain_too_long"),
    Case("expired leaf", leaf={"not_after": NOW - 1}, code="expired"),
    Case("leaf valid from in half a day", leaf={"not_before": NOW + LIFETIME / 2}, code="not_yet_valid"),
    Case("leaf for clients, as server", leaf={"eku": ["client"]}, roles=("server",), code="leaf_extended_key_usage"),
    Case("leaf for servers, as client", leaf={"eku": ["server"]}, roles=("client",), code="leaf_extended_key_usage"),
    Case("leaf for code signing", leaf={"eku": ["code"]}, code="leaf_extended_key_usage"),
    Case("leaf for anything", leaf={"eku": ["any"]}, code="leaf_extended_key_usage"),
    Case("another trust domain", leaf={"uris": ["spiffe://other.example/a"]}, code="unknown_trust_domain"),
    Case("a sub-domain of ours", leaf={"uris": ["spiffe://sub.td.example/a"]}, code="unknown_trust_domain"),
    Case("no certificate", arrange=lambda chain, cas: ([], [cas[0].der]), code="malformed"),
    Case("an empty certificate", arrange=lambda chain, cas: ([b""], [cas[0].der]), code="malformed"),
    Case("garbage above", arrange=lambda chain, cas: ([*chain, b"\x30\x00"], [cas[0].der]), code="malformed"),
    Case("leaf last", between=[{}], arrange=lambda chain, cas: (chain[::-1], [cas[0].der]), code="uri_san_count"),
]

# SPIFFE permits these, the path validation of ``cryptography`` does not; documented in verify_x509_svid.
NOT_SUPPORTED = [
    Case("Ed25519 root", root={"key": "ed25519"}),
    Case("Ed25519 intermediate", between=[{"key": "ed25519"}]),
    Case("root with an empty name", root={"name": ""}),
    Case("URI name constraint that holds", between=[{"extensions": uri_permitted("td.example")}]),
    Case("URI name constraint that does not hold", between=[{"extensions": uri_permitted("other.example")}]),
    Case("RSA root of 1024 bits", root={"key": "rsa1024"}),
]

# What OpenSSL takes of a leaf and SPIFFE does not: how it is made, and the code of the refusal.
PROFILE: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "a trust domain we do not know": ({"uris": ["spiffe://nobody.example/x"]}, "unknown_trust_domain"),
    "no SAN": ({"uris": [], "subject": "web"}, "uri_san_count"),
    "a DNS name only": ({"uris": [], "dns": ["localhost"]}, "uri_san_count"),
    "two IDs": ({"uris": [WEB, "spiffe://td.example/other"]}, "uri_san_count"),
    "an ID and a web address": ({"uris": [WEB, "https://td.example/"]}, "uri_san_count"),
    "no path": ({"uris": ["spiffe://td.example"]}, "no_path"),
    "a query": ({"uris": [WEB + "?x"]}, "spiffe_id_invalid"),
    "a newline": ({"uris": [WEB + "\n"]}, "spiffe_id_invalid"),
    "upper case": ({"uris": [WEB.replace("td", "TD")]}, "spiffe_id_invalid"),
    "a CA": ({"ca": True, "key_usage": ("digital_signature", "key_cert_sign")}, "leaf_is_ca"),
    "a leaf that signs certificates": ({"key_usage": ("digital_signature", "key_cert_sign")}, "leaf_key_usage"),
    "a leaf that signs CRLs": ({"key_usage": ("digital_signature", "crl_sign")}, "leaf_key_usage"),
}
