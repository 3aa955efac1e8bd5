"""Who waits for the far side just now: a caller whose channel is not confirmed, or that has spoken and heard nothing since.

While somebody waits, silence is doubted sooner; how soon is the machine's to say. This is only the book of those who wait. A caller
in the middle of a transfer waits for the rest of it, but not for long: its last piece looks like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable

MORE = 4096  # bytes; who has just got so many in one piece expects more: sshd sends a transfer in pieces of 16 to 32 KiB
GIVEN_UP = (
    120.0  # seconds; who has been silent for so long and heard nothing is an idle websocket that spoke last
)
PAUSED = 10.0  # seconds; a transfer from which nothing came for so long has ended, or stands still at the other end


class Waiting:
    """Written by the channels of one link. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # When each has last spoken, or got a piece of a transfer; the newest at the end. Who is in one is not in the other.
        self._asked: dict[Hashable, float] = {}
        self._fed: dict[Hashable, float] = {}
        self._began = 0.0
        self.begun = asyncio.Event()  # somebody has begun to wait; for the reader to clear

    def since(self) -> float | None:
        """Since when somebody has been waiting without a break, or None."""
        now = self._clock()
        for book, patience in ((self._asked, GIVEN_UP), (self._fed, PAUSED)):
            if book and now - next(reversed(book.values())) <= patience:
                return self._began
        return None

    def spoke(self, who: Hashable) -> None:
        """`who` has asked for a channel, or sent bytes."""
        self._note(who, self._asked)

    def heard(self, who: Hashable, size: int) -> None:
        """`size` bytes have come for `who`."""
        if size >= MORE:
            self._note(who, self._fed)
        else:
            self.done(who)

    def done(self, who: Hashable) -> None:
        """`who` waits no more: it has its channel, or nothing more will come."""
        self._asked.pop(who, None)
        self._fed.pop(who, None)

    def _note(self, who: Hashable, book: dict[Hashable, float]) -> None:
        if self.since() is None:
            self._began = self._clock()
            self.begun.set()
        self.done(who)
        book[who] = self._clock()
