"""The outer context takes no orders, and every library that takes an ``ssl.SSLContext`` works with it."""

from __future__ import annotations

import asyncio
import http.client
import ssl
import sys
import urllib.request
from collections.abc import Callable
from typing import Any, Final

import httpx
import httpx2
import pytest
import requests
import urllib3
from cryptography.hazmat.primitives.serialization import Encoding
from requests.adapters import HTTPAdapter

from meshsec.errors import ConfigError
from meshsec.tls import MeshSSLContext, authorize_any, authorize_id, client_context, server_context
from pki import TestCA, pem
from wire import bundles, careless, material, shake_hands, wired
from world import serve

CA: Final = TestCA("td.example")
WEB: Final = "spiffe://td.example/ns/prod/sa/web"

ATTRIBUTES: Final[dict[str, Any]] = {
    "check_hostname": False,
    "keylog_filename": "/nowhere/keys.log",
    "maximum_version": ssl.TLSVersion.TLSv1_2,
    "minimum_version": ssl.TLSVersion.TLSv1_2,
    "num_tickets": 2,
    "options": 0,
    "post_handshake_auth": True,
    "sni_callback": lambda *_: ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE,
    "sslobject_class": ssl.SSLObject,
    "sslsocket_class": ssl.SSLSocket,
    "verify_flags": ssl.VERIFY_DEFAULT,
    "verify_mode": ssl.CERT_NONE,
}
METHODS: Final[dict[str, tuple[Any, ...]]] = {
    "load_cert_chain": ("/nowhere/cert.pem",),
    "load_default_certs": (),
    "load_dh_params": ("/nowhere/dh.pem",),
    "load_verify_locations": ("/nowhere/ca.pem",),
    "set_ciphers": ("NULL",),
    "set_default_verify_paths": (),
    "set_ecdh_curve": ("prime256v1",),
    "set_servername_callback": (lambda *_: ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE,),
}


def both() -> tuple[MeshSSLContext, MeshSSLContext]:
    """A server's and a client's context of the same mesh."""
    source = material(CA)
    return server_context(source), client_context(source, authorize=authorize_id(WEB))


def still_strict(server: MeshSSLContext, client: MeshSSLContext) -> None:
    """Both still talk to each other, and to nobody else."""
    shake_hands(*wired(server, client))
    stranger = TestCA("td.example").leaf()
    for pair in ((server, careless("client")), (server, careless("client", stranger))):
        with pytest.raises(ssl.SSLError):
            shake_hands(*wired(*pair))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(*wired(careless("server", stranger), client))
    old = careless("client", CA.leaf())
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shake_hands(*wired(server, old))


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_setting_an_attribute_changes_nothing(name: str) -> None:
    """Libraries assign these to whatever context they hold."""
    contexts = both()
    for context in contexts:
        before = getattr(context, name)
        setattr(context, name, ATTRIBUTES[name])
        assert getattr(context, name) == before
    still_strict(*contexts)


@pytest.mark.parametrize("name", METHODS)
def test_calling_a_method_changes_nothing(name: str) -> None:
    """Not even where the arguments are nonsense; the store stays empty because trust is elsewhere."""
    contexts = both()
    for context in contexts:
        getattr(context, name)(*METHODS[name])
        assert context.cert_store_stats() == {"x509": 0, "crl": 0, "x509_ca": 0}
    still_strict(*contexts)


def test_every_setting_of_the_ssl_module_is_known_here() -> None:
    """A new Python with a new setter must make this fail: then decide whether it may weaken a context."""
    changing = {name for name in dir(ssl.SSLContext) if name.startswith(("load_", "set_"))}
    harmless = {"set_alpn_protocols", "set_npn_protocols", "set_psk_client_callback", "set_psk_server_callback"}
    assert changing - harmless == set(METHODS)


