"""A stream of calls through a forwarded port, one every few milliseconds whatever became of those before, and what became of each."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.app.world import DEADLINE

PACE = 0.01  # seconds between calls
GET = "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

Opener = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


def to_port(port: int) -> Opener:
    return lambda: asyncio.open_connection("127.0.0.1", port)


def to_path(path: Path) -> Opener:
    return lambda: asyncio.open_unix_connection(path)


class Stream:
    """`async with Stream(to_port(port)) as stream`. At its end it begins no more calls and waits for those that are open."""

    def __init__(self, connect: Opener, path: str = "/system_stats", pace: float = PACE) -> None:
        """A call of `path` every `pace` seconds."""
        self._connect = connect
        self._request = GET.format(path).encode()
        self._pace = pace
        self.outcomes: list[
            str
        ] = []  # of each call in the order of their beginnings; "open" until it is known
        self._news = asyncio.Event()
        self._calls: set[asyncio.Task[None]] = set()
        self._flow: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self._flow = asyncio.create_task(self._begin_calls())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flow.cancel()
        if error is not None:
            for call in self._calls:
                call.cancel()
        await asyncio.wait({self._flow, *self._calls})

    @property
    def began(self) -> int:
        return len(self.outcomes)

    def count(self, since: int = 0) -> Counter[str]:
        return Counter(self.outcomes[since:])

    async def until(self, wanted: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not wanted():
                self._news.clear()
                await self._news.wait()

    async def begins(self, calls: int) -> None:
        """Wait until so many more have begun; each has had the time to be refused."""
        end = self.began + calls
        await self.until(lambda: self.began > end)

    async def serves(self, calls: int) -> None:
        """Wait until so many of those that begin from now on have been served."""
        since = self.began
        await self.until(lambda: self.count(since)["served"] >= calls)

    async def _begin_calls(self) -> None:
        while True:
            self.outcomes.append("open")
            call = asyncio.create_task(self._call(len(self.outcomes) - 1))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            self._news.set()
            await asyncio.sleep(self._pace)

    async def _call(self, number: int) -> None:
        try:
            async with asyncio.timeout(DEADLINE):
                self.outcomes[number] = await self._outcome()
        except TimeoutError:
            self.outcomes[number] = "unanswered"
        self._news.set()

    async def _outcome(self) -> str:
        try:
            reader, writer = await self._connect()
        except (ConnectionRefusedError, FileNotFoundError):
            return "refused"
        except BlockingIOError:
            return "backlog full"  # a Unix socket says so, TCP waits
        try:
            writer.write(self._request)
            answer = await reader.read()
        except OSError as error:
            return type(error).__name__
        finally:
            writer.close()
        return "served" if answer.startswith(b"HTTP/1.1 200") else repr(answer[:40])
