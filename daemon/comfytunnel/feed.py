"""A feed holds the latest value of one thing and lets readers wait until it changes.

One writer sets it; any number of readers look. A reader that is slow misses values in between and never the last one, so
nothing queues up behind it. Whoever must see every change keeps a log and uses a feed of revision numbers to be poked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Feed(Generic[T]):
    """The latest value of type T. Not thread-safe: it belongs to one event loop."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._version = 0
        self._changed = asyncio.Event()

    @property
    def value(self) -> T:
        return self._value

    def set(self, value: T) -> None:
        """Replace the value and wake every reader; an equal value wakes nobody."""
        if value == self._value:
            return
        self._value = value
        self._version += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def changes(self) -> AsyncIterator[T]:
        """The value now, then the latest value after each change, for ever. Values in between may be skipped."""
        seen = -1
        while True:
            if seen == self._version:
                await self._changed.wait()
            seen = self._version
            yield self._value

    async def until(self, wanted: Callable[[T], bool]) -> T:
        """Wait until a value satisfies `wanted` and return it. The caller sets the deadline."""
        while not wanted(self._value):
            await self._changed.wait()
        return self._value
