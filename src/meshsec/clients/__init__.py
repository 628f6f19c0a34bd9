"""One file for each HTTP client: how it takes our context and where it dials.

Import the one you use: ``meshsec.clients.httpx2``, ``meshsec.clients.httpx``, ``meshsec.clients.requests``,
``meshsec.clients.aiohttp``. Clients that take an ``ssl.SSLContext`` (urllib, urllib3, websockets, asyncio) need no
file: ``mesh.client_context()``.
"""

__all__: list[str] = []
