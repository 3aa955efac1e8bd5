"""The disk: what the daemon's own process cannot be brought to in a test with a real one."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Event

import pytest

from comfytunnel.doctor import house as houses
from comfytunnel.doctor.chain import Broken
from comfytunnel.doctor.house import House, try_disk
from comfytunnel.jobs.disk import try_folder
from comfytunnel.jobs.store import Store


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    store = await Store.open(tmp_path / "state" / "jobs.db")
    yield House(tmp_path / "config.toml", True, tmp_path / "state", tmp_path / "a" / "b" / "pictures", store)
    await store.close()


async def test_a_folder_that_is_not_there_yet_is_tried_where_it_would_be_made(house: House) -> None:
    said = await try_disk(house)
    assert isinstance(said, tuple)
    assert str(house.output_dir) in said[0]
    assert "0 jobs" in said[0]
    assert not house.output_dir.parent.exists(), "it is not made"


async def test_too_little_room_is_said_before_outputs_stop(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**40, 2**40, 2**20))
    with pytest.raises(Broken, match=r"1 MB are free, 67 MB must stay so") as raised:
        await try_disk(house)
    assert "free some space" in raised.value.hint
    with pytest.raises(OSError, match="must stay so") as error:
        try_folder(house.output_dir)
    assert error.value.errno == errno.ENOSPC


async def test_a_disk_that_hangs_is_given_up(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    release = Event()
    monkeypatch.setattr(houses, "DISK_DEADLINE", 0.1)
    monkeypatch.setattr(houses, "try_folder", lambda _: str(release.wait(10)))
    with pytest.raises(Broken, match="did not answer") as raised:
        await try_disk(house)
    assert raised.value.hint
    release.set()


async def test_a_database_that_was_put_aside_is_told_though_a_new_one_answers(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    path.write_bytes(os.urandom(4096))
    store = await Store.open(path)
    said = await try_disk(House(tmp_path, True, tmp_path, tmp_path, store))
    assert "was broken" in said[1]
    await store.close()
