"""Whether the machine slept, from two clocks: one counts through sleep, the other stands still in it.

The difference grows by exactly the time slept, whatever NTP does. Some kernels let the second clock run on in s2idle, so a tick
that comes far too late is a sign of its own. Nothing here waits: world.py looks once a tick.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

BOOTTIME = 7  # Linux: clock_gettime(2); the names exist in `time` only on their own platform
UPTIME_RAW = 8  # macOS: <time.h>
PAIRS = {"linux": (BOOTTIME, time.CLOCK_MONOTONIC), "darwin": (time.CLOCK_MONOTONIC, UPTIME_RAW)}
SLEPT_LEAST = (
    1.0  # seconds; reading two clocks is not one act, and being put aside in between must not look like sleep
)
LATE_LEAST = (
    5.0  # seconds; a busy machine delays a tick by tenths, and a sleep shorter than this breaks no connection
)

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Clocks:
    """Seconds from any origin. `through` counts in sleep, `running` does not."""

    through: Clock
    running: Clock


def platform_clocks(platform: str = sys.platform) -> Clocks:
    """The pair of `platform`; where there is none, one clock twice, which never shows a sleep."""
    through, running = PAIRS.get(platform, (time.CLOCK_MONOTONIC, time.CLOCK_MONOTONIC))
    return Clocks(partial(time.clock_gettime, through), partial(time.clock_gettime, running))


@dataclass(frozen=True, slots=True)
class Look:
    """What passed since the look before, in seconds."""

    slept: float  # by the pair of clocks; 0 if less than SLEPT_LEAST
    ran: float  # by the clock that stands still in sleep


class Sleep:
    """The time since the last look, or since it was made. Two signs of one sleep are taken by one look, so none is told twice."""

    def __init__(self, clocks: Clocks | None = None) -> None:
        self._clocks = clocks or platform_clocks()
        self._running, self._through = self._read()

    def look(self) -> Look:
        before_running, before_through = self._running, self._through
        self._running, self._through = self._read()
        ran = self._running - before_running
        slept = self._through - before_through - ran
        return Look(slept if slept >= SLEPT_LEAST else 0.0, ran)

    def slept(self) -> float:
        """Seconds slept since the last look."""
        return self.look().slept

    def now(self) -> float:
        """The clock that stands still in sleep."""
        return self._clocks.running()

    def _read(self) -> tuple[float, float]:
        return self._clocks.running(), self._clocks.through()


def late(ran: float, interval: float) -> float:
    """By how many seconds a tick is too late that came after `ran` instead of `interval`; 0 if that is nothing unusual."""
    excess = ran - interval
    return excess if excess >= LATE_LEAST else 0.0


def sign(look: Look, interval: float) -> tuple[float, str] | None:
    """Seconds slept and the sign that shows it, or None. The clocks are exact, so they come first."""
    if look.slept > 0.0:
        return look.slept, "the clocks"
    excess = late(look.ran, interval)
    return (excess, "a late tick") if excess > 0.0 else None
