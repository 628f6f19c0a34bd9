"""Every client that has a file of its own, as a function: mesh and URL → status and text."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import aiohttp
import httpx
import httpx2
import requests

from live import TIMEOUT
from meshsec import Mesh

__all__ = ["CALLERS", "Get", "by_httpx2_over_http2"]

Get = Callable[[Mesh, str], tuple[int, str]]


def by_httpx2(mesh: Mesh, url: str) -> tuple[int, str]:
    from meshsec.clients.httpx2 import MeshTransport

    with httpx2.Client(transport=MeshTransport(mesh), timeout=TIMEOUT) as client:
        response = client.get(url)
        return response.status_code, response.text


def by_httpx2_over_http2(mesh: Mesh, url: str) -> tuple[int, str]:
    from meshsec.clients.httpx2 import MeshTransport

    with httpx2.Client(transport=MeshTransport(mesh, http2=True), timeout=TIMEOUT) as client:
        response = client.get(url)
        assert response.http_version == "HTTP/2"
        return response.status_code, response.text


def by_httpx2_async(mesh: Mesh, url: str) -> tuple[int, str]:
    from meshsec.clients.httpx2 import AsyncMeshTransport

    async def get() -> tuple[int, str]:
        async with httpx2.AsyncClient(transport=AsyncMeshTransport(mesh), timeout=TIMEOUT) as client:
            response = await client.get(url)
            return response.status_code, response.text

    return asyncio.run(get())


def by_httpx(mesh: Mesh, url: str) -> tuple[int, str]:
    from meshsec.clients.httpx import MeshTransport

    with httpx.Client(transport=MeshTransport(mesh), timeout=TIMEOUT) as client:
        response = client.get(url)
        return response.status_code, response.text


def by_requests(mesh: Mesh, url: str) -> tuple[int, str]:
    from meshsec.clients.requests import MeshAdapter

    with requests.Session() as session:
        session.mount("https://", MeshAdapter(mesh))
        session.mount("http://", MeshAdapter(mesh))
        response = session.get(url)
        return response.status_code, response.text


def by_urllib3(mesh: Mesh, url: str) -> tuple[int, str]:
    from meshsec.clients.urllib3 import MeshPoolManager

    with MeshPoolManager(mesh) as manager:
        response = manager.request("GET", url)
        return response.status, response.data.decode()


def by_aiohttp(mesh: Mesh, url: str) -> tuple[int, str]:
    from meshsec.clients.aiohttp import MeshConnector

    async def get() -> tuple[int, str]:
        async with aiohttp.ClientSession(connector=MeshConnector(mesh)) as session, session.get(url) as response:
            return response.status, await response.text()

    return asyncio.run(get())


CALLERS: Final[tuple[Get, ...]] = (by_httpx2, by_httpx2_async, by_httpx, by_requests, by_urllib3, by_aiohttp)
