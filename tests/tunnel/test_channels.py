"""Many channels on one link: whose windows they are, who waits for one, and what stays when nobody confirms."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from comfytunnel.demo.remote import Remote
from comfytunnel.tunnel.channels import Channels
from comfytunnel.tunnel.state import Phase, Reconnect, Woke
from comfytunnel.tunnel.window import LEAST
from tests.tunnel.callers import all_gone, connected, inside, reset
from tests.tunnel.conftest import (
    DEADLINE,
    Far,
    Near,
    becomes,
    config_for,
    echo,
    hello,
    idle,
    near,
    remote_far,
    service,
)

CROWD = 180  # callers
FEW = 120  # least windows that there are for them


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small budget, so that a crowd of a size that is quickly made has spent it."""
    monkeypatch.setattr("comfytunnel.tunnel.window.BUDGET", FEW * LEAST)


async def channels_of(tunnel: Near) -> Channels:
    """Those of the live link, once its spares are open."""
    channels = inside(await tunnel.up())._channels
    await becomes(lambda: len(channels._spares) == 2, "the spares are open")
    return channels


@pytest.mark.usefixtures("few")
async def test_a_crowd_shares_one_budget_and_who_finds_it_spent_is_served_in_turn(
    far: Far, tmp_path: Path
) -> None:
    served: list[asyncio.StreamWriter] = []

    async def call(stack: AsyncExitStack) -> None:
        reader, writer = await stack.enter_async_context(connected(tunnel.port))
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        served.append(writer)

    async with (
        service(echo) as port,
        near(config_for(far, tmp_path, port)) as tunnel,
        AsyncExitStack() as stack,
    ):
        channels = await channels_of(tunnel)
        calls = [asyncio.create_task(call(stack)) for _ in range(CROWD)]
        await becomes(
            lambda: len(served) + tunnel.door.held_callers == CROWD and not channels._openings,
            "each is served or waits",
        )
        # It may be in use for a moment: a slow machine makes the link ask.
        await becomes(
            lambda: channels.flow.free >= LEAST, "one is kept for the question whether the link lives"
        )
        first = len(served)
        assert FEW - 5 <= first <= FEW
        while served:
            served.pop().close()
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*calls)
        while served:
            served.pop().close()
        await all_gone(tunnel, budget=FEW * LEAST)
        assert tunnel.record.link == 1


@pytest.mark.usefixtures("few")
async def test_a_link_whose_windows_are_all_taken_still_answers_whether_it_lives(
    far: Far, tmp_path: Path
) -> None:
    async with (
        service(echo) as port,
        near(config_for(far, tmp_path, port)) as tunnel,
        AsyncExitStack() as stack,
    ):
        channels = await channels_of(tunnel)
        for _ in range(CROWD):
            await stack.enter_async_context(connected(tunnel.port))
        await becomes(lambda: tunnel.door.held_callers > 0 and not channels._openings, "it is full")
        for _ in range(3):
            tunnel.tell(Woke(100.0))
            await tunnel.phase(Phase.DOUBTFUL)
            await tunnel.phase(Phase.UP)
            await becomes(lambda: channels.flow.free >= LEAST, "the next question has a window")
        assert tunnel.record.link == 1
        assert tunnel.door.tally.lost == 0


@pytest.mark.usefixtures("few")
async def test_callers_leave_a_bounded_heap_on_a_link_that_confirms_nothing(tmp_path: Path) -> None:
    async with remote_far(tmp_path) as far, service(hello) as port:
        assert isinstance(far.server, Remote)
        async with near(config_for(far, tmp_path, port, spares=0, hold=0.5)) as tunnel:
            channels = inside(await tunnel.up())._channels
            far.server.ignore_forwards = True
            for _ in range(400):
                _, writer = await asyncio.open_connection("127.0.0.1", tunnel.port)
                reset(writer)
            await becomes(lambda: tunnel.door.tally.callers == 400, "all have been here")
            await becomes(lambda: tunnel.door.open_callers == 0, "all have left")
            assert 0 < len(channels._openings) <= FEW
            assert not channels._line
            assert channels.flow.free >= 0
            answer = await tunnel.call()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"no channel came free" in answer
            assert tunnel.record.link == 1
            assert not channels._line
            far.server.ignore_forwards = False
            tunnel.tell(Reconnect())
            await tunnel.up(after=1)
            assert (await tunnel.call()).endswith(b"hello")


async def test_the_next_spare_is_opened_behind_the_answer_and_not_before_it(
    far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its confirmation would keep sshd from sending the answer until somebody's kernel has acknowledged it, which takes 40 ms behind a relay."""
    monkeypatch.setattr("comfytunnel.tunnel.channels.REFILL_AFTER", DEADLINE)
    may_answer = asyncio.Event()
    asked = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(100):
            asked.set()
            await may_answer.wait()
            writer.write(b"yes")

    async with service(serve) as port, near(config_for(far, tmp_path, port)) as tunnel:
        channels = await channels_of(tunnel)
        async with connected(tunnel.port) as (reader, writer), asyncio.timeout(DEADLINE):
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await asked.wait()
            assert (len(channels._spares), len(channels._openings)) == (1, 0)
            may_answer.set()
            assert await reader.readexactly(3) == b"yes"
            await becomes(lambda: len(channels._spares) == 2, "the spare is replaced")


async def test_the_next_spare_does_not_wait_for_an_answer_that_takes_long(far: Far, tmp_path: Path) -> None:
    async with service(idle) as port, near(config_for(far, tmp_path, port)) as tunnel:
        channels = await channels_of(tunnel)
        async with connected(tunnel.port) as (_, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await becomes(lambda: channels._refill_timer is not None, "the caller has its channel")
            # Not by the question whether the link lives, which a caller without an answer brings too, and leaves a spare.
            await becomes(lambda: channels._refill_timer is None, "the time for an answer is over")
            await becomes(lambda: len(channels._spares) == 2, "the spare is replaced")
