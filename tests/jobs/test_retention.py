"""What is forgotten: the oldest that has ended, and only what the limits ask for; a file of the user's never."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from comfytunnel.errors import UsageError
from comfytunnel.jobs.model import Job, NewJob, Output, Stage, Status
from comfytunnel.jobs.place import Keep
from comfytunnel.jobs.retention import tidy
from comfytunnel.jobs.store import Store
from tests.jobs.bench import DEADLINE, Bench, picture

NOW = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
DAY = 86_400.0


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "jobs.db")
    yield opened
    await opened.close()


async def an_old_job(store: Store, days: float, *paths: Path, size: int = 10) -> Job:
    """A job that ended so many days ago with these files."""
    ended = NOW - timedelta(days=days)
    job = await store.add(NewJob(workflow={"1": {"class_type": "A", "pad": "x" * size}}), now=ended)
    for stage in (Stage.SUBMITTING, Stage.ON_SERVER, Stage.FETCHING):
        status = Status.RUNNING if stage is Stage.FETCHING else Status.QUEUED
        before = await store.get(job.id)
        assert before is not None
        await store.move(job.id, expect=before.stage, stage=stage, status=status)
    for ord_, path in enumerate(paths):
        if not path.exists():
            path.write_bytes(f"picture {path.name}".encode())
        data = path.read_bytes()
        output = Output(
            asset_id=f"{job.id}-{ord_}",
            job_id=job.id,
            node_id="9",
            name=path.name,
            kind="image",
            content_type="image/png",
            size=len(data),
            blake3="b",
            sha256=sha256(data).hexdigest(),
            path=str(path),
            ord=ord_,
        )
        await store.add_output(output)
    done = await store.move(
        job.id, expect=Stage.FETCHING, stage=Stage.ENDED, status=Status.SUCCEEDED, completed_at=ended
    )
    assert done is not None
    return done


async def left(store: Store) -> set[str]:
    return {job.id for job in await store.since(0)}


async def test_without_limits_nothing_is_forgotten(store: Store, tmp_path: Path) -> None:
    job = await an_old_job(store, 5000, tmp_path / "a.png")
    await tidy(store, Keep(), NOW)
    assert await left(store) == {job.id}
    assert (tmp_path / "a.png").exists()


async def test_records_go_by_age_and_files_stay(store: Store, tmp_path: Path) -> None:
    old, young = await an_old_job(store, 8, tmp_path / "a.png"), await an_old_job(store, 6)
    waiting = await store.add(NewJob(workflow={}), now=NOW - timedelta(days=90))
    await tidy(store, Keep(jobs_age=7 * DAY), NOW)
    assert await left(store) == {young.id, waiting.id}
    assert (tmp_path / "a.png").exists()
    assert await store.workflow(old.id) is None
    assert await store.asset(f"{old.id}-0") is None


async def test_records_go_by_size_the_oldest_first(store: Store) -> None:
    jobs = [await an_old_job(store, 10 - n, size=100_000) for n in range(5)]
    await tidy(store, Keep(jobs_size=250_000), NOW)
    assert await left(store) == {jobs[3].id, jobs[4].id}


async def test_files_go_by_age_and_the_record_stays(store: Store, tmp_path: Path) -> None:
    old = await an_old_job(store, 8, tmp_path / "a.png", tmp_path / "b.png")
    await an_old_job(store, 6, tmp_path / "c.png")
    await tidy(store, Keep(outputs_age=7 * DAY), NOW)
    assert {path.name for path in tmp_path.glob("*.png")} == {"c.png"}
    assert old.id in await left(store)
    assert await store.outputs(old.id) == []


async def test_files_go_by_size_the_oldest_first(store: Store, tmp_path: Path) -> None:
    for n in range(4):
        (tmp_path / f"{n}.png").write_bytes(bytes([n]) * 1000)
        await an_old_job(store, 10 - n, tmp_path / f"{n}.png")
    await tidy(store, Keep(outputs_size=2500), NOW)
    assert {path.name for path in tmp_path.glob("*.png")} == {"2.png", "3.png"}


@pytest.mark.parametrize("change", ["edited", "replaced by a link", "gone"])
async def test_a_file_that_is_no_longer_ours_is_left_alone(store: Store, tmp_path: Path, change: str) -> None:
    path = tmp_path / "a.png"
    await an_old_job(store, 8, path)
    target = tmp_path / "target"
    target.write_bytes(path.read_bytes())
    data = path.read_bytes()
    path.unlink()
    if change == "edited":
        path.write_bytes(data[::-1])
    elif change == "replaced by a link":
        path.symlink_to(target)
    await tidy(store, Keep(outputs_age=DAY), NOW)
    assert path.is_symlink() == (change == "replaced by a link")
    assert path.exists() == (change != "gone")
    assert target.exists()


async def test_a_file_that_a_younger_job_shares_stays(store: Store, tmp_path: Path) -> None:
    """ComfyUI answered the younger one from its cache, and the file was there."""
    await an_old_job(store, 8, tmp_path / "a.png")
    young = await an_old_job(store, 1, tmp_path / "a.png")
    await tidy(store, Keep(outputs_age=7 * DAY), NOW)
    assert (tmp_path / "a.png").exists()
    assert len(await store.outputs(young.id)) == 1
    await tidy(store, Keep(outputs_age=7 * DAY), NOW + timedelta(days=7))
    assert not (tmp_path / "a.png").exists()


async def test_a_record_is_kept_as_long_as_files_with_a_limit_hang_on_it(
    store: Store, tmp_path: Path
) -> None:
    job = await an_old_job(store, 8, tmp_path / "a.png")
    keep = Keep(jobs_age=DAY, outputs_age=30 * DAY)
    await tidy(store, keep, NOW)
    assert await left(store) == {job.id}
    await tidy(store, keep, NOW + timedelta(days=30))
    assert await left(store) == set()
    assert not (tmp_path / "a.png").exists()


async def test_the_running_scheduler_forgets_when_it_is_told_to(bench: Bench) -> None:
    done = await bench.ends(await bench.submit(picture()))
    assert len(await bench.files()) == 1
    await bench.kill()
    await bench.start(keep=Keep(jobs_age=0.0, outputs_age=0.0))
    async with asyncio.timeout(DEADLINE):
        while await bench.store.get(done.id) is not None:  # noqa: ASYNC110 (what is forgotten tells nobody)
            await asyncio.sleep(0.01)
    assert await bench.files() == []


async def test_a_claim_is_forgotten_after_a_day(store: Store) -> None:
    job = await store.add(NewJob(workflow={}), now=NOW, claim="k")
    with pytest.raises(UsageError) as refused:
        await store.claimed("k", NOW + timedelta(hours=23))
    assert refused.value.details == {"job_id": job.id}
    await store.claimed("k", NOW + timedelta(hours=24))
    await store.add(NewJob(workflow={}), now=NOW + timedelta(hours=24), claim="k")
