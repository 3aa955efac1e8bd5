"""Ending a request so that what has not been sent never will be: a reset instead of a close.

A transport that is closed first flushes all that it still holds (asyncio, `transport.close()`), for minutes on a thin line: a POST that was
given up would go on being delivered. aiohttp only ever closes, and has no public way to the transport before the answer is there
(seen in 3.14), hence the request class and the middleware that hands it over.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

import aiohttp
from aiohttp.connector import Connection

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER on, for 0 s: close() sends RST and drops what the kernel holds."""


class Resettable(aiohttp.ClientRequest):
    """A request that knows its transport. For `ClientSession(request_class=)`."""

    transport: asyncio.Transport | None = None

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        self.transport = conn.transport
        return await super().send(conn)

    def reset(self) -> None:
        """End its connection now. Call it before the event loop goes on: a transport that has nothing to flush closes then."""
        if self.transport is None:
            return
        taken = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError):  # closed already, or of a kind that knows no lingering
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.transport.abort()


class Kept:
    """A middleware that remembers the request of one call."""

    def __init__(self) -> None:
        self._request: aiohttp.ClientRequest | None = None

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        self._request = request
        return await handler(request)

    def reset(self) -> None:
        if isinstance(self._request, Resettable):
            self._request.reset()
