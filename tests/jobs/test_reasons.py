"""What a job waits for, and since when: the latest trouble, not the first one, and not since before the job was there."""

from __future__ import annotations

import asyncio

import pytest

from comfytunnel.feed import Feed
from comfytunnel.jobs.model import Job, Stage, Status, Waits
from comfytunnel.jobs.scheduler import Gate, Place
from tests.jobs.bench import DEADLINE, Bench, picture
from tests.jobs.test_road import assert_whole


async def says(bench: Bench, job: Job, message: str) -> Waits:
    """Wait until the job says this."""
    async with asyncio.timeout(DEADLINE):
        async for _ in bench.scheduler.live.changes():
            waits = bench.scheduler.waits_for(await bench.job(job))
            if waits is not None and waits.message == message:
                return waits
    raise AssertionError


@pytest.mark.parametrize("stage", [Stage.WAITING, Stage.ON_SERVER])
async def test_the_latest_trouble_is_told_since_it_began(bench: Bench, stage: Stage) -> None:
    """Of a job that waits here, and of one that ComfyUI has while the link is away."""
    running = await bench.submit(picture(seconds=3.0))
    await bench.reaches(running, Status.RUNNING)
    if stage is Stage.WAITING:
        await bench.reaches(await bench.submit(picture(1)), Stage.ON_SERVER)
    job = await bench.submit(picture(2))
    await bench.reaches(job, stage)
    since = []
    for code, message in (
        ("connection_lost", "The connection was lost."),
        ("auth_denied", "Our key was refused."),
        ("auth_denied", "Our key was refused twice."),
        ("no_route", "There is no route."),
    ):
        bench.gate.set(Gate(None, False, Waits(code, message)))
        waits = await says(bench, job, message)
        assert waits.code == code
        assert waits.since is not None
        since.append(waits.since)
    assert job.created_at < since[0] < since[1] == since[2] < since[3]
    bench.link_up()
    await bench.scheduler.cancel(running.id)
    done = await bench.ends(job)
    await assert_whole(bench, done)


async def test_the_jobs_before_it_count_since_the_link_is_there(bench: Bench) -> None:
    bench.link_down()
    jobs = [await bench.submit(picture(n, seconds=1.0)) for n in range(4)]
    down = bench.scheduler.waits_for(jobs[3])
    assert down is not None
    assert down.since is not None
    bench.link_up()
    await bench.reaches(jobs[1], Stage.ON_SERVER)
    waits = bench.scheduler.waits_for(await bench.job(jobs[3]))
    assert waits is not None
    assert (waits.code, waits.message) == ("queue", "3 jobs before it.")
    assert waits.since is not None
    assert waits.since > down.since


async def test_trouble_of_one_place_is_no_reason_while_another_serves(bench: Bench) -> None:
    """A job for any tunnel waits for nothing but the jobs before it; one for the closed tunnel says so."""
    closed = Place("closed", bench.client, Feed(Gate(None, False, Waits("no_route", "There is no route."))))
    bench.scheduler.add_place(closed)
    await bench.reaches(await bench.submit(picture(seconds=3.0)), Status.RUNNING)
    await bench.reaches(await bench.submit(picture(1)), Stage.ON_SERVER)
    free, bound = await bench.submit(picture(2)), await bench.submit(picture(3), tunnel="closed")
    reasons = [bench.scheduler.waits_for(job) for job in (free, bound)]
    assert [waits.code if waits else None for waits in reasons] == ["queue", "no_route"]
