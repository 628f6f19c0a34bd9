"""External authorizers: ``meshConfig.extensionProviders``, as far as CUSTOM policies use them.

Belongs here: Istio's fields of ``envoyExtAuthzHttp`` and their own rules. Must not know: how an authorizer is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, model_validator

from ._host import host_key
from ._model import Model, PortNumber, Text, Token, checked, is_dns_label, is_token
from ._request_authentication import duration

__all__ = ["ExtAuthzHttp", "ExtensionProviderShape", "providers_by_name"]

_STATUS: Final = re.compile(r"[45][0-9]{2}")
_PREFIX: Final = re.compile(r"/[!-\"$->@-~]*")
_VALUE: Final = re.compile("[\t\x20-\x7e\x80-\xff]*")
_GRPC: Final = "envoyExtAuthzGrpc is not supported: authorizers are asked over HTTP (envoyExtAuthzHttp) or in Python"

# What HTTP itself says with; an authorizer must not change how a message is read.
_FRAMING: Final = frozenset({
    "connection", "content-length", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip


def _service(text: str) -> None:
    """``host`` or ``namespace/host``."""
    namespace, slash, host = text.rpartition("/")
    if slash and not is_dns_label(namespace):
        raise ValueError(f"{text[:80]!a}: before the slash belongs a namespace")
    host_key(host)


def _name(text: str) -> None:
    if not is_dns_label(text):
        raise ValueError(f"{text[:80]!a} is no provider's name: a-z 0-9 - only, at most 63")


def _status(text: str) -> None:
    if not _STATUS.fullmatch(text):
        raise ValueError("a status from 400 to 599 belongs here, in quotes")


def _path_prefix(text: str) -> None:
    if not _PREFIX.fullmatch(text):
        raise ValueError("a path that begins with / belongs here, without query")


def _header_pattern(text: str) -> None:
    """Exact, ``prefix*`` or ``*suffix``; a star alone would be every header there is."""
    if not is_token(text) or "*" in text[1:-1] or not text.strip("*"):
        raise ValueError(f"{text[:80]!a}: the name of a header belongs here, or prefix*, or *suffix; not * alone")


def _settable(text: str) -> None:
    _header_pattern(text)
    if text.lower() in _FRAMING:
        raise ValueError(f"{text} says how a message is read: an authorizer cannot set it")


def _header_value(text: str) -> None:
    if not _VALUE.fullmatch(text):
        raise ValueError("a header's value has no control characters")


def _refused(reason: str) -> BeforeValidator:
    def refuse(_: object) -> object:
        raise ValueError(reason)

    return BeforeValidator(refuse)


_Patterns = tuple[Annotated[Text, checked(_header_pattern)], ...]
_Settable = tuple[Annotated[Text, checked(_settable)], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtAuthzHttp:
    """An authorizer that is asked over HTTP (Istio's ``envoyExtAuthzHttp``).

    Names of headers are exact, ``prefix*`` or ``*suffix``, in any case.

    Attributes:
        service: its host, or ``namespace/host``; where the mesh names the host, it is asked over mutual TLS.
        port: where it listens.
        timeout: seconds for one check.
        fail_open: whether a request passes when the authorizer cannot be asked.
        status_on_error: the status of the answer when it cannot be asked.
        path_prefix: stands before the path of the request in a check.
        include_request_headers_in_check: the client's headers it gets, besides Host and Authorization.
        include_additional_headers_in_check: what else it gets; these win over the client's.
        headers_to_upstream_on_allow: headers of its answer that the application gets; they win over the client's.
        headers_to_downstream_on_allow: headers of its answer that the client gets when the request passes.
        headers_to_downstream_on_deny: headers of its answer that the client gets with a refusal; none named: all.
    """

    service: Annotated[Text, checked(_service)]
    port: PortNumber
    timeout: Annotated[float, BeforeValidator(duration)] = 600.0
    fail_open: Annotated[bool, Field(strict=True)] = False
    status_on_error: Annotated[Text, checked(_status)] = "403"
    path_prefix: Annotated[Text, checked(_path_prefix)] = ""
    include_request_headers_in_check: _Patterns = ()
    include_additional_headers_in_check: Mapping[
        Token, Annotated[str, Field(strict=True), checked(_header_value)]
    ] = field(default_factory=lambda: MappingProxyType({}))
    headers_to_upstream_on_allow: _Settable = ()
    headers_to_downstream_on_allow: _Settable = ()
    headers_to_downstream_on_deny: _Settable = ()

    @property
    def host(self) -> str:
        """The service without its namespace."""
        return self.service.rpartition("/")[2]


class ExtensionProviderShape(Model):
    """One entry of ``extensionProviders``; what is not for authorization is accepted by name and has no effect."""

    name: Annotated[Text, checked(_name)]
    envoy_ext_authz_http: ExtAuthzHttp | None = None
    envoy_ext_authz_grpc: Annotated[Any, _refused(_GRPC)] = None

    envoy_http_als: Any = Field(default=None, repr=False)
    envoy_tcp_als: Any = Field(default=None, repr=False)
    envoy_otel_als: Any = Field(default=None, repr=False)
    envoy_file_access_log: Any = Field(default=None, repr=False)
    prometheus: Any = Field(default=None, repr=False)
    stackdriver: Any = Field(default=None, repr=False)
    opencensus: Any = Field(default=None, repr=False)
    opentelemetry: Any = Field(default=None, repr=False)
    zipkin: Any = Field(default=None, repr=False)
    lightstep: Any = Field(default=None, repr=False)
    datadog: Any = Field(default=None, repr=False)
    skywalking: Any = Field(default=None, repr=False)
    sds: Any = Field(default=None, repr=False)

    @model_validator(mode="after")
    def _one_kind(self) -> ExtensionProviderShape:
        if len(self.kinds) > 1:
            raise ValueError(f"a provider is of one kind, not of {len(self.kinds)}")
        return self

    @property
    def kinds(self) -> list[str]:
        """The fields that are given, besides the name."""
        return [name for name, value in vars(self).items() if name != "name" and value is not None]


def providers_by_name(shapes: Iterable[ExtensionProviderShape]) -> Mapping[str, ExtAuthzHttp | None]:
    """Those that can authorize; an entry that holds nothing but its name is one that the program brings along."""
    return {
        shape.name: shape.envoy_ext_authz_http for shape in shapes if shape.envoy_ext_authz_http or not shape.kinds
    }
