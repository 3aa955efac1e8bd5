"""The road of a backend that somebody wrote: a page calls FastAPI, FastAPI calls ComfyUI through the forwarded port, all on localhost, and cables are pulled.

What is promised: calls begun after the cut succeed, those in flight fail within 4 s or succeed, none hangs. A call is one of the page, so several of ComfyUI's.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import pytest

from tests.app.test_restart import keeps, names, start
from tests.app.world import DEADLINE, World
from tests.fakes.manager import Manager
from tests.fakes.relay import Relay

ROOT = Path(__file__).parents[2]
ROUTES = ("/api/generate", "/api/generate-async")  # with `requests`, with `httpx`
PACE = 0.15  # seconds between two calls of the page
SLOW = 0.15  # seconds before each of ComfyUI's answers, so that a cut meets some of its calls
FAILS_WITHIN = 4.0  # seconds, promised for calls in flight
BEAT = 0.02  # seconds between two looks at the clock


@dataclass
class Call:
    route: str
    began: float  # seconds of the loop's clock
    ended: float | None = None
    outcome: str = ""


class Page:
    """Calls the backend by relative paths, one route after the other, every PACE seconds whatever became of those before. `async with Page(port)`."""

    def __init__(self, port: int) -> None:
        self.calls: list[Call] = []
        self._origin = f"http://localhost:{port}"
        self._port = port
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._late: list[tuple[float, float]] = []  # when, and how many seconds this process stood still

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._http = aiohttp.ClientSession(
            f"http://127.0.0.1:{self._port}", connector=connector, headers={"Origin": self._origin}
        )
        self._flow = asyncio.create_task(self._begin_calls())
        self._beat = asyncio.create_task(self._watch_the_clock())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Begin no more, wait for those that are open."""
        self._flow.cancel()
        if error is not None:
            for call in self._tasks:
                call.cancel()
        await asyncio.wait({self._flow, *self._tasks})
        self._beat.cancel()
        await asyncio.wait({self._beat})
        await self._http.close()

    def open(self) -> list[Call]:
        return [call for call in self.calls if call.ended is None]

    def stood_still(self, began: float, ended: float) -> float:
        """Seconds of that time in which this machine gave this process nothing: what a promise in seconds can't count."""
        return sum(late for at, late in self._late if began <= at <= ended + BEAT)

    async def serves(self, more: int) -> None:
        """Wait until of the calls that begin from now on so many of each route have been served."""
        since = len(self.calls)
        async with asyncio.timeout(DEADLINE):
            while True:
                served = Counter(call.route for call in self.calls[since:] if call.outcome == "served")
                if all(served[route] >= more for route in ROUTES):
                    return
                self._news.clear()
                await self._news.wait()

    async def begins(self, more: int) -> None:
        end = len(self.calls) + more
        async with asyncio.timeout(DEADLINE):
            while len(self.calls) < end:
                self._news.clear()
                await self._news.wait()

    async def has_ended(self, calls: list[Call]) -> None:
        async with asyncio.timeout(DEADLINE):
            while any(call.ended is None for call in calls):
                self._news.clear()
                await self._news.wait()

    async def _begin_calls(self) -> None:
        now = asyncio.get_running_loop().time
        for number in count(1):
            call = Call(ROUTES[number % len(ROUTES)], now())
            self.calls.append(call)
            task = asyncio.create_task(self._call(call, number))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            self._news.set()
            await asyncio.sleep(PACE)

    async def _call(self, call: Call, number: int) -> None:
        try:
            async with (
                asyncio.timeout(DEADLINE),
                self._http.post(call.route, json={"color": number}) as answer,
            ):
                body = await answer.read()
                served = answer.status == 200 and body.startswith(b"\x89PNG")
                call.outcome = "served" if served else f"{answer.status} {body[:40]!r}"
        except TimeoutError:
            call.outcome = "hangs"
        call.ended = asyncio.get_running_loop().time()
        self._news.set()

    async def _watch_the_clock(self) -> None:
        now = asyncio.get_running_loop().time
        while True:
            before = now()
            await asyncio.sleep(BEAT)
            if (late := now() - before - BEAT) > BEAT:
                self._late.append((now(), late))


