"""The error of a refused handshake, and the one line in the log that tells a person why.

Every TLS library, server and client knows how to treat an ``ssl.SSLError``; anything else leaves sockets open. This
file must not know how a peer is judged.
"""

from __future__ import annotations

import logging
import ssl
from typing import Final

from ..errors import SvidError

__all__ = ["PeerRefusedError", "as_tls_error", "log_refusal"]

_log: Final = logging.getLogger("meshsec.tls")

# OpenSSL's reason codes, in words; the subject of the sentence is the peer.
_REASONS: Final = {
    "HTTP_REQUEST": "plain HTTP on the TLS port",
    "HTTPS_PROXY_REQUEST": "a plain HTTP proxy request on the TLS port",
    "NO_SHARED_CIPHER": "it offers no cipher that we take",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it presented no certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not accept our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it finds our certificate expired",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not accept our certificate",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it does not speak TLS 1.3",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not trust the authority that issued our certificate",
    "UNSUPPORTED_PROTOCOL": "it does not speak TLS 1.3",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
}
# The peer hung up: health checks and port scans do, all day long.
_GONE: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError)


class PeerRefusedError(ssl.SSLCertVerificationError):
    """meshsec refused the peer, or had nothing to present to it.

    Attributes:
        code: a stable word, as :class:`meshsec.errors.SvidError` has it.
    """

    def __init__(self, message: str, code: str = "peer_refused") -> None:
        # The attributes are those that the ssl module gives to its own errors; libraries read them.
        super().__init__(ssl.SSL_ERROR_SSL, message)
        self.code = code
        self.library = "meshsec"
        self.reason = code.upper()
        self.verify_code = 1  # X509_V_ERR_UNSPECIFIED
        self.verify_message = message

    def __reduce__(self) -> tuple[type[PeerRefusedError], tuple[str, str]]:
        return type(self), (self.verify_message, self.code)


def as_tls_error(error: Exception) -> ssl.SSLError:
    """The error that TLS libraries understand; what already is one stays as it is."""
    if isinstance(error, ssl.SSLError):
        return error
    if isinstance(error, SvidError):
        return PeerRefusedError(str(error), error.code)
    if isinstance(error, ConnectionError):  # a reset, a broken pipe: who is faster decides which of them, or an alert
        return ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the peer hung up during the TLS handshake")
    return PeerRefusedError("the peer could not be judged", "internal_error")


def log_refusal(whom: str, error: Exception) -> None:
    """Write the one line: at INFO, a peer that hung up at DEBUG, a fault of our own with its traceback."""
    if isinstance(error, _GONE):
        _log.debug("%s hung up during the TLS handshake", whom)
    elif isinstance(error, SvidError | ssl.SSLError):
        _log.info("refused %s: %s", whom, _in_words(error))
    else:
        _log.error("refused %s: it could not be judged", whom, exc_info=error)


def _in_words(error: SvidError | ssl.SSLError) -> str:
    if isinstance(error, SvidError):
        return str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    reason = error.reason or "unknown"
    return _REASONS.get(reason, reason.replace("_", " ").lower())