def test_a_context_reads_as_strict_as_it_is() -> None:
    """Libraries look before they do checks of their own."""
    server, client = both()
    assert (server.verify_mode, client.verify_mode) == (ssl.CERT_REQUIRED, ssl.CERT_REQUIRED)
    assert (server.check_hostname, client.check_hostname) == (False, True)
    assert server.minimum_version == client.minimum_version == ssl.TLSVersion.TLSv1_3


def test_the_flags_are_our_own_and_not_the_versions() -> None:
    """PARTIAL_CHAIN on, STRICT off, whatever Python's defaults; and nobody is asked for a host name."""
    for context in both():
        inner = context._current()
        assert inner.verify_flags == ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_TRUSTED_FIRST
        assert (inner.verify_mode, inner.check_hostname) == (ssl.CERT_REQUIRED, False)
        assert inner.minimum_version == ssl.TLSVersion.TLSv1_3
        assert inner.options & ssl.OP_NO_TICKET
        assert inner.options & ssl.OP_NO_RENEGOTIATION
        assert inner.keylog_filename is None
    assert server_context(material(CA))._current().num_tickets == 0


@pytest.mark.parametrize("anonymous", [False, True])
def test_an_anonymous_client_shows_no_certificate(anonymous: bool) -> None:
    """Although it has one and is asked for it; it looks at the server's all the same."""
    server = careless("server", CA.leaf())
    server.verify_mode = ssl.CERT_OPTIONAL
    server.load_verify_locations(cadata=pem([CA.certificate.public_bytes(Encoding.DER)]).decode())
    client = client_context(material(CA), authorize=authorize_any(), anonymous=anonymous)
    ends = wired(server, client)
    shake_hands(*ends)
    assert (ends[0].getpeercert(binary_form=True) is None) is anonymous
    with pytest.raises(ssl.SSLError):
        shake_hands(*wired(careless("server", TestCA("td.example").leaf()), client))


def test_wrap_bio_takes_its_arguments_by_position() -> None:
    """As anyio passes them, from a thread, when the class is not exactly ssl.SSLContext."""
    server, client = both()
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    shake_hands(
        server.wrap_bio(to_server, to_client, True, None, None),
        client.wrap_bio(to_client, to_server, False, "reviews.prod", None),
    )


def test_an_attribute_that_is_not_the_ssl_modules_may_be_kept() -> None:
    """Some libraries note things of their own on a context."""
    server, _ = both()
    server.noted = "x"
    assert server.noted == "x"


def test_an_openssl_that_has_ended_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a context is made, with the sentence that helps."""
    monkeypatch.setattr(ssl, "OPENSSL_VERSION_INFO", (1, 1, 1, 23, 15))
    with pytest.raises(ConfigError, match=r"needs Python 3\.11\.5 and OpenSSL 3\.0") as caught:
        server_context(material(CA))
    assert caught.value.code == "tls_too_old"


def test_a_python_whose_tls_reads_plaintext_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2023-40217."""
    monkeypatch.setattr("meshsec.tls._context._OLDEST_PYTHON", (sys.version_info.major + 1, 0))
    with pytest.raises(ConfigError) as caught:
        server_context(material(CA))
    assert caught.value.code == "tls_too_old"


