"""kill -9 at every stage, then a new start on the same files: one end, the right bytes, no second execution."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from comfytunnel.jobs.landing import Landing
from comfytunnel.jobs.model import Output, Stage, Status
from comfytunnel.jobs.store import Store
from tests.jobs.bench import DEADLINE, Bench, picture
from tests.jobs.test_road import assert_whole


async def test_a_waiting_job_survives_a_kill(bench: Bench) -> None:
    bench.link_down()
    job = await bench.submit(picture())
    await bench.kill()
    await bench.start()
    bench.link_up()
    await assert_whole(bench, await bench.ends(job))


@pytest.mark.parametrize("delivered", [True, False])
async def test_a_kill_during_the_post_is_resolved_by_looking(bench: Bench, *, delivered: bool) -> None:
    """The server answers late, so the kill comes when `submitting` is on disk; whether the POST got through, ComfyUI knows."""
    bench.far.faults.slow_answers = 0.5 if delivered else 0.0
    bench.far.faults.drop_prompt_request = 0 if delivered else 1
    job = await bench.submit(picture())
    await bench.reaches(job, Stage.SUBMITTING)
    if delivered:
        async with asyncio.timeout(DEADLINE):
            await bench.far.until(lambda: bench.far.prompts_received > 0)
    await bench.kill()
    bench.far.faults.slow_answers = 0.0
    await bench.start()
    await assert_whole(bench, await bench.ends(job))


async def test_a_job_in_doubt_is_not_overtaken_after_a_new_start(bench: Bench) -> None:
    bench.far.faults.drop_prompt_request = 1
    jobs = [await bench.submit(picture(n, prefix=f"p{n}")) for n in range(3)]
    await bench.reaches(jobs[0], Stage.SUBMITTING)
    await bench.kill()
    bench.far.faults.drop_prompt_request = 0
    await bench.start()
    for done in [await bench.ends(job) for job in jobs]:
        await assert_whole(bench, done)
    assert bench.far.executions == [job.id for job in jobs]


@pytest.mark.parametrize("while_away", ["runs on", "finishes"])
async def test_a_kill_while_it_runs_is_taken_up_again(bench: Bench, while_away: str) -> None:
    job = await bench.submit(picture(seconds=0.4))
    await bench.reaches(job, Status.RUNNING)
    await bench.kill()
    if while_away == "finishes":
        async with asyncio.timeout(DEADLINE):
            await bench.far.until(lambda: job.id in bench.far.engine.history)
    await bench.start()
    await assert_whole(bench, await bench.ends(job))


@pytest.mark.parametrize("point", ["open", "write", "settle", "after settle"])
async def test_a_kill_while_fetching_leaves_one_whole_file(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """The fetch stops for ever at one of its steps, as a killed process does."""
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()
    real = Landing.settle if point == "after settle" else getattr(Landing, point)

    def stop(self: Landing, *given: Any) -> None:
        if point != "open":
            real(self, *given)
        self.drop = lambda: None  # type: ignore[method-assign]  # a killed process cleans nothing up
        self.close()
        loop.call_soon_threadsafe(reached.set)
        raise OSError(5, "killed here")

    with monkeypatch.context() as patch:
        patch.setattr(Landing, point.removeprefix("after "), stop)
        job = await bench.submit(picture())
        async with asyncio.timeout(DEADLINE):
            await reached.wait()
        await bench.kill()
    await bench.start()
    done = await bench.ends(job)
    await assert_whole(bench, done)
    assert len(await bench.files()) == 1


async def test_a_recorded_output_is_not_fetched_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the record of the only file and the end of the job."""
    stopped = asyncio.Event()
    real = Store.add_output

    async def add_and_stop(self: Store, output: Output) -> None:
        await real(self, output)
        stopped.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(Store, "add_output", add_and_stop)
        job = await bench.submit(picture())
        async with asyncio.timeout(DEADLINE):
            await stopped.wait()
        await bench.kill()
    bench.far.faults.missing_output = True
    await bench.start()
    await assert_whole(bench, await bench.ends(job))


@pytest.mark.parametrize("moment", [lambda n: n % 2 == 0, lambda n: n % 3 == 0, lambda n: True])
async def test_kills_at_every_change_end_in_one_picture_each(
    bench: Bench, moment: Callable[[int], bool]
) -> None:
    """The process is killed again and again, at each (second, third) change that gets to disk."""
    jobs = [await bench.submit(picture(n, seconds=0.1, prefix=f"p{n}")) for n in range(3)]
    seen = bench.store.revision.value
    for number in range(25):
        async with asyncio.timeout(DEADLINE):
            seen = await bench.store.revision.until(lambda now: now > seen)  # noqa: B023 (awaited before it changes)
        if moment(number):
            await bench.kill()
            await bench.start()
            seen = bench.store.revision.value
        if all([(await bench.job(job)).ended for job in jobs]):
            break
    for done in [await bench.ends(job) for job in jobs]:
        await assert_whole(bench, done)
    assert len(await bench.files()) == 3


async def test_a_link_that_changes_restarts_the_settle_time(bench: Bench) -> None:
    """A POST in doubt is sent again only after two looks through one and the same link."""
    await bench.kill()
    await bench.start(settle=1.0)
    bench.far.faults.drop_prompt_request = 1
    job = await bench.submit(picture())
    found = await bench.reaches(job, Stage.SUBMITTING)
    clock = asyncio.get_running_loop().time
    for _ in range(3):
        await asyncio.sleep(0.5)  # less than the settle time, on purpose: time itself is what is tested
        bench.link_down()
        bench.link_up()
        last = clock()
        found = await bench.job(job)
        assert (found.stage, found.attempts) == (Stage.SUBMITTING, 1)
    async for _ in bench.changes():
        if (await bench.job(job)).attempts > 1:
            break
    assert clock() - last >= 1.0
    await assert_whole(bench, await bench.ends(job))