@dataclass
class Cut:
    """What became of the calls around one cut: those open at that time, and those begun since."""

    page: Page
    what: str
    at: float
    in_flight: list[Call]
    first: int  # the number of the first call after it

    @classmethod
    def now(cls, page: Page, what: str) -> Cut:
        return cls(page, what, asyncio.get_running_loop().time(), page.open(), len(page.calls))

    @property
    def died(self) -> list[Call]:
        return [call for call in self.in_flight if call.outcome != "served"]

    async def is_over(self) -> None:
        """The promise: both routes are served again, and calls in flight have come to an end, in time if it is a bad one."""
        page = self.page
        await page.serves(2)
        await page.has_ended(self.in_flight)
        begun = [call for call in page.calls[self.first :] if call.ended is not None]
        fell = [call for call in begun if call.outcome != "served"]
        latest = max((call.ended - self.at for call in self.died if call.ended is not None), default=0.0)
        print(
            f"{self.what}: {len(self.in_flight)} in flight, {len(self.died)} of them failed (the last {latest:.2f} s after the cut),"
            f" {len(begun)} begun later, {len(fell)} of them failed"
        )
        assert len(self.in_flight) >= 1
        assert {call.route for call in begun} == set(ROUTES)
        assert not fell, fell
        for call in self.died:
            assert call.ended is not None
            assert call.outcome.startswith("500 "), f"{call}: the backend did not see an error, it waited"
            assert call.ended - self.at <= FAILS_WITHIN + page.stood_still(self.at, call.ended), call


@pytest.fixture
async def page(world: World) -> AsyncIterator[Page]:
    """The backend as a process, and the page before it; the calls begin when the test enters it."""
    environment = os.environ | {
        "COMFYUI": f"http://localhost:{world.port}",
        "NO_PROXY": "localhost,127.0.0.1",
        "PYTHONPATH": str(ROOT),
    }
    log = world.base / "backend.log"
    with socket.create_server(("127.0.0.1", 0)) as listening, log.open("wb") as out:
        backend = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.app.seed",
            str(listening.fileno()),
            env=environment,
            cwd=ROOT,
            pass_fds=[listening.fileno()],
            stdout=out,
            stderr=out,
        )
        try:
            yield Page(listening.getsockname()[1])
            assert backend.returncode is None, log.read_text()
        finally:
            if backend.returncode is None:
                backend.kill()
            await backend.wait()
            print(log.read_text()[-2000:])


async def test_a_backend_goes_on_when_its_link_is_reset_and_when_it_falls_silent(
    world: World, page: Page
) -> None:
    """A dead link costs the calls in flight, whether it says so or not (no FIN, no RST)."""
    async with Relay(world.remote.port) as relay:
        world.write_config(port=relay.port)
        await world.start()
        world.comfyui.faults.slow_answers = SLOW
        async with page:
            await page.serves(2)
            cut = Cut.now(page, "link reset")
            relay.reset_all()
            await cut.is_over()
            assert cut.died, "the cut has met no call"

            cut = Cut.now(page, "link silent")
            relay.swallow()
            await cut.is_over()
            assert cut.died, "the cut has met no call"
        assert not [call for call in page.calls if call.outcome in ("", "hangs")]


async def test_a_backend_goes_on_when_the_daemon_is_restarted_and_when_it_is_killed(
    world: World, page: Page
) -> None:
    """Calls wait while there is no daemon. One that stops in good order loses none; kill -9 costs those in flight."""
    async with Manager(world.base) as manager:
        await start(world, manager)
        await keeps(manager, names(world.port))
        world.comfyui.faults.slow_answers = SLOW
        async with page:
            await page.serves(2)
            cut = Cut.now(page, "daemon SIGTERM")
            await world.stop()
            await page.begins(4)
            await start(world, manager)
            await cut.is_over()
            assert not cut.died, cut.died

            cut = Cut.now(page, "daemon kill -9")
            await world.kill()
            await page.begins(4)
            await start(world, manager)
            await cut.is_over()
            assert cut.died, "the cut has met no call"
        assert not [call for call in page.calls if call.outcome in ("", "hangs")]
