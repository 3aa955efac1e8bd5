"""A submission that comes later than the settle time is seen, said and ended; and no decision about a job overrules a cancel that it did not know of."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from comfytunnel.comfy.client import Client
from comfytunnel.feed import Feed
from comfytunnel.jobs import doubles
from comfytunnel.jobs.model import NewJob, Stage, Status
from comfytunnel.jobs.scheduler import Gate, Place
from comfytunnel.jobs.store import Store
from tests.jobs.bench import Bench, picture
from tests.jobs.test_late import Slow


@pytest.mark.parametrize("seconds", [3.0, 0.0])
async def test_a_post_that_comes_after_the_settle_time_is_taken_out_or_said(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """While the job runs, its double waits and is taken out; after its end, the double is interrupted or has run: the job says which."""
    monkeypatch.setattr(doubles, "LOOK", 0.1)
    slow = Slow(bench.far.port, 2.0)
    server = await asyncio.start_server(slow.serve, "127.0.0.1", 0)
    client = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await bench.scheduler.remove_place("default")
    bench.scheduler.apply(replace(bench.settings, settle=0.3))
    bench.scheduler.add_place(Place("default", client, Feed(Gate(1, True))))
    job = await bench.submit(picture(seconds=seconds))
    async for _ in bench.changes():
        job = await bench.job(job)
        if job.note is not None:
            break
    assert job.note is not None
    assert job.note.startswith(doubles.TEXT)
    job = await bench.ends(job)
    assert (job.status, job.executions, job.doubts, bench.far.prompts_received) == (Status.SUCCEEDED, 2, 1, 2)
    if seconds:
        assert "taken out" in (job.note or "")
        assert bench.far.executions == [job.id]
    await bench.scheduler.remove_place("default")
    await client.close()
    server.close()
    await asyncio.wait(slow.tasks)


async def test_what_came_late_is_found_before_the_job_is_sent_again(bench: Bench) -> None:
    """It waits in line once more, for a paused queue say, and meanwhile the POST that was given up arrives."""
    slow = Slow(bench.far.port, 2.0)
    server = await asyncio.start_server(slow.serve, "127.0.0.1", 0)
    client = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    gate = Feed(Gate(1, True))
    await bench.scheduler.remove_place("default")
    bench.scheduler.apply(replace(bench.settings, settle=0.3))
    bench.scheduler.add_place(Place("default", client, gate))
    job = await bench.submit(picture())
    async for _ in bench.changes():
        if (await bench.job(job)).doubts:
            break
    gate.set(Gate(None, False))
    async with asyncio.timeout(10):
        await bench.far.until(lambda: bench.far.prompts_received > 0)
    gate.set(Gate(2, True))
    done = await bench.ends(job)
    assert (done.status, done.doubts, bench.far.executions) == (Status.SUCCEEDED, 1, [job.id])
    await bench.scheduler.remove_place("default")
    await client.close()
    server.close()
    await asyncio.wait(slow.tasks)


async def test_a_move_that_was_decided_before_a_cancel_is_not_made(tmp_path: Path) -> None:
    """ComfyUI had lost the job, and while that was being proven the user canceled it: the job must not wait again, or break."""
    store = await Store.open(tmp_path / "jobs.db")
    now = datetime.now(UTC)
    job = await store.add(NewJob(workflow=picture()), now=now)
    await store.move(job.id, expect=Stage.WAITING, stage=Stage.SUBMITTING)
    await store.move(job.id, expect=Stage.SUBMITTING, cancel_requested=True, status=Status.CANCELING)
    again = await store.move(
        job.id, expect=Stage.SUBMITTING, canceled=False, stage=Stage.WAITING, status=Status.QUEUED
    )
    found = await store.get(job.id)
    assert again is None
    assert found is not None
    assert (found.stage, found.status) == (Stage.SUBMITTING, Status.CANCELING)
    await store.close()
