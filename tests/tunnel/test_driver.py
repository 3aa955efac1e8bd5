"""The driver over a link that follows a script: at most one of everything, late answers, a clean end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from comfytunnel.tunnel.driver import Driver, View
from comfytunnel.tunnel.link import Channel, Facts, LinkError, Sink
from comfytunnel.tunnel.machine import Policy
from comfytunnel.tunnel.state import (
    AboutToSleep,
    Cause,
    Code,
    ConfigChanged,
    Opened,
    Phase,
    Reconnect,
    Route,
    RouteChanged,
    Want,
    Woke,
)
from tests.tunnel.conftest import becomes
from tests.tunnel.table import ELSEWHERE, HERE

DEADLINE = 5.0  # seconds
LOST = Cause(Code.CONNECTION_LOST)


class ScriptedLink:
    """A link whose far side is the test."""

    facts = Facts("far", 22, "root")
    rtt: float | None = 0.01
    full = False
    heard = 0.0
    spoke = float("inf")  # what is asked is answered

    def __init__(self) -> None:
        self.asked = 0
        self.end: asyncio.Future[Cause] = asyncio.get_running_loop().create_future()
        self.answers: asyncio.Future[float | None] = asyncio.get_running_loop().create_future()

    async def silence(self, after: float, patience: float) -> None:
        await asyncio.sleep(after)

    async def open(self, sink: Sink) -> Channel:
        raise NotImplementedError

    async def proof(self) -> None:
        raise NotImplementedError

    async def ask(self, deadline: float) -> float | None:
        self.asked += 1
        async with asyncio.timeout(deadline):
            return await asyncio.shield(self.answers)

    async def ended(self) -> Cause:
        return await asyncio.shield(self.end)


class ScriptedOpener:
    """Opens scripted links, each after `gate` is set, and counts how many there are at once."""

    def __init__(self) -> None:
        self.links: list[ScriptedLink] = []
        self.tries = self.now = self.most = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.refuse: Cause | None = None
        self.closed = asyncio.Event()  # cleared: a dropped link takes its time
        self.closed.set()

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[ScriptedLink]:
        self.tries += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.gate.wait()
            if self.refuse is not None:
                raise LinkError(self.refuse)
            link = ScriptedLink()
            self.links.append(link)
            yield link
        finally:
            await self.closed.wait()
            self.now -= 1


@asynccontextmanager
async def running(opener: ScriptedOpener, policy: Policy | None = None) -> AsyncIterator[Driver]:
    driver = Driver("t", opener, policy)
    task = asyncio.create_task(driver.run())
    try:
        yield driver
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert opener.now == 0, "cancelling run() ends the link"
        assert asyncio.all_tasks() == {asyncio.current_task()}, "and leaves no task"


async def until(driver: Driver, phase: Phase, link: int) -> View:
    async with asyncio.timeout(DEADLINE):
        return await driver.view.until(lambda view: view.tunnel.phase is phase and view.tunnel.link == link)


async def test_there_is_never_a_second_link_however_often_we_are_told() -> None:
    opener = ScriptedOpener()
    async with running(opener) as driver:
        for _ in range(5):
            driver.tell(Want(True))
            driver.tell(Reconnect())
            driver.tell(ConfigChanged())
        view = await until(driver, Phase.UP, 11)
        assert view.link is opener.links[-1]
        assert opener.most == opener.now == 1


async def test_the_link_is_shown_only_while_it_may_be_used() -> None:
    opener = ScriptedOpener()
    async with running(opener) as driver:
        driver.tell(Want(True))
        assert (await until(driver, Phase.UP, 1)).link is opener.links[0]
        driver.tell(Woke(60.0))
        assert (await until(driver, Phase.DOUBTFUL, 1)).link is None
        opener.links[0].answers.set_result(0.02)
        view = await until(driver, Phase.UP, 1)
        assert view.link is opener.links[0]
        assert view.tunnel.rtt == 0.02
        driver.tell(Want(False))
        assert (await until(driver, Phase.DOWN, 1)).link is None


async def test_silence_after_a_question_replaces_the_link() -> None:
    opener = ScriptedOpener()
    async with running(opener, Policy(answer_floor=0.05)) as driver:
        driver.tell(Want(True))
        await until(driver, Phase.UP, 1)
        driver.tell(RouteChanged(HERE))
        view = await until(driver, Phase.UP, 2)
        assert view.link is opener.links[1]
        assert opener.links[0].asked == 1


async def test_a_second_doubt_replaces_the_first_question() -> None:
    opener = ScriptedOpener()
    async with running(opener, Policy(answer_floor=0.3)) as driver:
        driver.tell(Want(True))
        await until(driver, Phase.UP, 1)
        driver.tell(RouteChanged(HERE))
        driver.tell(RouteChanged(ELSEWHERE))
        await until(driver, Phase.DOUBTFUL, 1)
        opener.links[0].answers.set_result(None)
        view = await until(driver, Phase.UP, 1)
        assert view.link is opener.links[0]


async def test_a_link_that_ends_is_replaced_and_late_news_of_it_changes_nothing() -> None:
    opener = ScriptedOpener()
    async with running(opener) as driver:
        driver.tell(Want(True))
        await until(driver, Phase.UP, 1)
        opener.links[0].end.set_result(LOST)
        view = await until(driver, Phase.UP, 2)
        driver.tell(Opened(1, 5.0))
        driver.tell(Woke(1.0))  # whose effect shows that the event before it has been taken
        after = await until(driver, Phase.DOUBTFUL, 2)
        assert after.tunnel.opened_at == view.tunnel.opened_at
        assert after.tunnel.rtt == view.tunnel.rtt


async def test_many_sources_of_demand_are_one() -> None:
    opener = ScriptedOpener()
    async with running(opener) as driver:
        changes = driver.view.changes()
        assert (await anext(changes)).tunnel.waiting is False
        told = []
        demands = (("door", True), ("jobs", True), ("door", False), ("jobs", False))
        for number, (source, waiting) in enumerate(demands):
            driver.demand(source, waiting)
            driver.tell(
                RouteChanged(Route(f"192.0.2.{number}", True))
            )  # something to be announced in any case
            async with asyncio.timeout(DEADLINE):
                told.append((await anext(changes)).tunnel.waiting)
        assert told == [True, True, True, False]


async def test_another_endpoint_is_used_from_the_next_link_on() -> None:
    old, new = ScriptedOpener(), ScriptedOpener()
    async with running(old) as driver:
        driver.tell(Want(True))
        await until(driver, Phase.UP, 1)
        driver.aim(new, Policy())
        assert (old.now, new.tries) == (1, 0)
        driver.tell(ConfigChanged())
        view = await until(driver, Phase.UP, 2)
        assert view.link is new.links[0]
        assert old.now == 0


async def test_a_try_under_way_is_given_up_at_once_when_it_is_not_wanted_any_more() -> None:
    opener = ScriptedOpener()
    opener.gate.clear()
    async with running(opener) as driver:
        driver.tell(Want(True))
        await until(driver, Phase.CONNECTING, 1)
        await becomes(lambda: opener.now == 1, "it is being opened")
        driver.tell(Want(False))
        await until(driver, Phase.DOWN, 1)
        await becomes(lambda: opener.now == 0, "it is given up")


async def test_what_was_told_is_taken_only_when_the_link_that_it_dropped_is_closed() -> None:
    """The machine is let go to sleep after that."""
    opener = ScriptedOpener()
    async with running(opener) as driver:
        driver.tell(Want(True))
        await until(driver, Phase.UP, 1)
        opener.closed.clear()
        driver.tell(AboutToSleep(streaming=False))
        taken = asyncio.create_task(driver.taken())
        await driver.view.until(lambda view: view.tunnel.phase is Phase.WAITING)
        assert not (await asyncio.wait({taken}, timeout=0.05))[0]
        opener.closed.set()
        await taken
        assert opener.now == 0
