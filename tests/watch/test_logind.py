"""The word of logind, over a real bus: the lock, the goodbye, and every way in which there is no logind to hear."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from comfytunnel.watch.logind import GOODBYE, Logind
from tests.watch.conftest import DEADLINE, becomes, need

if sys.platform != "linux":
    pytest.skip("needs Linux", allow_module_level=True)

from tests.watch.logind import FakeLogind, bus_at, is_open

PAUSE = 0.02


@pytest.fixture
def place(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the system bus is expected; nothing is there yet."""
    need("dbus-daemon")
    path = short_path / "bus"
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={path}")
    return path


@pytest.fixture
async def bus(place: Path) -> AsyncIterator[str]:
    async with bus_at(place) as address:
        yield address


class Ear:
    """What Logind calls, and how long saying goodbye takes."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[str] = asyncio.Queue()
        self.may_sleep = asyncio.Event()
        self.may_sleep.set()

    async def on_sleep(self) -> None:
        self.heard.put_nowait("sleep")
        await self.may_sleep.wait()
        self.heard.put_nowait("goodbye")

    def on_wake(self) -> None:
        self.heard.put_nowait("wake")

    async def next(self) -> str:
        async with asyncio.timeout(DEADLINE):
            return await self.heard.get()


@asynccontextmanager
async def listening(ear: Ear, *, goodbye: float = GOODBYE) -> AsyncIterator[list[Any]]:
    """Logind runs; what it logs."""
    with capture_logs() as lines:
        task = asyncio.create_task(Logind(pause=PAUSE, goodbye=goodbye).run(ear.on_sleep, ear.on_wake))
        try:
            yield lines
        finally:
            assert not task.done(), task
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def locked(logind: FakeLogind) -> list[str]:
    async with asyncio.timeout(DEADLINE):
        return await logind.asked.get()


def info(lines: list[Any]) -> list[str]:
    return [line["event"] for line in lines if line["log_level"] != "debug"]


async def test_the_machine_may_sleep_only_when_goodbye_is_said_and_is_held_again_after_it_woke(
    bus: str,
) -> None:
    ear = Ear()
    ear.may_sleep.clear()
    async with FakeLogind(bus) as logind, listening(ear) as lines:
        what, who, why, mode = await locked(logind)
        assert (what, who, mode) == ("sleep", "comfytunnel", "delay")
        assert why
        await logind.prepare_for_sleep(True)
        assert await ear.next() == "sleep"
        assert logind.held == [True]
        ear.may_sleep.set()
        assert await ear.next() == "goodbye"
        await becomes(lambda: logind.held == [False], "the lock is released")
        await logind.prepare_for_sleep(False)
        assert await ear.next() == "wake"
        await locked(logind)
        await becomes(lambda: logind.held == [False, True], "the lock is taken again")
    assert info(lines) == []


async def test_a_goodbye_that_takes_too_long_does_not_hold_the_machine(bus: str) -> None:
    ear = Ear()
    ear.may_sleep.clear()
    async with FakeLogind(bus) as logind, listening(ear, goodbye=0.05):
        await locked(logind)
        await logind.prepare_for_sleep(True)
        await becomes(lambda: logind.held == [False], "the lock is released")
        assert await ear.next() == "sleep"
        await logind.prepare_for_sleep(False)
        assert await ear.next() == "wake"


async def test_a_goodbye_that_fails_holds_nothing_and_is_not_the_last(bus: str) -> None:
    class Broken(Ear):
        async def on_sleep(self) -> None:
            await super().on_sleep()
            raise RuntimeError("told by the test")

    ear = Broken()
    async with FakeLogind(bus) as logind, listening(ear) as lines:
        for _ in range(2):
            await locked(logind)
            await becomes(lambda: logind.held[-1:] == [True], "the lock is given")
            await logind.prepare_for_sleep(True)
            assert [await ear.next(), await ear.next()] == ["sleep", "goodbye"]
            await becomes(lambda: True not in logind.held, "the lock is released")
        await becomes(lambda: info(lines) == ["logind", "logind"], "both failures are logged")


async def test_the_lock_ends_with_us(bus: str) -> None:
    async with FakeLogind(bus) as logind:
        async with listening(Ear()):
            await locked(logind)
            await becomes(lambda: logind.held == [True], "the lock is given")
        await becomes(lambda: logind.held == [False], "the lock is released")


async def test_without_the_right_to_the_lock_sleep_is_heard_all_the_same_and_that_is_said_once(
    bus: str,
) -> None:
    ear = Ear()
    async with FakeLogind(bus, deny=True) as logind, listening(ear) as lines:
        await locked(logind)
        for _ in range(2):
            await logind.prepare_for_sleep(True)
            assert [await ear.next(), await ear.next()] == ["sleep", "goodbye"]
            await logind.prepare_for_sleep(False)
            assert await ear.next() == "wake"
            await locked(logind)
    assert len(info(lines)) == 1
    assert "no delay lock" in info(lines)[0]


async def test_an_absent_bus_is_said_once_and_taken_up_when_it_comes(place: Path) -> None:
    ear = Ear()
    async with listening(ear) as lines:
        await becomes(lambda: len(info(lines)) == 1, "the absent bus is said")
        async with bus_at(place) as address, FakeLogind(address) as logind:
            await locked(logind)
            await logind.prepare_for_sleep(True)
            assert await ear.next() == "sleep"
    assert "no system bus" in info(lines)[0]


async def test_a_bus_that_restarts_is_found_again(place: Path) -> None:
    ear = Ear()
    async with listening(ear) as lines:
        for _ in range(3):
            async with bus_at(place) as address, FakeLogind(address) as logind:
                await locked(logind)
                await logind.prepare_for_sleep(True)
                assert [await ear.next(), await ear.next()] == ["sleep", "goodbye"]
                await becomes(lambda logind=logind: logind.held == [False], "the lock is released")  # type: ignore[misc]  # mypy cannot infer the default's type
    assert sum("no system bus" in line for line in info(lines)) == 1


async def test_a_logind_that_restarts_gets_the_lock_asked_for_again(bus: str) -> None:
    ear = Ear()
    async with listening(ear):
        for _ in range(2):
            async with FakeLogind(bus) as logind:
                await locked(logind)
                await becomes(lambda logind=logind: logind.held[-1:] == [True], "the lock is given")  # type: ignore[misc]  # mypy cannot infer the default's type
                await logind.prepare_for_sleep(True)
                assert await ear.next() == "sleep"
                assert await ear.next() == "goodbye"


async def test_nobody_but_logind_is_believed(bus: str) -> None:
    """A signal sent to one client directly passes every match rule, so its sender is looked at."""
    ear = Ear()
    async with FakeLogind(bus) as logind, listening(ear):
        await locked(logind)
        async with FakeLogind(bus) as other:  # queues for the name, and does not get it
            for number in range(1, 10):
                await other.prepare_for_sleep(True, only_to=f":1.{number}")
            await other.prepare_for_sleep(True)
        await logind.prepare_for_sleep(False)
        assert await ear.next() == "wake"


async def test_descriptors_that_anybody_sends_are_not_kept(bus: str) -> None:
    ear = Ear()
    async with FakeLogind(bus) as logind, listening(ear):
        await locked(logind)
        await becomes(lambda: logind.held == [True], "the lock is given")
        inner, outer = os.pipe()
        os.set_blocking(inner, False)
        try:
            for number in range(1, 10):
                await logind.prepare_for_sleep(True, only_to=f":1.{number}", descriptors=[outer])
        finally:
            os.close(outer)
        await logind.prepare_for_sleep(False)
        assert await ear.next() == "wake"
        try:
            await becomes(lambda: not is_open(inner), "nobody holds the other end")
        finally:
            os.close(inner)


async def test_a_bus_that_is_no_bus_is_carried_on_without(place: Path) -> None:
    """What answers accepts and says nonsense."""

    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with listening(Ear()) as lines, await asyncio.start_unix_server(nonsense, place):
        await becomes(lambda: len(info(lines)) == 1, "it is said")
