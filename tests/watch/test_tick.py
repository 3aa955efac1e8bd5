"""The tick, with a real timer of the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from comfytunnel.watch import tick as ticking
from comfytunnel.watch.tick import boottime_timer, tick
from tests.watch.conftest import DEADLINE, need

SHORT = 0.02


async def three_ticks() -> None:
    ticks: asyncio.Queue[None] = asyncio.Queue()
    task = asyncio.create_task(tick(lambda: ticks.put_nowait(None), SHORT))
    try:
        async with asyncio.timeout(DEADLINE):
            for _ in range(3):
                await ticks.get()
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()


def open_timers() -> int:
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that reads this folder has gone
            found += "timerfd" in str(descriptor.readlink())
    return found


async def test_it_ticks_and_leaves_no_descriptor_behind() -> None:
    need()
    before = open_timers()
    await three_ticks()
    assert open_timers() == before


async def test_where_the_kernel_refuses_the_timer_an_ordinary_one_ticks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(interval: float) -> int:
        raise OSError("refused")

    monkeypatch.setattr(ticking, "boottime_timer", refused)
    await three_ticks()


async def test_ticks_that_were_missed_are_one() -> None:
    need()
    timer, other = boottime_timer(SHORT), boottime_timer(SHORT)
    try:
        os.set_blocking(other, True)
        for _ in range(3):  # the other's expirations show that the time of several has passed
            os.read(other, 8)
        fired = asyncio.Event()
        ticking._drain(timer, fired)
        assert fired.is_set()
        fired.clear()
        ticking._drain(timer, fired)
        assert not fired.is_set()
    finally:
        os.close(timer)
        os.close(other)


def test_the_timer_counts_the_clock_that_runs_through_sleep() -> None:
    """/proc shows the clock of a timerfd: 7 is CLOCK_BOOTTIME. By the C library and, from 3.13, by Python itself."""
    need()
    for make in (boottime_timer, ticking._boottime_timer_by_libc):
        timer = make(5.0)
        try:
            facts = Path(f"/proc/self/fdinfo/{timer}").read_text()
        finally:
            os.close(timer)
        assert "clockid: 7" in facts
        assert "it_interval: (5, 0)" in facts
