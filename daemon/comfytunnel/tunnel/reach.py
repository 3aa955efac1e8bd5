"""Getting through to a host: one way at first and, while somebody waits, another every AGAIN seconds beside it.

A SYN that was lost is sent again after 1, 3 and 7 s, and a handshake whose bytes were lost is waited for until its deadline, although
the line may be whole again by now. The first way on which the host is heard is the one; the others are closed. Nobody waits: one
way is enough, and a relay in trouble is left in peace.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

AGAIN = 1.5  # seconds; with a connect and a handshake behind it within the 2.5 s that a caller should wait at most
WAYS_MOST = 3  # beside the first; the oldest makes room for the next, as what was lost on its way stays lost


async def reach(
    dial: Callable[[], Awaitable[socket.socket]],
    shake: Callable[[socket.socket], Awaitable[T]],
    heard: Callable[[], bool],
    eager: Callable[[], bool],
    discard: Callable[[T], None],
) -> T:
    """What `shake` makes of the first connection that `dial` gives, or of a later one on which the host spoke first.

    `heard`: whether the host has been heard in the present `shake`; from then on that one alone decides. `eager`: whether somebody
    waits. `shake` closes its socket if it fails or is cancelled; `discard` gets what it made when nobody is there to take it. Raises what the present way raises; its deadlines are the deadlines
    of the whole.
    """
    present: asyncio.Task[T] = asyncio.create_task(_whole(dial, shake))
    others: list[asyncio.Task[socket.socket]] = []  # the oldest first
    taken: socket.socket | None = None
    given = False
    try:
        while True:
            done, _ = await asyncio.wait(
                {present, *others}, timeout=AGAIN, return_when=asyncio.FIRST_COMPLETED
            )
            if present.done() or heard():
                await _leave(others)
                result = await present
                given = True
                return result
            through = next((way for way in others if way in done and way.exception() is None), None)
            others = [way for way in others if way not in done or way.exception() is None]
            if through is not None:
                await _cancelled(present)
                if not present.cancelled() and present.exception() is None:
                    continue  # it has got through in this very moment
                others.remove(through)
                taken = through.result()
                present = asyncio.create_task(_begun(shake, taken))
            elif not done and eager():
                await _leave(others[: len(others) + 1 - WAYS_MOST])
                others = [*others[-(WAYS_MOST - 1) :], asyncio.create_task(_greeted(dial))]
    finally:
        await _leave(others)
        await _cancelled(present)
        if taken is not None and present.cancelled():
            taken.close()  # it may have been cancelled before its first step
        elif not given and not present.cancelled() and present.exception() is None:
            discard(present.result())  # cancelled in the moment of success


async def _whole(
    dial: Callable[[], Awaitable[socket.socket]], shake: Callable[[socket.socket], Awaitable[T]]
) -> T:
    return await shake(await dial())


async def _begun(shake: Callable[[socket.socket], Awaitable[T]], sock: socket.socket) -> T:
    return await shake(sock)


async def _greeted(dial: Callable[[], Awaitable[socket.socket]]) -> socket.socket:
    """A connection on which something has come (SSH servers speak at once: RFC 4253, 4.2), or its end."""
    sock = await dial()
    loop = asyncio.get_running_loop()
    spoken = asyncio.Event()
    loop.add_reader(sock, spoken.set)
    try:
        await spoken.wait()
    except BaseException:
        loop.remove_reader(sock)
        sock.close()
        raise
    loop.remove_reader(sock)
    return sock


async def _leave(ways: Sequence[asyncio.Task[socket.socket]]) -> None:
    """Close the ways that are not taken."""
    for way in ways:
        await _cancelled(way)
        if not way.cancelled() and way.exception() is None:
            way.result().close()


async def _cancelled(task: asyncio.Task[T]) -> None:
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # nobody else may be there to take note of it
