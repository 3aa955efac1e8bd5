"""One place's websocket: open while jobs are there, reopened when it breaks or falls silent, closed when it is not needed.

It only passes events on. Nothing depends on it: when it hears nothing, polling finds the same end a little later.

The same client id is kept over reconnects and restarts, so a running job's events come back. The price is a known trap of the server: if
it closes our old socket after the new one came, the new one stays open and hears nothing for ever. So the old one is closed first, and
each poll is compared with the last `status`: a queue length that stays different means the socket is deaf, and it is reopened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from comfytunnel.comfy.errors import ComfyError
from comfytunnel.comfy.progress import Event, QueueChanged, listen
from comfytunnel.feed import Feed
from comfytunnel.jobs.ahead import Ahead
from comfytunnel.jobs.place import Place

log = structlog.get_logger(__name__)

LINGER = 10.0
"""Seconds that an unused socket stays open: the next job of a series need not wait for a new one."""
DEAF = 2.0
"""Seconds that the queue may differ from what the socket last said."""
PAUSE_MIN, PAUSE_MAX = 0.25, 5.0
"""Seconds between two attempts."""


class Listener:
    """Set `wanted`; `heard` gets every event. `open` is what is; `session` counts the sockets; `hurry`: do not linger. `counted` gets the length of the
    queue whenever a poll has seen it; `ahead` learns from both."""

    def __init__(
        self,
        place: Place,
        client_id: str,
        heard: Callable[[Event], None],
        counted: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.wanted: Feed[bool] = Feed(False)
        self.open: Feed[bool] = Feed(False)
        self.hurry = asyncio.Event()
        self.session = 0
        self.ahead = Ahead()
        self._place = place
        self._client_id = client_id
        self._heard = heard
        self._counted = counted
        self._told: int | None = None
        self._differs_since: float | None = None
        self._deaf = asyncio.Event()

    def polled(self, remaining: int, seconds: float) -> None:
        """A poll has seen so many prompts running and pending; it took so long."""
        self._counted(remaining)
        self.ahead.answered(seconds)
        now = asyncio.get_running_loop().time()
        if self._told is None or remaining == self._told:
            self._differs_since = None
        elif self._differs_since is None:
            self._differs_since = now
        elif now - self._differs_since > DEAF:
            self._differs_since = None
            self._deaf.set()

    async def run(self) -> None:
        """Listen for ever."""
        pause = PAUSE_MIN
        while True:
            await self.wanted.until(bool)
            gate = await self._place.gate.until(lambda gate: gate.open)
            self._told, self._differs_since = None, None
            self._deaf.clear()
            try:
                await _first(self._read(), self._deaf.wait(), self._unused(), self._other_than(gate.link))
                pause = PAUSE_MIN
            except ComfyError as error:
                log.debug("websocket", place=self._place.name, why=error.message)
                pause = min(pause * 2, PAUSE_MAX)
            await asyncio.sleep(pause)

    async def _read(self) -> None:
        clock = asyncio.get_running_loop().time
        try:
            async with listen(self._place.client, self._client_id) as events:
                self.session += 1
                self.open.set(True)
                async for event in events:
                    if isinstance(event, QueueChanged):
                        self._told, self._differs_since = event.remaining, None
                    self.ahead.heard(event, clock())
                    self._heard(event)
        finally:
            self.open.set(False)

    async def _unused(self) -> None:
        while True:
            await self.wanted.until(lambda wanted: not wanted)
            try:
                async with asyncio.timeout(LINGER):
                    await _first(self.wanted.until(bool), self.hurry.wait())
            except TimeoutError:
                return
            if self.hurry.is_set():
                return

    async def _other_than(self, link: int | None) -> None:
        await self._place.gate.until(lambda gate: gate.link != link)


async def _first(*work: Coroutine[Any, Any, Any]) -> None:
    """Run all until one has ended, end the others, raise what the ended one raised."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in done:
        task.result()
