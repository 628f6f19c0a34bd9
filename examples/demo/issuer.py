"""A small OpenID issuer: discovery, key set, and tokens for client credentials (RFC 6749 section 4.4).

Two keys, RS256 and ES256. The clients are data; one gets tokens for another audience and one gets tokens that are
already past their time, so that the demo can show what becomes of them. A toy: it has no users and forgets its keys.

``python -m examples.demo.issuer --port 9000``
"""

from __future__ import annotations

import argparse
import base64
import hmac
import time
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs

import uvicorn
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

HOUR: Final = 3600
SECRET: Final = "demo-secret"


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One registered client and the tokens it gets. ``lifetime`` is in seconds."""

    groups: tuple[str, ...]
    subject: str = "alice"
    algorithm: str = "RS256"
    audience: str = "bookinfo"
    lifetime: int = HOUR


CLIENTS: Final = {
    "alice": Client(groups=("readers",)),
    "alice-es256": Client(groups=("readers",), algorithm="ES256"),
    "ada": Client(subject="ada", groups=("readers", "admin")),
    "alice-expired": Client(groups=("readers",), lifetime=-HOUR),
    "alice-elsewhere": Client(groups=("readers",), audience="another-api"),
}


class Issuer:
    """The issuer's keys and its three endpoints."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.keys: dict[str, RSAKey | ECKey] = {
            "RS256": RSAKey.generate_key(2048, {"kid": "rsa-1", "use": "sig", "alg": "RS256"}),
            "ES256": ECKey.generate_key("P-256", {"kid": "ec-1", "use": "sig", "alg": "ES256"}),
        }

    def app(self) -> Starlette:
        """The issuer as an ASGI application."""
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self.discovery),
                Route("/jwks", self.jwks),
                Route("/token", self.token, methods=["POST"]),
            ]
        )

    async def discovery(self, _: Request) -> JSONResponse:
        """OpenID Connect Discovery section 3."""
        return JSONResponse(
            {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/jwks",
                "token_endpoint": f"{self.url}/token",
                "response_types_supported": ["token"],
                "grant_types_supported": ["client_credentials"],
                "subject_types_supported": ["public"],
                "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
                "id_token_signing_alg_values_supported": list(self.keys),
            }
        )

    async def jwks(self, _: Request) -> JSONResponse:
        """The public halves of both keys."""
        return JSONResponse(KeySet(list(self.keys.values())).as_dict(private=False))

    async def token(self, request: Request) -> JSONResponse:
        """The token endpoint."""
        form = {
            name: values[0] for name, values in parse_qs((await request.body()).decode("ascii", "replace")).items()
        }
        name, secret = _credentials(request, form)
        client = CLIENTS.get(name)
        if client is None or not hmac.compare_digest(secret.encode(), SECRET.encode()):
            return JSONResponse({"error": "invalid_client"}, status_code=401)
        if form.get("grant_type") != "client_credentials":
            return JSONResponse({"error": "unsupported_grant_type"}, status_code=400)
        token = self.issue(client)
        return JSONResponse({"access_token": token, "token_type": "Bearer", "expires_in": client.lifetime})

    def issue(self, client: Client) -> str:
        """A signed token for a client."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self.url,
            "sub": client.subject,
            "aud": client.audience,
            "groups": list(client.groups),
            "iat": now + min(0, 2 * client.lifetime),
            "exp": now + client.lifetime,
        }
        key = self.keys[client.algorithm]
        return jwt.encode({"alg": client.algorithm, "kid": key.kid}, claims, key, algorithms=[client.algorithm])


def _credentials(request: Request, form: dict[str, str]) -> tuple[str, str]:
    """The client's name and secret, from the form or from HTTP Basic."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return form.get("client_id", ""), form.get("client_secret", "")
    try:
        name, _, secret = base64.b64decode(value, validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    return name, secret


def main() -> None:
    """Serve on 127.0.0.1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=9000)
    port = parser.parse_args().port
    uvicorn.run(Issuer(f"http://127.0.0.1:{port}").app(), host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
