"""The file of outages: what it keeps, what it forgives, how it stays short; and a disk that takes nothing."""

from __future__ import annotations

import asyncio
import json
import resource
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from comfytunnel import history, wire
from comfytunnel.history import History, _File
from tests.api.conftest import an_outage


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[History]:
    """As app.py runs it."""
    it = History(path)
    task = asyncio.create_task(it.run())
    try:
        yield it
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await it.close()


def numbers(outages: object) -> list[float]:
    return [outage.seconds for outage in outages]  # type: ignore[attr-defined]  # any outages, on purpose


@contextmanager
def no_file_may_grow_over(size: int) -> Iterator[None]:
    """The kernel cuts a write short there, as a full disk does, and refuses the next (EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def add(it: History, *seconds: float) -> None:
    for value in seconds:
        it.add(an_outage(seconds=value))


async def test_what_is_added_is_there_after_a_restart_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "outages.jsonl"
    async with running(path) as it:
        await add(it, 1.0, 2.0)
        assert numbers(it.all()) == [1.0, 2.0]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [json.loads(line)["tunnel"] for line in path.read_text().splitlines()] == ["default"] * 2
    async with running(path) as it:
        await add(it, 3.0)
        assert it.ended.value == 1
        assert numbers(it.since(0)) == [3.0]
    assert numbers(History(path).all()) == [1.0, 2.0, 3.0]
    assert History(path).all()[0] == an_outage(seconds=1.0)


async def test_an_outage_is_on_disk_without_waiting_for_the_end(tmp_path: Path) -> None:
    async with running(tmp_path / "outages.jsonl") as it, asyncio.timeout(5):
        await add(it, 1.0)
        while not History(tmp_path / "outages.jsonl").all():  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.005)


async def test_half_a_line_and_nonsense_are_skipped_and_spoil_nothing_that_follows(tmp_path: Path) -> None:
    path = tmp_path / "outages.jsonl"
    async with running(path) as it:
        await add(it, 1.0)
    line = path.read_bytes()
    deep, other = b'{"x":' + b"[" * 100_000 + b"\n", b'{"tunnel": 7}\n'
    path.write_bytes(b"\xff\x00\n" + other + deep + b"\n" + line + line[:70])
    with structlog.testing.capture_logs() as told:
        async with running(path) as it:
            assert numbers(it.all()) == [1.0]
            await add(it, 2.0)
    assert ["make no sense" in entry["message"] for entry in told if entry["log_level"] == "warning"] == [
        True
    ]
    assert numbers(History(path).all()) == [1.0, 2.0]


async def test_of_a_monstrous_file_only_the_end_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "READ_MOST", 1000)
    path = tmp_path / "outages.jsonl"
    async with running(path) as it:
        await add(it, *(float(number) for number in range(20)))
    found = numbers(History(path).all())
    assert 1 <= len(found) <= 3
    assert found[-1] == 19.0


async def test_the_file_is_made_anew_when_it_grows_too_long_and_keeps_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "KEPT", 5)
    monkeypatch.setattr(history, "SLACK", 3)
    path = tmp_path / "outages.jsonl"
    lengths = []
    for number in range(12):  # each over a restart, so that the lines are counted in the file, too
        async with running(path) as it:
            await add(it, float(number))
        lengths.append(len(path.read_text().splitlines()))
    assert lengths == [1, 2, 3, 4, 5, 6, 7, 8, 5, 6, 7, 8]
    assert numbers(History(path).all()) == [7.0, 8.0, 9.0, 10.0, 11.0]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [found.name for found in tmp_path.iterdir()] == ["outages.jsonl"]
    it = History(path)
    for number in range(12, 16):  # and without one
        await add(it, float(number))
        await it.close()
        lengths.append(len(path.read_text().splitlines()))
    assert lengths[-4:] == [5, 6, 7, 8]


async def test_a_disk_that_is_full_leaves_no_half_line_and_gets_what_it_missed_later(tmp_path: Path) -> None:
    path = tmp_path / "outages.jsonl"
    it = History(path)
    await add(it, 1.0)
    await it.close()
    size = path.stat().st_size
    with structlog.testing.capture_logs() as told:
        with no_file_may_grow_over(size + 50):
            await add(it, 2.0)
            await it.close()
            await add(it, 3.0)
            await it.close()
        assert path.stat().st_size == size
        assert numbers(it.all()) == [1.0, 2.0, 3.0], "they are known all the same"
        await add(it, 4.0)
        await it.close()
        warnings = [entry for entry in told if entry["log_level"] == "warning"]
        assert len(warnings) == 1
        assert str(path) in warnings[0]["message"]
        assert numbers(History(path).all()) == [1.0, 2.0, 3.0, 4.0]
        with no_file_may_grow_over(path.stat().st_size):
            await add(it, 5.0)
            await it.close()
    assert len([entry for entry in told if entry["log_level"] == "warning"]) == 2, "new trouble is news again"


async def test_a_stop_in_the_middle_of_a_write_neither_loses_nor_doubles_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "outages.jsonl"
    begun, go_on = threading.Event(), threading.Event()
    write = _File.write

    def slow(file: _File, *outages: Any) -> None:
        """A disk that takes its time."""
        begun.set()
        assert go_on.wait(10)
        write(file, *outages)

    monkeypatch.setattr(_File, "write", slow)
    it = History(path)
    task = asyncio.create_task(it.run())
    await add(it, 1.0)
    assert await asyncio.to_thread(begun.wait, 10)
    await add(it, 2.0)
    task.cancel()
    await asyncio.wait([task])
    closing = asyncio.create_task(it.close())
    await asyncio.sleep(0)  # it has begun
    go_on.set()
    await closing
    assert numbers(History(path).all()) == [1.0, 2.0]


def test_a_reader_that_missed_more_than_is_kept_gets_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "KEPT", 3)
    it = History(tmp_path / "outages.jsonl")
    assert list(it.since(0)) == []
    for number in range(5):
        it.add(an_outage(seconds=float(number)))
    assert numbers(it.since(0)) == [2.0, 3.0, 4.0]
    assert numbers(it.since(4)) == [4.0]
    assert numbers(it.since(5)) == []


def test_a_record_of_a_newer_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "outages.jsonl"
    line = json.loads(history._lines([an_outage()]))
    path.write_text(json.dumps({**line, "mood": "bad"}) + "\n")
    [found] = History(path).all()
    assert isinstance(found, wire.Outage)
