"""An upgrade: a database of each former version is copied, brought up to date, and none of its jobs is lost."""

from __future__ import annotations

import asyncio
import errno
import re
import shutil
import sqlite3
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from comfytunnel.errors import StateError
from comfytunnel.jobs import backup, schema
from comfytunnel.jobs.model import Stage, Status
from comfytunnel.jobs.store import Store
from tests.jobs.bench import Bench

DUMPS = Path(__file__).with_name("databases")
FORMER = range(1, len(schema.MIGRATIONS))
LABELS = ("done", "fetching", "on_server", "submitting", "waiting")
NOW = datetime(2026, 11, 23, 17, 50, tzinfo=UTC)


def lay(path: Path, version: int) -> None:
    """Put a database of that version at `path`."""
    db = sqlite3.connect(path)
    db.executescript((DUMPS / f"v{version}.sql").read_text())
    db.close()


def dump(path: Path) -> list[str]:
    db = sqlite3.connect(path)
    try:
        return [*db.iterdump(), str(db.execute("PRAGMA user_version").fetchone())]
    finally:
        db.close()


def test_there_is_a_database_of_each_former_version() -> None:
    assert all((DUMPS / f"v{version}.sql").exists() for version in FORMER)


@pytest.mark.parametrize("version", FORMER)
async def test_an_upgrade_takes_up_jobs_in_every_stage(tmp_path: Path, version: int) -> None:
    """What had ended stays as it was; all else runs to its end, though the ComfyUI that had it has gone."""
    bench = Bench(tmp_path)
    lay(tmp_path / "jobs.db", version)
    await bench.far.start()
    await bench.start()
    bench.link_up()
    try:
        assert bench.store.notice is None
        jobs, _ = await bench.store.listing()
        assert tuple(job.label for job in reversed(jobs)) == LABELS
        ended = {str(job.label): await bench.ends(job) for job in jobs}
        assert {job.status for job in ended.values()} == {Status.SUCCEEDED}, ended
        assert ended["done"].revision == 6
        assert [each.name for each in await bench.store.outputs(ended["done"].id)] == ["done_00001_.png"]
        assert len(await bench.files()) == len(LABELS) - 1
    finally:
        await bench.stop()


@pytest.mark.parametrize("version", FORMER)
async def test_the_database_as_it_was_lies_beside_it(tmp_path: Path, version: int) -> None:
    lay(tmp_path / "jobs.db", version)
    before = dump(tmp_path / "jobs.db")
    await (await Store.open(tmp_path / "jobs.db")).close()
    [copy] = backup.copies(tmp_path / "jobs.db")
    assert re.fullmatch(rf"jobs\.db\.v{version}-\d{{8}}-\d{{6}}", copy.path.name)
    assert dump(copy.path) == before
    assert stat.S_IMODE(copy.path.stat().st_mode) == 0o600
    await (await Store.open(tmp_path / "jobs.db")).close()
    assert len(backup.copies(tmp_path / "jobs.db")) == 1, "nothing was migrated the second time"


def test_the_copy_holds_what_is_only_in_the_log_of_the_database(tmp_path: Path) -> None:
    """A daemon that was killed leaves its latest changes in the -wal."""
    lay(tmp_path / "a.db", 1)
    db = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("UPDATE counter SET revision = 99")
    for ending in ("", "-wal"):
        shutil.copy(tmp_path / f"a.db{ending}", tmp_path / f"jobs.db{ending}")
    db.close()
    schema.open_database(tmp_path / "jobs.db", NOW)[0].close()
    [copy] = backup.copies(tmp_path / "jobs.db")
    assert 'INSERT INTO "counter" VALUES(99);' in dump(copy.path)


def test_two_copies_are_kept(tmp_path: Path) -> None:
    for day in range(4):
        path = tmp_path / "jobs.db"
        path.unlink(missing_ok=True)
        lay(path, 1)
        schema.open_database(path, NOW + timedelta(days=day))[0].close()
    kept = [copy.path.name for copy in backup.copies(tmp_path / "jobs.db")]
    assert kept == ["jobs.db.v1-20261125-175000", "jobs.db.v1-20261126-175000"]


async def test_whoever_waits_no_more_gives_up_the_copy_and_the_database_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop in the middle of the copy of a large database."""
    path = tmp_path / "jobs.db"
    lay(path, 1)
    db = sqlite3.connect(path)
    db.executescript("CREATE TABLE large (x); INSERT INTO large VALUES (zeroblob(30000000));")
    db.close()
    monkeypatch.setattr(backup, "_STEP", 1)  # some thousand looks
    opening = asyncio.create_task(Store.open(path))
    async with asyncio.timeout(10):
        while not (tmp_path / "jobs.db.backup").exists():  # noqa: ASYNC110 - a thread makes it, and a file has no bell
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait({opening})
        while threads := [each for each in threading.enumerate() if each.name.startswith("store")]:
            await asyncio.to_thread(threads[0].join, 1)
    assert opening.cancelled()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["jobs.db"]
    assert dump(path)[-1] == "(1,)"


async def test_without_room_for_a_copy_nothing_is_migrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of the copy cannot be written: the database is as it was, and there is no half of a copy."""
    path = tmp_path / "jobs.db"
    lay(path, 1)
    before = dump(path)

    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(backup, "_sync", full)
        with pytest.raises(StateError, match="no room on the disk") as caught:
            await Store.open(path)
        assert caught.value.code_on_wire == "disk_full"
    assert dump(path) == before
    assert [
        file.name for file in tmp_path.iterdir() if "-wal" not in file.name and "-shm" not in file.name
    ] == ["jobs.db"]


async def test_who_goes_back_to_the_older_program_is_shown_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newer one refuses nothing, the older one names the next step; with the copy in its place it works."""
    path = tmp_path / "jobs.db"
    lay(path, 1)
    await (await Store.open(path)).close()
    monkeypatch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
    [copy] = backup.copies(path)
    with pytest.raises(StateError, match="newer") as caught:
        await Store.open(path)
    assert str(copy.path) in caught.value.hint
    copy.path.replace(path)
    older, notice = schema.open_database(path, NOW)
    assert notice is None
    assert older.execute("SELECT count(*) FROM jobs WHERE stage = ?", (Stage.WAITING,)).fetchone() == (1,)
    older.close()
