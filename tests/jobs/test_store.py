"""The store: what it returned is on disk, moves are compared and set, a broken or foreign file loses nothing."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from comfytunnel.errors import StateError, UsageError
from comfytunnel.jobs import schema
from comfytunnel.jobs.model import Job, NewJob, Output, Stage, Status
from comfytunnel.jobs.store import Store
from comfytunnel.jobs.transitions import IllegalMoveError

NOW = datetime(2026, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
NEW = NewJob(workflow={"1": {"class_type": "EmptyImage", "inputs": {"name": "ünï😀"}}}, label="x", priority=3)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "state" / "jobs.db")
    yield opened
    await opened.close()


def an_output(job: Job, ord_: int = 0, asset: str = "a") -> Output:
    return Output(
        asset_id=asset,
        job_id=job.id,
        node_id="9",
        name="a.png",
        kind="image",
        content_type="image/png",
        size=3,
        blake3="b",
        sha256="s",
        path="/x/a.png",
        ord=ord_,
    )


async def test_an_accepted_job_is_there_after_a_new_start(tmp_path: Path) -> None:
    first = await Store.open(tmp_path / "jobs.db")
    job = await first.add(NEW, now=NOW)
    await first.close()
    second = await Store.open(tmp_path / "jobs.db")
    assert await second.get(job.id) == job
    assert await second.workflow(job.id) == NEW.workflow
    assert second.revision.value == job.revision
    assert second.notice is None
    await second.close()


async def test_files_are_for_the_owner_only(store: Store, tmp_path: Path) -> None:
    await store.add(NEW, now=NOW)
    for path in (tmp_path / "state").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


async def test_every_change_takes_the_next_revision_and_pokes(store: Store) -> None:
    jobs = [await store.add(NEW, now=NOW) for _ in range(3)]
    assert [job.revision for job in jobs] == [1, 2, 3]
    moved = await store.move(jobs[0].id, expect=Stage.WAITING, stage=Stage.SUBMITTING)
    assert moved is not None
    assert moved.revision == store.revision.value == 4
    assert [job.id for job in await store.since(1)] == [jobs[1].id, jobs[2].id, jobs[0].id]
    assert [job.id for job in await store.since(1, limit=1)] == [jobs[1].id]
    assert await store.since(4) == []


async def test_a_move_from_another_stage_than_expected_changes_nothing(store: Store) -> None:
    job = await store.add(NEW, now=NOW)
    assert await store.move(job.id, expect={Stage.ON_SERVER, Stage.FETCHING}, note="x") is None
    assert await store.move("nobody", expect=Stage.WAITING, note="x") is None
    assert await store.get(job.id) == job
    assert store.revision.value == job.revision


async def test_of_two_that_move_at_once_one_wins(store: Store) -> None:
    job = await store.add(NEW, now=NOW)
    moves = [store.move(job.id, expect=Stage.WAITING, stage=Stage.SUBMITTING) for _ in range(10)]
    assert len([won for won in await asyncio.gather(*moves) if won]) == 1


async def test_an_illegal_move_is_refused_and_rolled_back(store: Store) -> None:
    job = await store.add(NEW, now=NOW)
    with pytest.raises(IllegalMoveError):
        await store.move(job.id, expect=Stage.WAITING, stage=Stage.FETCHING)
    assert await store.get(job.id) == job
    assert (await store.add(NEW, now=NOW)).revision == 2


async def test_a_caller_that_is_cancelled_leaves_a_whole_change_that_is_told(store: Store) -> None:
    adding = asyncio.create_task(store.add(NEW, now=NOW))
    await asyncio.sleep(0)
    store._thread.submit(lambda: None).result()  # now it is on disk, and the loop has not heard of it yet
    adding.cancel()
    async with asyncio.timeout(5):
        await store.revision.until(lambda revision: revision == 1)
    assert len(await store.since(0)) == 1


async def that_has_run(store: Store) -> Job:
    """A job whose outputs come home."""
    job: Job | None = await store.add(NEW, now=NOW)
    assert job is not None
    for stage in (Stage.SUBMITTING, Stage.ON_SERVER, Stage.FETCHING):
        job = await store.move(job.id, expect=job.stage, stage=stage, status=status_in(stage))
        assert job is not None
    return job


def status_in(stage: Stage) -> Status:
    return Status.RUNNING if stage is Stage.FETCHING else Status.QUEUED


async def test_an_output_of_a_job_that_waits_again_is_not_taken(store: Store) -> None:
    """It was on its way when the job was moved elsewhere."""
    job = await that_has_run(store)
    await store.move(job.id, expect=Stage.FETCHING, stage=Stage.WAITING, status=Status.QUEUED)
    await store.add_output(an_output(job))
    assert await store.outputs(job.id) == []


async def test_outputs_bump_the_job_and_are_found_by_asset(store: Store) -> None:
    job = await that_has_run(store)
    await store.add_output(an_output(job, 1, "b"))
    await store.add_output(an_output(job, 0, "a"))
    assert [output.asset_id for output in await store.outputs(job.id)] == ["a", "b"]
    assert (await store.asset("b")) == an_output(job, 1, "b")
    assert await store.asset("c") is None
    after = await store.get(job.id)
    assert after is not None
    assert after.revision == job.revision + 2


async def test_outputs_of_many_jobs_come_at_once_each_in_its_order(store: Store) -> None:
    jobs = [await that_has_run(store) for _ in range(3)]
    for job in jobs[:2]:
        for ord_ in (2, 0, 1):
            await store.add_output(an_output(job, ord_, f"{job.id}{ord_}"))
    found = await store.outputs_of([jobs[1].id, jobs[2].id, "nobody"])
    assert found == {jobs[1].id: await store.outputs(jobs[1].id)}
    assert [output.ord for output in found[jobs[1].id]] == [0, 1, 2]


async def test_the_list_is_newest_first_in_pages(store: Store) -> None:
    jobs = [await store.add(NEW, now=NOW) for _ in range(5)]
    await store.move(
        jobs[2].id, expect=Stage.WAITING, stage=Stage.ENDED, status=Status.CANCELED, completed_at=NOW
    )
    page, cursor = await store.listing(limit=3)
    assert [job.seq for job in page] == [5, 4, 3]
    page, cursor = await store.listing(limit=3, cursor=cursor)
    assert ([job.seq for job in page], cursor) == ([2, 1], None)
    page, cursor = await store.listing(status=Status.CANCELED)
    assert ([job.seq for job in page], cursor) == ([3], None)
    counts = await store.counts()
    assert (counts[Status.QUEUED], counts[Status.CANCELED], counts[Status.FAILED]) == (4, 1, 0)
    for nonsense in ("x", "-1", "١", "9" * 40):
        with pytest.raises(UsageError):
            await store.listing(cursor=nonsense)


@pytest.mark.parametrize("damage", ["garbage", "foreign", "torn"])
async def test_a_broken_database_is_moved_aside_and_said(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "jobs.db"
    if damage == "garbage":
        path.write_bytes(b"this is not a database at all, but it is long enough " * 100)
    else:
        opened = await Store.open(path)
        for _ in range(50):
            await opened.add(NEW, now=NOW)
        await opened.close()
    if damage == "foreign":
        with sqlite3.connect(path) as other:
            other.execute("DROP TABLE counter")
        other.close()
    if damage == "torn":
        data = bytearray(path.read_bytes())
        data[4096 * 2 : 4096 * 6] = b"\xff" * 4096 * 4
        path.write_bytes(data)
    before = path.read_bytes()
    store = await Store.open(path)
    assert store.notice is not None
    [kept] = [
        other
        for other in tmp_path.iterdir()
        if other.name.startswith("jobs.db.broken-") and other.name[-4] != "-"
    ]
    assert str(kept) in store.notice
    if damage != "foreign":
        assert kept.read_bytes() == before
    assert (await store.add(NEW, now=NOW)).revision == 1
    await store.close()


async def test_a_database_of_a_newer_version_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version=99")
    newer.close()
    with pytest.raises(StateError, match="newer"):
        await Store.open(path)
    assert [file.name for file in tmp_path.iterdir()] == ["jobs.db"]


async def test_a_folder_that_cannot_be_made_is_a_state_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StateError) as caught:
        await Store.open(tmp_path / "file" / "jobs.db")
    assert caught.value.hint


async def test_after_close_it_says_so(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "jobs.db")
    await store.close()
    with pytest.raises(StateError):
        await store.get("x")


async def test_a_mistake_of_ours_in_a_migration_leaves_the_database_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "jobs.db"
    opened = await Store.open(path)
    job = await opened.add(NEW, now=NOW)
    await opened.close()
    with monkeypatch.context() as newer:
        newer.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "ALTER TABLE job ADD COLUMN nonsense;"))
        with pytest.raises(StateError):
            await Store.open(path)
    opened = await Store.open(path)
    assert opened.notice is None
    assert await opened.get(job.id) == job
    await opened.close()


async def test_a_database_of_the_first_version_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its jobs and files get what later versions search for."""
    path = tmp_path / "jobs.db"
    job = Job(
        id="j",
        seq=1,
        revision=7,
        status=Status.SUCCEEDED,
        stage=Stage.ENDED,
        created_at=NOW,
        completed_at=NOW,
    )
    waiting = msgspec.structs.replace(
        job, id="w", seq=2, revision=8, status=Status.QUEUED, stage=Stage.WAITING, completed_at=None
    )
    with monkeypatch.context() as older:
        older.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        db, _ = schema.open_database(path, NOW)
    for each in (job, waiting):
        db.execute(
            "INSERT INTO jobs (seq, id, revision, status, stage, body) VALUES (?, ?, ?, ?, ?, ?)",
            (each.seq, each.id, each.revision, each.status, each.stage, msgspec.json.encode(each)),
        )
        db.execute("INSERT INTO workflows VALUES (?, '{}')", (each.id,))
    output = an_output(job)
    db.execute(
        "INSERT INTO outputs (asset_id, job_id, ord, body) VALUES ('a', 'j', 0, ?)",
        (msgspec.json.encode(output),),
    )
    db.close()
    store = await Store.open(path)
    [old], size = await store.oldest_outputs(10)
    assert (old.job_id, old.output, old.size, size) == ("j", output, output.size, output.size)
    assert old.ended_at == NOW.replace(microsecond=0)
    assert await store.others_with(msgspec.structs.replace(output, asset_id="b"))
    assert [old.job_id for old in (await store.oldest_jobs(10, without_outputs=False))[0]] == ["j"]
    assert [job.id for job in await store.waiting()] == ["w"]
    await store.close()
