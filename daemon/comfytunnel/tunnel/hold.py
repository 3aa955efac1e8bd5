"""How long a caller is held: so many seconds in which this process ran. What a stopped process misses keeps nobody waiting for it.

SIGSTOP, a frozen machine and a host that is out of memory let the clock go on; asyncio's timers are then all due in the moment
of the wake, before the link could be asked, let alone made anew.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

STEP = 1.0  # seconds; a break counts for no more than one


class Hold:
    """`async with Hold(seconds)`: as asyncio.timeout, it raises TimeoutError out of the block, and never early."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds
        self._loop = asyncio.get_running_loop()
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._go_on()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._timeout.__aexit__(kind, error, at)

    def _go_on(self) -> None:
        if self._left > 0:
            step = min(self._left, STEP)
            self._left -= step
            self._timer = self._loop.call_later(step, self._go_on)
        else:
            self._timeout.reschedule(self._loop.time())
