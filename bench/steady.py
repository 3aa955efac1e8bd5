"""A caller that never tires: ten fresh HTTP calls a second, each with a deadline of its own, and what became of them.

It is what a browser or a script sees while something goes wrong. A call counts as served when its whole answer came
within DEADLINE, held or not; everything else is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from bench.rig import NotMeasured

INTERVAL = 0.1  # seconds between two calls
DEADLINE = 5.0  # seconds that a call may take
CALM = 10  # calls in a row that must be served before the fault counts as over
REQUEST = b"GET /small HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
BODY = b'{"ok": true}\n'


@dataclass(frozen=True)
class Call:
    """Times of time.monotonic()."""

    began: float
    ended: float
    served: bool


@dataclass(frozen=True)
class Toll:
    """What a fault cost. `back`: seconds from the fault to the first call that began after it and was served."""

    back: float
    lost: int  # of the calls that began after the fault
    slowest: float  # seconds of the slowest one that was served


class Steady:
    """`async with Steady(port) as calls:` calls until the block ends."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.ended: list[Call] = []
        self._running: set[asyncio.Task[None]] = set()
        self._clock = asyncio.create_task(self._call_on())
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        tasks = [self._clock, *self._running]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def toll(self, fault: float, limit: float) -> Toll:
        """Waits until the calls go through again, `limit` seconds from `fault` at most. NotMeasured when they don't."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, fault + limit - time.monotonic())):
                while not self._calm(fault):
                    self._changed.clear()
                    await self._changed.wait()
        since = [call for call in self.ended if call.began >= fault]
        served = [call for call in since if call.served]
        if not self._calm(fault):
            raise NotMeasured(f"no call comes through {limit:.0f} s after the fault ({len(since)} were lost)")
        back = min(call.ended for call in served) - fault
        slowest = max(call.ended - call.began for call in served)
        return Toll(back, len(since) - len(served), slowest)

    def _calm(self, fault: float) -> bool:
        """Whether the last calls were served, and none that is older than they is still out."""
        latest = sorted((call for call in self.ended if call.began >= fault), key=lambda call: call.began)
        return len(latest) >= CALM and all(call.served for call in latest[-CALM:]) and len(self._running) <= 2

    async def _call_on(self) -> None:
        begun = time.monotonic()
        while True:
            task = asyncio.create_task(self._call())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            begun += INTERVAL
            await asyncio.sleep(max(0.0, begun - time.monotonic()))  # ten a second, however long each takes

    async def _call(self) -> None:
        began = time.monotonic()
        served = False
        with contextlib.suppress(
            OSError, asyncio.IncompleteReadError, TimeoutError
        ):  # lost, whatever the way
            async with asyncio.timeout(DEADLINE):
                served = await self._exchange()
        self.ended.append(Call(began, time.monotonic(), served))
        self._changed.set()

    async def _exchange(self) -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            return head.startswith(b"HTTP/1.1 200 ") and await reader.readexactly(len(BODY)) == BODY
        finally:
            writer.close()
