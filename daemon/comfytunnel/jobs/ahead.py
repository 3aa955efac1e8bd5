"""How many jobs may wait on a server behind the running one. Pure: what was seen goes in, with its time, a number comes out.

One is enough while a job takes longer than it takes us to learn of an end and to send the next. Where jobs are shorter than two round trips the server
would idle, so there are more, up to MOST: no more than that, because order, priority, pause and cancel of all the others stay ours. In
doubt it is one: it takes LATELY jobs in a row, of which none was long, and none that runs now for long.
"""

from __future__ import annotations

import math
from collections import deque

from comfytunnel.comfy.progress import Event, Finished, Started

MOST = 4
LATELY = 3
"""Jobs that are looked back upon, of which the longest counts."""
TRIPS = 8
"""Questions that are looked back upon, of which the fastest counts: a busy server or a download beside it makes others take longer."""


class Ahead:
    """One server's. Times in seconds, by one clock that only grows."""

    def __init__(self) -> None:
        self._trips: deque[float] = deque(maxlen=TRIPS)
        self._took: deque[float] = deque(maxlen=LATELY)
        self._running: tuple[str, float] | None = None

    def answered(self, seconds: float) -> None:
        """A small question was answered after so long: a round trip."""
        self._trips.append(seconds)

    def heard(self, event: Event, now: float) -> None:
        """The websocket has said this. Both ends of a job come the same way, so the time between them is the job's own."""
        if isinstance(event, Started):
            self._running = (event.prompt_id, now)
        elif isinstance(event, Finished) and self._running is not None:
            prompt, began = self._running
            if prompt == event.prompt_id:
                self._took.append(now - began)
                self._running = None

    def allowed(self, wanted: int, now: float) -> int:
        """Jobs behind the running one, where the user wants `wanted`; none where he wants none."""
        if not wanted or not self._trips or len(self._took) < LATELY:
            return wanted
        longest = max(*self._took, now - self._running[1] if self._running is not None else 0.0)
        needed = MOST if longest <= 0 else math.ceil(2 * min(self._trips) / longest)
        return max(wanted, min(needed, MOST))
