"""Transfers over real SSH: what their windows become on a long and on a thin line, and whom they leave room for."""

from __future__ import annotations

import asyncio
import gc
import itertools
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from comfytunnel.tunnel.channels import Channels
from comfytunnel.tunnel.window import BUDGET, FIRST, LEAST, MOST, Pace
from tests.fakes.relay import Relay
from tests.fakes.sshd import Sshd
from tests.tunnel.callers import HASTY, MEGABYTE, all_gone, connected, echoed, inside, reset
from tests.tunnel.conftest import Far, Near, becomes, config_for, idle, near, service

DELAY = 0.05  # seconds each way
LONG = 20.0  # seconds for a transfer on a busy machine


async def file(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends as many megabytes as the first byte says, 0 for ever; after an "x" it sends back what it gets."""
    first = await reader.readexactly(1)
    if first == b"x":
        writer.write(first)
        while data := await reader.read(1 << 16):
            writer.write(data)
        return
    for _ in range(first[0]) if first[0] else itertools.count():
        writer.write(bytes(MEGABYTE))
        await writer.drain()


async def download(tunnel: Near, megabytes: int) -> None:
    async with connected(tunnel.port) as (reader, writer), asyncio.timeout(LONG):
        writer.write(bytes([megabytes]))
        for _ in range(megabytes):
            await reader.readexactly(MEGABYTE)
        assert await reader.read() == b""


@asynccontextmanager
async def endless_download(tunnel: Near) -> AsyncIterator[None]:
    """One goes on all the while."""

    async def load() -> None:
        async with connected(tunnel.port) as (reader, writer):
            writer.write(bytes([0]))
            while await reader.read(MEGABYTE):
                pass

    flow = inside(await tunnel.up())._channels.flow
    task = asyncio.create_task(load())
    await becomes(lambda: not flow.quiet, "it runs")
    yield
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


def buffered(channels: Channels) -> list[int]:
    """Bytes that each channel keeps because nobody reads them."""
    return [sum(len(data) for data, _ in chan._recv_buf) for chan in channels._conn._channels.values()]


# --- windows --------------------------------------------------------------------------------------------------------


async def test_a_window_grows_on_a_long_path_and_the_next_transfer_begins_with_it(
    sshd: Sshd, tmp_path: Path
) -> None:
    async with (
        Relay(sshd.port, delay=DELAY) as relay,
        service(file) as port,
        near(config_for(sshd, tmp_path, port, port=relay.port)) as tunnel,
    ):
        flow = inside(await tunnel.up())._channels.flow
        assert flow.pace.window == FIRST
        # It grows as far as it is filled: on a busy machine one transfer may not do that.
        for _ in range(4):
            await download(tunnel, 48)
            if flow.pace.window >= 4 * MEGABYTE:
                break
        grown = flow.pace.window
        assert grown >= 4 * MEGABYTE
        # Its channel ends a round trip later: until then the two would share the budget.
        await becomes(lambda: flow.free >= BUDGET - 10 * LEAST, "the first transfer's window is free again")
        async with connected(tunnel.port) as (reader, writer), asyncio.timeout(LONG):
            writer.write(bytes([4]))
            await reader.readexactly(MEGABYTE)
            (caller,) = (caller for caller in tunnel.door._callers if caller._channel is not None)
            session = caller._channel._chan._session  # type: ignore[union-attr]  # it has one, and it is ours
            assert session.meter.window >= grown // 2
            await reader.read()
        await all_gone(tunnel)


async def test_a_download_on_a_thin_line_fills_it_little_and_is_never_torn_down(
    sshd: Sshd, tmp_path: Path
) -> None:
    """2 Mbit/s. Others are served beside it, and who asks whether the link lives hears bytes."""
    async with (
        Relay(sshd.port, delay=0.01, rate=250_000) as relay,
        service(file) as port,
        near(config_for(sshd, tmp_path, port, port=relay.port), HASTY) as tunnel,
    ):
        flow = inside(await tunnel.up())._channels.flow
        async with endless_download(tunnel):
            await becomes(lambda: flow.pace.loaded is not None, "it was asked beside the transfer")
            for _ in range(5):
                assert await echoed(tunnel, b"x beside it") == b"x beside it"
            await becomes(lambda: flow.pace.window == LEAST, "the window has become small")
        assert tunnel.record.link == 1
        assert tunnel.door.tally.lost == 0


async def test_a_reader_that_is_slow_makes_the_far_side_wait_within_the_window(
    far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncssh's own way fills the window up again each time that the reader takes a little, and its buffer grows without end."""
    monkeypatch.setattr("comfytunnel.tunnel.window.MOST", MEGABYTE)
    async with service(file) as port, near(config_for(far, tmp_path, port, spares=0)) as tunnel:
        channels = inside(await tunnel.up())._channels
        async with connected(tunnel.port) as (reader, writer), asyncio.timeout(LONG):
            writer.write(bytes([100]))
            most = 0
            for _ in range(24):
                await reader.readexactly(MEGABYTE)
                for _ in range(20):  # turns of the loop in which more could come
                    await asyncio.sleep(0.001)
                    most = max(most, *buffered(channels))
            assert 0 < most <= MEGABYTE
            reset(writer)
        await all_gone(tunnel)


async def test_readers_that_stop_fill_the_budget_and_no_more(
    far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfytunnel.tunnel.window.BUDGET", 8 * MEGABYTE)
    monkeypatch.setattr("comfytunnel.tunnel.window.CROWD", 2 * MEGABYTE)
    async with service(file) as port, near(config_for(far, tmp_path, port, spares=0)) as tunnel:
        channels = inside(await tunnel.up())._channels
        async with AsyncExitStack() as stack:
            for _ in range(8):
                reader, writer = await stack.enter_async_context(connected(tunnel.port))
                stack.callback(reset, writer)
                writer.write(bytes([64]))
                writer.transport.set_write_buffer_limits()
                reader._transport.pause_reading()  # type: ignore[attr-defined]  # the reader stops, its kernel too
            channels.flow.pace = Pace(window=MOST)
            await becomes(lambda: sum(n > 0 for n in buffered(channels)) == 8, "each has stopped", LONG)
            before = -1
            while sum(buffered(channels)) != before:  # until nothing moves any more
                before = sum(buffered(channels))
                await asyncio.sleep(0.2)
            assert 0 < before <= 8 * MEGABYTE
            assert channels.flow.free >= 0
        await all_gone(tunnel, budget=8 * MEGABYTE)


async def test_the_window_goes_on_after_our_side_has_ended(far: Far, tmp_path: Path) -> None:
    async def after_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.write(bytes(6 * MEGABYTE))
        await writer.drain()

    async with service(after_the_end) as port, near(config_for(far, tmp_path, port)) as tunnel:
        await tunnel.up()
        assert len(await tunnel.call(end=True)) == 6 * MEGABYTE
        await all_gone(tunnel)


# --- crowds ---------------------------------------------------------------------------------------------------------


async def test_two_hundred_callers_are_served_while_one_downloads(sshd: Sshd, tmp_path: Path) -> None:
    async with service(file) as port, near(config_for(sshd, tmp_path, port)) as tunnel:
        async with endless_download(tunnel), asyncio.timeout(LONG):
            answers = await asyncio.gather(*(echoed(tunnel, b"x%d" % number) for number in range(200)))
        assert answers == [b"x%d" % number for number in range(200)]
        assert tunnel.door.tally.lost == 0
        await all_gone(tunnel)


async def test_three_hundred_open_calls_work_on_one_link(sshd: Sshd, tmp_path: Path) -> None:
    async with (
        service(file) as port,
        near(config_for(sshd, tmp_path, port)) as tunnel,
        AsyncExitStack() as stack,
        asyncio.timeout(LONG),
    ):
        flow = inside(await tunnel.up())._channels.flow
        calls = [await stack.enter_async_context(connected(tunnel.port)) for _ in range(300)]
        for _ in range(2):
            for _, writer in calls:
                writer.write(b"x")
            for reader, _ in calls:
                assert await reader.readexactly(1) == b"x"
        assert tunnel.door.open_callers == 300
        await download(tunnel, 16)
        assert flow.free > 100 * LEAST, "there is room for more"
        assert tunnel.door.tally.held == 0


async def test_a_thousand_callers_that_reset_leave_nothing_behind(sshd: Sshd, tmp_path: Path) -> None:
    """At 100 ms round trip: no channel, no remote socket, no task, no memory (asyncssh#823)."""
    there = 0

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal there
        there += 1
        try:
            await idle(reader, writer)
        finally:
            there -= 1

    async def come_and_go(callers: int, tunnel: Near) -> int:
        """What is in memory afterwards, in bytes."""
        before = tunnel.door.tally.callers
        for _ in range(callers):
            _, writer = await asyncio.open_connection("127.0.0.1", tunnel.port)
            reset(writer)
        await becomes(lambda: tunnel.door.tally.callers == before + callers, "all have been here")
        await all_gone(tunnel)
        channels = inside(await tunnel.up())._channels
        await becomes(
            lambda: there == len(channels._spares) == 2, lambda: f"{there} remote sockets for 2 spares"
        )
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    async with (
        Relay(sshd.port, delay=DELAY) as relay,
        service(counted) as port,
        near(config_for(sshd, tmp_path, port, port=relay.port)) as tunnel,
    ):
        await tunnel.up()
        tracemalloc.start()
        try:
            first = await come_and_go(100, tunnel)
            tasks = len(asyncio.all_tasks())
            grown = await come_and_go(1000, tunnel) - first
        finally:
            tracemalloc.stop()
        assert grown < 1000 * 200, "bytes: not even a small object for each"
        assert len(asyncio.all_tasks()) == tasks
        assert tunnel.record.link == 1
