"""The loop that the kernel's bells share: each message on a socket is a ring. What it says is never looked at."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger(__name__)

MESSAGE_BYTES = (
    65536  # more than any message; the rest of a longer one would be lost, and nobody would miss it
)

Bell = Callable[[Callable[[], None]], Awaitable[None]]
"""bell(ring): calls `ring` whenever the network may have changed, once at the start too, until cancelled. Raises OSError if it
cannot listen (any more). A ring too many is harmless."""


async def ring_on(messages: socket.socket, ring: Callable[[], None]) -> None:
    """Ring now, since nothing is known of the time before, and for every message that comes. Raises OSError if the socket fails."""
    messages.setblocking(False)
    loop = asyncio.get_running_loop()
    ring()
    while True:
        try:
            if not await loop.sock_recv(messages, MESSAGE_BYTES):
                raise OSError("the kernel has closed the socket")
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            log.debug(
                "messages about the network were lost", error=str(error)
            )  # all the more a reason to look
        ring()
