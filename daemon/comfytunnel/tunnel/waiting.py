"""Who waits for the far side just now: a caller whose channel is not confirmed, or that has spoken and heard nothing since.

While somebody waits, silence is doubted sooner; how soon is the machine's to say. This is only the book of those who wait. A caller
in the middle of a transfer waits for the rest of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable

MORE = 4096  # bytes; who has just got so many in one piece expects more: sshd sends a transfer in pieces of 16 to 32 KiB
GIVEN_UP = (
    120.0  # seconds; who has been silent for so long and heard nothing is an idle websocket that spoke last
)


class Waiting:
    """Written by the channels of one link. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._newest: dict[Hashable, float] = {}  # when each has last spoken; the newest at the end
        self._began = 0.0
        self.begun = asyncio.Event()  # somebody has begun to wait; for the reader to clear

    def since(self) -> float | None:
        """Since when somebody has been waiting without a break, or None."""
        if not self._newest:
            return None
        last = next(reversed(self._newest.values()))
        return self._began if self._clock() - last <= GIVEN_UP else None

    def spoke(self, who: Hashable) -> None:
        """`who` has asked for a channel, or sent bytes."""
        if self.since() is None:
            self._began = self._clock()
            self.begun.set()
        self._newest.pop(who, None)
        self._newest[who] = self._clock()

    def heard(self, who: Hashable, size: int) -> None:
        """`size` bytes have come for `who`."""
        if size >= MORE:
            self.spoke(who)
        else:
            self.done(who)

    def done(self, who: Hashable) -> None:
        """`who` waits no more: it has its channel, or nothing more will come."""
        self._newest.pop(who, None)
