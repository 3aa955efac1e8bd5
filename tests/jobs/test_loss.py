"""What a loss of ComfyUI's memory leads to when it can be proven, and when it cannot; nothing is run twice on a guess."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from comfytunnel.comfy.client import Client
from comfytunnel.demo.faults import ALWAYS
from comfytunnel.jobs.model import Job, Mode, Stage, Status
from tests.jobs.bench import DEADLINE, Bench, picture
from tests.jobs.test_inputs import inverted, keep, png, submit
from tests.jobs.test_road import assert_whole


@pytest.mark.parametrize("running", [True, False])
async def test_a_loss_that_cannot_be_proven_fails_the_job_and_retry_is_one_call(
    bench: Bench, *, running: bool
) -> None:
    """The server takes no uploads, so no marker lies there that its end could wipe."""
    bench.far.faults.reject_upload_500 = ALWAYS
    jobs = [await bench.submit(picture(n, seconds=5.0)) for n in range(2)]
    job = jobs[0 if running else 1]
    await bench.reaches(jobs[0], Status.RUNNING)
    await bench.reaches(jobs[1], Stage.ON_SERVER)
    assert (await bench.job(job)).server is None
    await bench.restart_far()
    done = await bench.ends(job)
    assert done.error is not None
    assert (done.status, done.error.code, done.executions) == (Status.FAILED, "lost_unproven", 1)
    assert bench.far.executions.count(job.id) <= 1
    again = await bench.scheduler.retry(job.id)
    await bench.reaches(again, Status.RUNNING)
    await bench.scheduler.cancel(again.id)
    await bench.ends(again)


async def test_an_unproven_doubt_about_a_post_is_resolved_by_looking(bench: Bench) -> None:
    """Without a marker, too, a POST that left nothing behind is simply sent again."""
    bench.far.faults.reject_upload_500 = ALWAYS
    bench.far.faults.drop_prompt_request = 1
    done = await bench.ends(await bench.submit(picture()))
    assert done.attempts == 2
    await assert_whole(bench, done)


async def test_a_job_that_is_being_canceled_when_it_is_lost_is_canceled_and_not_run_again(
    bench: Bench,
) -> None:
    bench.far.faults.lose_interrupts = ALWAYS
    job = await bench.submit(picture(seconds=5.0))
    await bench.reaches(job, Status.RUNNING)
    await bench.scheduler.cancel(job.id)
    await bench.restart_far()
    done = await bench.ends(job)
    assert (done.status, done.executions, done.losses) == (Status.CANCELED, 1, 0)
    assert bench.far.executions == [job.id]


async def test_a_job_that_was_removed_while_we_were_away_is_not_run_again(bench: Bench) -> None:
    running, removed = [await bench.submit(picture(n, seconds=0.8)) for n in range(2)]
    await bench.reaches(removed, Stage.ON_SERVER)
    await bench.kill()
    await bench.start(running=False)
    await bench.client.delete_pending(removed.id)
    await bench.kill()
    await bench.start()
    done = await bench.ends(removed)
    assert done.error is not None
    assert (done.status, done.error.code) == (Status.CANCELED, "removed_on_server")
    await assert_whole(bench, await bench.ends(running))
    assert bench.far.executions == [running.id]


async def test_a_pause_in_the_middle_of_an_upload_keeps_the_job_here(bench: Bench) -> None:
    """Nothing more is given to ComfyUI, and the upload may have taken minutes."""
    await keep(bench, png(1))
    bench.far.faults.slow_upload = 0.5
    job = await submit(bench, inverted("photo.png"))
    async with asyncio.timeout(DEADLINE):
        await bench.scheduler.live.until(lambda _: _waits(bench, job) == "inputs")
    await bench.scheduler.set_mode(Mode.PAUSED)
    async with asyncio.timeout(DEADLINE):
        await bench.scheduler.live.until(lambda _: not bench.scheduler._stations["default"].runs)
    assert _waits(bench, job) == "paused"
    assert (await bench.job(job)).stage is Stage.WAITING
    assert bench.far.prompts_received == 0
    await bench.scheduler.set_mode(Mode.OPEN)
    assert (await bench.ends(job)).status is Status.SUCCEEDED


def _waits(bench: Bench, job: Job) -> str | None:
    waits = bench.scheduler.waits_for(job)
    return waits.code if waits else None


async def test_a_restart_between_the_marker_and_the_look_at_it_leaves_no_job_without_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Client.upload_temp
    uploads: list[str] = []

    async def upload_and_restart(self: Client, name: str, data: bytes) -> str:
        given = await real(self, name, data)
        if not uploads:
            (bench.far.base / "temp" / given).unlink()  # what a starting ComfyUI does
        uploads.append(given)
        return given

    monkeypatch.setattr(Client, "upload_temp", upload_and_restart)
    done = await bench.ends(await bench.submit(picture()))
    assert (done.server, len(uploads)) == (uploads[1], 2)


async def test_an_output_that_is_gone_takes_the_rest_of_a_killed_download_with_it(bench: Bench) -> None:
    """What a killed process had begun to fetch is of no use when the job has to run again, or ends."""
    bench.far.faults.stall_view = 1
    job = await bench.reaches(await bench.submit(picture()), Stage.FETCHING)
    await bench.kill()
    assert job.folder is not None
    Path(job.folder).mkdir(parents=True, exist_ok=True)
    for name in (f".comfytunnel-{job.id}-0.part", f".comfytunnel-{job.id}.json.part"):
        Path(job.folder, name).write_bytes(b"as kill -9 leaves it")
    bench.far.faults.missing_output = True
    await bench.start()
    done = await bench.ends(job)
    assert done.error is not None
    assert done.error.code == "output_missing"
    assert await bench.files() == []
