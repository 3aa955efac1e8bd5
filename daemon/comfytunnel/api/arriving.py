"""The wait for what a caller has yet to send of its request: it may be as slow as it likes, but not silent.

Only time in which we wait for bytes and not one comes counts; who is kept from sending, by a slow disk of ours for instance, is not to
blame. Heads that do not come are ended by aiohttp's keep-alive (connection.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from aiohttp import web

from comfytunnel.errors import RefusedError

SILENCE = 30.0  # seconds without a byte; the slowest line that lives brings one within a few
T = TypeVar("T")


class Arriving(web.RequestHandler):
    """A connection that notes that something has come. `silence`: seconds without a byte that it bears."""

    __slots__ = ("deadline", "silence")
    silence: float
    deadline: asyncio.Timeout | None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if data and self.deadline is not None and not self.deadline.expired():
            self.deadline.reschedule(asyncio.get_running_loop().time() + self.silence)


async def arriving(request: web.Request, reading: Awaitable[T]) -> T:
    """Return what `reading` reads of the request's body. RefusedError (`request_timeout`) once nothing has come for too long; the connection
    is closed after the answer."""
    caller = request.protocol
    if not isinstance(caller, Arriving):
        return await reading
    try:
        async with asyncio.timeout(caller.silence) as deadline:
            caller.deadline = deadline
            return await reading
    except TimeoutError as error:
        if not deadline.expired():
            raise
        request.content.feed_eof()  # else aiohttp would go on reading for a while before it closes
        caller.close()
        raise RefusedError(
            f"The rest of the request did not come: not a byte for {caller.silence:g} s.",
            hint="Send it again, all of what its Content-Length says.",
            code="request_timeout",
        ) from error
    finally:
        caller.deadline = None
