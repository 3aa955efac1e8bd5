"""Ending tasks: cancelled, and waited for until they have ended, however often it takes. And listeners: nobody who was let in is dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import structlog

logger = structlog.get_logger(__name__)

ARRIVAL_TURNS = 3  # of the loop from accept() to connection_made (3.11-3.13)
CANCEL_AGAIN = 5.0  # seconds; an end in good order takes at most 2.2 (open calls 1.2, then a link 1.0), and a second cancellation would break it off


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks and wait for their end; their results and errors are left in them.

    A library that loses a cancellation (one that comes in the very moment in which its own deadline does) would keep a stop waiting
    for ever: whoever is still there is cancelled again, and the log says who.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN)
        for task in left:
            logger.warning(
                "still there", task=task.get_name(), at=str(task.get_stack(limit=1)), next="cancelled again"
            )


async def end_accepting(*servers: asyncio.Server) -> None:
    """Close listeners. Whoever has been accepted has met its protocol then; who comes from here on waits in the backlog for whoever serves the socket after us.

    asyncio forgets, unclosed, a socket that it has accepted when its server is closed before the protocol has heard of it.
    """
    loop = asyncio.get_running_loop()
    for server in servers:
        for sock in server.sockets:
            loop.remove_reader(sock.fileno())
    for _ in range(ARRIVAL_TURNS):
        await asyncio.sleep(0)
    for server in servers:
        server.close()
