"""For gRPC, and whatever else speaks HTTP/2 over a unix socket and takes no ``ssl.SSLContext``.

gRPC's own TLS knows neither SPIFFE IDs nor rotation. So its channel speaks plaintext to a unix socket of this very
process, which no other user may open, and each connection goes on from there over the mesh's TLS. This file must not
know what is said: of HTTP/2 it knows where a frame ends, and how a connection is retired without cutting a call off.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Self

from ..errors import SvidError
from ..mesh import Mesh
from ..tls import MeshSSLContext
from ._services import MAX_AGE, Route, ServicePools, dial

__all__ = ["Tunnel"]

_log: Final = logging.getLogger("meshsec.clients")
_CHUNK: Final = 65536
_HEAD: Final = 9  # of a frame: three bytes of length, type, flags, four of stream (RFC 9113 section 4.1)
# "No new streams on this connection, please" (RFC 9113 section 6.8): those that are open come to their end.
_GOAWAY: Final = bytes.fromhex("000008 07 00 00000000 7fffffff 00000000")
_OF_HEADERS: Final = (0x1, 0x5, 0x9)  # HEADERS, PUSH_PROMISE, CONTINUATION
_END_HEADERS: Final = 0x4
_LOOK_SECONDS: Final = 1.0
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid: Linux's struct ucred


class Tunnel:
    """A unix socket that leads to one service of the mesh over mutual TLS with HTTP/2.

    ``grpc.insecure_channel(tunnel.target, options=tunnel.options)``, likewise with ``grpc.aio``. Each connection that
    the channel makes is one to the service: dialled at the mesh's endpoints, with our newest certificate, and with
    nobody but who may answer. It is retired, and the channel makes another, when our certificate, an authority or
    what the mesh says of the service changed, and after some time; calls under way come to their end.

    Args:
        mesh: whose identity is presented, and whose secure naming is checked.
        host: the service.
        port: of the service.
        max_age: for how many seconds a connection is given new calls.

    Attributes:
        target: where the socket is, as gRPC writes it: in a folder that this user alone may enter.
        options: a channel's, so that calls name the service in ``:authority``.

    Raises:
        SvidError: the mesh does not name the host, or nobody for it.
        OSError: the socket cannot be made: the path of the folder for temporary files is too long for one.
        RuntimeError: no thread can begin.

    Its thread does not survive a fork; make it in the process that uses it.
    """

    def __init__(self, mesh: Mesh, host: str, port: int = 443, *, max_age: float = MAX_AGE) -> None:
        self._services = ServicePools(mesh, _over_http2, max_age=max_age)
        self._host, self._port = host, port
        route = self._route()  # says now what cannot work
        self._owner = os.getpid()
        self._folder = Path(tempfile.mkdtemp(prefix="meshsec-"))  # mode 0700
        self.target = f"unix:{self._folder / 'h2'}"
        self.options = (("grpc.default_authority", route.authority),)
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        listening = threading.Event()
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._run, args=(listening,), name="meshsec-tunnel", daemon=True)
        try:
            self._thread.start()
            listening.wait()
            if self._failure is not None:
                self._thread.join()
                raise self._failure
        except (OSError, RuntimeError):  # it has ended, or never begun
            self._loop.close()
            self.close()
            raise

    def close(self) -> None:
        """End every connection and remove the socket. Close the channel first; a forked child leaves its parent's."""
        if os.getpid() != self._owner:
            return
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _route(self) -> Route:
        return self._services.route("https", self._host, self._port)

    # ---------------------------------------------------------------- in the thread

    def _run(self, listening: threading.Event) -> None:
        try:
            self._loop.run_until_complete(self._serve(listening))
        except OSError as error:
            self._failure = error
        finally:
            listening.set()
            self._loop.close()

    async def _serve(self, listening: threading.Event) -> None:
        tasks: set[asyncio.Task[None]] = set()

        def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = self._loop.create_task(self._lead(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_unix_server(begin, self.target.removeprefix("unix:"), limit=_CHUNK)
        listening.set()
        while not self._stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _LOOK_SECONDS)
            self._retire()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection. Whatever goes wrong ends it: for the client the server is not there, the log says why."""
        try:
            if _is_our_own(writer.get_extra_info("socket")):
                route = self._route()
                context = self._services.current(route)
                there, back = await _dial(route, context)
                link = _Link(writer, context)
                self._links.add(link)
                try:
                    await _until_one_ends(self._copy(reader, back), _copy_frames(there, link))
                finally:
                    self._links.discard(link)
                    back.transport.abort()  # whoever had something to say has said it, or is gone
        except (OSError, SvidError, asyncio.IncompleteReadError) as error:
            _log.info("the tunnel to %s is closed: %s", self._host, error)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            self._retire()  # what begins here goes through; the next call sees a new connection
            writer.write(data)
            await writer.drain()

    def _retire(self) -> None:
        """Ask for no new calls on connections that stand on what has changed."""
        try:
            current = self._services.current(self._route())
        except SvidError:
            current = None  # nobody may answer any more
        self._services.take_closable()  # there is nothing to close in a context
        for link in self._links:
            if link.context is not current and link.open_to_frames and not link.retired:
                link.retired = True
                link.writer.write(_GOAWAY)


@dataclass(slots=True, eq=False)
class _Link:
    """One connection to the client; what is written to it always ends with a frame.

    Attributes:
        writer: to the client.
        context: what the connection stands on.
        open_to_frames: whether one of ours may come next: not before the server's first, which the client waits for,
            and not within a block of headers (RFC 9113 section 6.10).
        retired: whether the client was asked for no new calls.
    """

    writer: asyncio.StreamWriter
    context: MeshSSLContext
    open_to_frames: bool = False
    retired: bool = False


def _over_http2(context: MeshSSLContext, _route: Route) -> MeshSSLContext:
    context.set_alpn_protocols(["h2"])
    return context


async def _dial(route: Route, context: MeshSSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    name = route.server_name
    return await dial(route, partial(asyncio.open_connection, ssl=context, server_hostname=name, limit=_CHUNK))


def _is_our_own(sock: socket.socket) -> bool:
    """Whether this user is at the other end: the folder says so already, and the kernel says it again."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(credentials)[1] == os.getuid())


async def _copy_frames(reader: asyncio.StreamReader, link: _Link) -> None:
    """Whole frames, so that one of ours may stand between them."""
    while True:
        head = await reader.readexactly(_HEAD)
        link.writer.write(head + await reader.readexactly(int.from_bytes(head[:3], "big")))
        link.open_to_frames = head[3] not in _OF_HEADERS or bool(head[4] & _END_HEADERS)
        await link.writer.drain()


async def _until_one_ends(*copying: Coroutine[object, object, None]) -> None:
    tasks = [asyncio.ensure_future(one) for one in copying]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
