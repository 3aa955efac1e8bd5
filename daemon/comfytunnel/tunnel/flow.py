"""How much the far side may send: the windows of one link's channels, and what its line has shown.

What is granted and not yet passed on to a caller is memory that the far side can fill, so the sum is bounded, and a grant follows
what has been passed on. Each channel always has the least window. Beside a transfer the link is asked once a second how long a round
trip takes. How large a window ought to be is decided in window.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from comfytunnel.tunnel import window as policy
from comfytunnel.tunnel.window import LEAST, Pace

BULK = 32 << 10  # bytes within BULK_SECONDS: a transfer, not a call
BULK_SECONDS = 1.0
ASK_EVERY = 1.0  # seconds between two questions beside a transfer
ANSWER_DEADLINE = 60.0  # seconds; a far side that does not answer, as RFC 4254 wants it, is asked no more


class Meter:
    """One channel's window: what it may be, and what of it the far side can still use or we have not passed on."""

    __slots__ = ("began", "cost", "grant", "moved", "outstanding", "window")

    def __init__(self) -> None:
        self.window = LEAST
        self.outstanding = LEAST  # bytes granted and not yet passed on
        self.cost = LEAST  # bytes of the link's budget: `outstanding`, or LEAST if that is more
        self.moved = 0  # bytes since `began`
        self.began = 0.0
        self.grant: Callable[[int], None] = lambda _: None  # until the channel is confirmed


class Flow:
    """Owned by the Channels of one link. `ask` returns when the far side has answered; `spawn` owns the task that asks;
    `on_room` hears that a channel may be opened again."""

    def __init__(
        self,
        ask: Callable[[], Awaitable[None]],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        on_room: Callable[[], None],
    ) -> None:
        self.pace = Pace()
        self.free = policy.BUDGET  # bytes that no channel has
        self._ask = ask
        self._spawn = spawn
        self._on_room = on_room
        self._clock = asyncio.get_running_loop().time
        self._bulk_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    @property
    def quiet(self) -> bool:
        """Whether no transfer goes on."""
        return self._clock() - self._bulk_at > BULK_SECONDS

    @property
    def has_room(self) -> bool:
        """Whether a caller may begin an opening. One least window is kept for the question whether the link lives."""
        return self.free >= 2 * LEAST

    def rested(self, rtt: float) -> None:
        """A round trip in seconds that no transfer has made longer."""
        self.pace = policy.rested(self.pace, rtt)

    def meter(self) -> Meter:
        """That of a channel which is about to be opened with the window LEAST, until release()."""
        self.free -= LEAST
        return Meter()

    def release(self, meter: Meter) -> None:
        """The channel was not opened, or is closed for good."""
        self.free += meter.cost
        self._on_room()

    def greet(self, meter: Meter) -> None:
        """A caller has got the channel."""
        meter.window = policy.greeting(self.pace, self.free)
        meter.began = self._clock()
        self._fill(meter)

    def passed_on(self, meter: Meter, size: int) -> None:
        """So many bytes have left our memory: the far side may send as many again, a part of the window at a time."""
        self._set(meter, meter.outstanding - size)
        meter.moved += size
        if meter.window - meter.outstanding >= policy.step(meter.window):
            self._judge(meter)
            self._fill(meter)

    def _fill(self, meter: Meter) -> None:
        size = meter.window - meter.outstanding
        if size > 0:
            self._set(meter, meter.window)
            meter.grant(size)

    def _set(self, meter: Meter, outstanding: int) -> None:
        meter.outstanding = outstanding
        cost = max(LEAST, outstanding)
        had_room = self.has_room
        self.free += meter.cost - cost
        meter.cost = cost
        if self.has_room and not had_room:
            self._on_room()

    def _judge(self, meter: Meter) -> None:
        """How large its window ought to be now."""
        now = self._clock()
        seconds = now - meter.began
        if seconds > max(BULK_SECONDS, 4 * (self.pace.loaded or 0.0)):  # there was a pause
            meter.began, meter.moved = now, 0
            meter.window = policy.greeting(self.pace, self.free)
        elif meter.moved >= BULK:
            self._bulk_at = now
            self._watch()
            if seconds >= 0.75 * self.pace.round_trip:
                self.pace = policy.moved(self.pace, meter.window, meter.moved, seconds)
                meter.began, meter.moved = now, 0
            meter.window = policy.transfer(self.pace, self.free + meter.cost)

    def _watch(self) -> None:
        if self._asking is None:
            self._asking = self._spawn(self._keep_asking())

    async def _keep_asking(self) -> None:
        """While a transfer goes on, ask how long a round trip takes beside it."""
        while not self.quiet:
            started = self._clock()
            async with asyncio.timeout(ANSWER_DEADLINE):  # one that does not answer at all is asked no more
                await self._ask()
            rtt = self._clock() - started
            self.pace = policy.answered(self.pace, rtt)
            await asyncio.sleep(max(ASK_EVERY, rtt))
        self._asking = None
