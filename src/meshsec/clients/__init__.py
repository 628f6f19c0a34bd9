"""One file for each HTTP client: how it takes our context and where it dials.

Import the one you use: ``meshsec.clients.httpx2``, ``.httpx``, ``.requests``, ``.urllib3``, ``.aiohttp`` or
``.grpclib``. Clients that take an ``ssl.SSLContext`` (urllib, websockets, asyncio) need no file:
``mesh.client_context()``. Here are the tokens that may travel along.
"""

from ._tokens import CallerToken, JwtSvidToken, TokenSource

__all__ = ["CallerToken", "JwtSvidToken", "TokenSource"]
