"""A TCP port in front of a Unix socket, byte for byte: for tools that know no Unix socket. An event stream, which would never end, is ended in good
order after its first events.

Plain sockets, no asyncio streams: those forget what they have read when the other side resets, and a daemon that answers before it has been sent all does
that. Such an answer arrives whole, and the rest of the request is read and thrown away (RFC 9112, 9.6), or the port's own reset would overtake it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

EVENTS = 0.1  # seconds that an event stream goes on
LINGER = 5.0  # seconds that a caller has to read the end of its answer
CHUNK = 65536
STREAM = b"Content-Type: text/event-stream"
WHOLE = (b"\r\n\r\n", b"\n\n\r\n")
"""What a head ends with, and a chunk: each is an event. In the middle of one a stream cannot be ended, a client would call that a broken connection."""
END = b"0\r\n\r\n"  # of a chunked body


class Bridge:
    """`async with Bridge(path) as bridge:` serves on 127.0.0.1, `bridge.port`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._calls: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self._accepting = asyncio.create_task(self._accept())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._accepting.cancel()
        for call in self._calls:
            call.cancel()
        await asyncio.gather(self._accepting, *self._calls, return_exceptions=True)
        self._listener.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            near, _ = await loop.sock_accept(self._listener)
            call = asyncio.create_task(self._carry(near))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _carry(self, near: socket.socket) -> None:
        with near, socket.socket(socket.AF_UNIX) as far, contextlib.suppress(OSError):  # either side has left
            near.setblocking(False)
            far.setblocking(False)
            await asyncio.get_running_loop().sock_connect(far, str(self._path))
            asking = asyncio.create_task(_pass_requests(near, far))
            try:
                await _pass_answers(far, near)
                near.shutdown(socket.SHUT_WR)
                await asyncio.wait([asking], timeout=LINGER)
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)


async def _pass_requests(near: socket.socket, far: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    listens = True
    while data := await loop.sock_recv(near, CHUNK):
        if listens:
            try:
                await loop.sock_sendall(far, data)
            except OSError:
                listens = False  # it has answered, and wants no more
    if listens:
        far.shutdown(socket.SHUT_WR)


async def _pass_answers(far: socket.socket, near: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    until: float | None = None
    data = b""
    try:
        while True:
            async with asyncio.timeout_at(until if data.endswith(WHOLE) else None):
                data = await _read(far)
            if not data:
                return
            if STREAM in data and until is None:
                until = loop.time() + EVENTS
                data = data.replace(STREAM, b"Connection: close\r\n" + STREAM, 1)
            await loop.sock_sendall(near, data)
    except TimeoutError:
        await loop.sock_sendall(near, END)


async def _read(far: socket.socket) -> bytes:
    """What comes next, b"" for the end; a reset is one, and comes after all that was answered."""
    try:
        return await asyncio.get_running_loop().sock_recv(far, CHUNK)
    except ConnectionResetError:
        return b""