@pytest.mark.parametrize("module", ["truststore._api", "gevent.ssl"])
@pytest.mark.parametrize("early", [False, True], ids=["late", "early"])
def test_a_replaced_ssl_module_is_refused(module: str, early: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries that put their own class in its place break settings; better said at once than in a handshake.

    Before meshsec was imported gevent may, whose class ours is derived from then.
    """

    class Replaced(ssl.SSLContext):
        """As truststore and gevent inject one."""

    if not early:
        monkeypatch.setattr(ssl, "SSLContext", Replaced)
    monkeypatch.setattr(ssl.SSLContext, "__module__", module)
    if early and module == "gevent.ssl":
        server_context(material(CA))
        return
    with pytest.raises(ConfigError) as caught:
        server_context(material(CA))
    assert caught.value.code == "ssl_replaced"


def _requests(context: ssl.SSLContext, url: str, **options: Any) -> bytes:
    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **keywords: Any) -> None:
            super().init_poolmanager(*arguments, ssl_context=context, **keywords)

    with requests.Session() as session:
        session.trust_env = False
        session.mount("https://", Adapter())
        return session.get(url, timeout=20, **options).content


def _urllib3(context: ssl.SSLContext, url: str, **options: Any) -> bytes:
    with urllib3.PoolManager(ssl_context=context, retries=False, **options) as pool:
        return pool.request("GET", url).data


def _httpx(context: ssl.SSLContext, url: str) -> bytes:
    with httpx.Client(verify=context, trust_env=False) as client:
        return client.get(url).content


def _httpx2(context: ssl.SSLContext, url: str) -> bytes:
    with httpx2.Client(verify=context, trust_env=False) as client:
        return client.get(url).content


def _async_httpx(context: ssl.SSLContext, url: str) -> bytes:
    async def call() -> bytes:
        async with httpx.AsyncClient(verify=context, trust_env=False) as client:
            return (await client.get(url)).content

    return asyncio.run(call())


def _async_httpx2(context: ssl.SSLContext, url: str) -> bytes:
    async def call() -> bytes:
        async with httpx2.AsyncClient(verify=context, trust_env=False) as client:
            return (await client.get(url)).content

    return asyncio.run(call())


def _http_client(context: ssl.SSLContext, url: str) -> bytes:
    connection = http.client.HTTPSConnection(url.removeprefix("https://"), context=context, timeout=20)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read()
    finally:
        connection.close()


def _urllib(context: ssl.SSLContext, url: str) -> bytes:
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    with opener.open(url, timeout=20) as response:
        return bytes(response.read())


LIBRARIES: Final[dict[str, Callable[[ssl.SSLContext, str], bytes]]] = {
    "requests": _requests,
    "requests verify=False": lambda context, url: _requests(context, url, verify=False),
    "urllib3": _urllib3,
    "urllib3 assert_hostname=False": lambda context, url: _urllib3(context, url, assert_hostname=False),
    "urllib3 CERT_NONE": lambda context, url: _urllib3(context, url, cert_reqs="CERT_NONE"),
    "httpx": _httpx,
    "httpx async": _async_httpx,
    "httpx2": _httpx2,
    "httpx2 async": _async_httpx2,
    "http.client": _http_client,
    "urllib": _urllib,
}


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_calls_and_leaves_the_context_as_it_was(library: str) -> None:
    """A certificate without any DNS name will do; afterwards the context is as strict as before."""
    server, client = both()
    with serve(server) as right:
        assert LIBRARIES[library](client, right.url) == f"localhost:{right.server_port}".encode()
    assert (client.verify_mode, client.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert client.cert_store_stats()["x509"] == 0
    still_strict(server, client)


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_does_not_reach_an_impostor(library: str) -> None:
    """The twin: the same call to another workload of the mesh fails before a request is sent."""
    _, client = both()
    with serve(server_context(material(CA, "/ns/prod/sa/intruder"))) as wrong:
        with pytest.raises(Exception, match="expected is"):
            LIBRARIES[library](client, wrong.url)
        assert wrong.requests == []


def test_a_public_certificate_is_worth_nothing() -> None:
    """Whatever a library loads into the context: only the mesh's own authorities count."""
    source = material(CA)
    client = client_context(source, authorize=authorize_any())
    web = TestCA("web.example")
    client.load_verify_locations(cadata=web.pem.decode())
    chain, key = web.leaf(uris=[], dns=["localhost"], subject="localhost")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(*wired(careless("server", (chain, key)), client, "localhost"))
    source.replace(bundles=bundles(web))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(*wired(careless("server", (chain, key)), client, "localhost"))
