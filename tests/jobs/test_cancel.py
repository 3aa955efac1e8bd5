"""Cancel: at once while it waits, targeted and honest when it runs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from comfytunnel.errors import NotFoundError
from comfytunnel.jobs.model import Stage, Status
from tests.jobs.bench import DEADLINE, Bench, picture
from tests.jobs.test_road import assert_whole


async def test_a_waiting_job_is_canceled_at_once_and_never_runs(bench: Bench) -> None:
    bench.link_down()
    job = await bench.submit(picture())
    assert (await bench.scheduler.cancel(job.id)).status is Status.CANCELED
    assert (await bench.scheduler.cancel(job.id)).status is Status.CANCELED
    other = await bench.submit(picture(1))
    bench.link_up()
    await assert_whole(bench, await bench.ends(other))
    assert job.id not in bench.far.executions


@pytest.mark.parametrize("lost", [0, 2])
async def test_a_running_job_is_interrupted_until_it_has_ended(bench: Bench, lost: int) -> None:
    bench.far.faults.lose_interrupts = lost
    job = await bench.submit(picture(seconds=20.0, steps=200))
    await bench.reaches(job, Status.RUNNING)
    assert (await bench.scheduler.cancel(job.id)).status is Status.CANCELING
    done = await bench.ends(job)
    assert (done.status, done.error) == (Status.CANCELED, None)


async def test_a_job_behind_another_on_the_server_is_taken_out_without_hurting_it(bench: Bench) -> None:
    running, behind = [await bench.submit(picture(n, seconds=1.0)) for n in range(2)]
    await bench.reaches(behind, Stage.ON_SERVER)
    await bench.scheduler.cancel(behind.id)
    assert (await bench.ends(behind)).status is Status.CANCELED
    await assert_whole(bench, await bench.ends(running))
    assert behind.id not in bench.far.executions


async def test_a_cancel_that_comes_too_late_says_so(bench: Bench) -> None:
    """The link is down, the job ends meanwhile: it succeeded, whatever was asked for."""
    job = await bench.submit(picture(seconds=0.3))
    await bench.reaches(job, Status.RUNNING)
    bench.link_down()
    assert (await bench.scheduler.cancel(job.id)).status is Status.CANCELING
    async with asyncio.timeout(DEADLINE):
        await bench.far.until(lambda: job.id in bench.far.engine.history)
    bench.link_up()
    done = await bench.ends(job)
    assert done.status is Status.SUCCEEDED
    assert done.note == "It finished before the cancel took effect."


async def test_a_cancel_during_a_post_in_doubt_ends_as_canceled(bench: Bench) -> None:
    bench.far.faults.drop_prompt_request = 1
    job = await bench.submit(picture())
    await bench.reaches(job, Stage.SUBMITTING)
    await bench.scheduler.cancel(job.id)
    done = await bench.ends(job)
    assert (done.status, done.executions) == (Status.CANCELED, 0)
    assert job.id not in bench.far.executions


async def test_a_job_whose_outputs_cannot_come_home_can_be_canceled(bench: Bench) -> None:
    (bench.folder / "pictures").write_text("a file where the folder should be")
    job = await bench.submit(picture())
    await bench.reaches(job, Stage.FETCHING)
    done = await bench.scheduler.cancel(job.id)
    assert (done.status, done.stage) == (Status.CANCELED, Stage.ENDED)
    assert done.note is not None


async def test_a_job_on_a_tunnel_that_was_removed_can_be_canceled(bench: Bench) -> None:
    job = await bench.submit(picture(seconds=20.0, steps=200))
    await bench.reaches(job, Status.RUNNING)
    await bench.scheduler.remove_place("default")
    done = await bench.scheduler.cancel(job.id)
    assert done.status is Status.CANCELED
    assert "could not be told" in (done.note or "")


async def test_cancel_of_nothing_is_not_found(bench: Bench) -> None:
    with pytest.raises(NotFoundError):
        await bench.scheduler.cancel("no-such-job")


async def test_a_cancel_survives_a_kill(bench: Bench) -> None:
    job = await bench.submit(picture(seconds=20.0, steps=200))
    await bench.reaches(job, Status.RUNNING)
    gate = bench.gate.value
    bench.link_down()
    await bench.scheduler.cancel(job.id)
    await bench.kill()
    await bench.start()
    bench.gate.set(replace(gate))
    assert (await bench.ends(job)).status is Status.CANCELED
