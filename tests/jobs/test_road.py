"""The whole road of a job, against the stand-in: from accepted to files on disk, whatever breaks on the way."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest
from blake3 import blake3

from comfytunnel.demo.faults import ALWAYS
from comfytunnel.jobs.model import Job, Stage, Status, Wanted
from comfytunnel.jobs.outputs import wanted_from
from tests.jobs.bench import Bench, picture


async def named(bench: Bench, job: Job) -> tuple[Wanted, ...]:
    """What ComfyUI's history says that there is to bring home."""
    entry = await bench.client.history(job.prompt_id)
    assert entry is not None
    return wanted_from(entry)


async def assert_whole(bench: Bench, job: Job, executions: int = 1) -> None:
    """The job has succeeded, and each of its files holds what ComfyUI's own file holds."""
    assert job.status is Status.SUCCEEDED, job
    assert job.executions == executions
    assert bench.far.executions.count(job.id) == executions
    outputs = await bench.store.outputs(job.id)
    for output, wanted in zip(outputs, await named(bench, job), strict=True):
        here = Path(output.path).read_bytes()
        assert here == (bench.far.base / "output" / wanted.subfolder / wanted.filename).read_bytes()
        assert (output.size, output.sha256) == (len(here), hashlib.sha256(here).hexdigest())
        assert output.blake3 == blake3(here).hexdigest()
        assert (output.kind, output.content_type) == ("image", "image/png")
    assert outputs
    left = f".comfytunnel-{job.id}"  # the next job's may be there
    assert not [path for path in await bench.files() if path.name.startswith(left)]


async def test_a_workflow_becomes_a_picture_on_disk(bench: Bench) -> None:
    job = await bench.submit(picture())
    assert (job.status, job.stage) == (Status.QUEUED, Stage.WAITING)
    done = await bench.ends(job)
    await assert_whole(bench, done)
    assert done.started_at is not None
    assert done.completed_at is not None
    assert done.folder is not None
    assert Path(done.folder).parent == bench.folder / "pictures"


async def test_a_job_accepted_while_the_tunnel_is_down_runs_once_it_is_up(bench: Bench) -> None:
    bench.link_down()
    job = await bench.submit(picture())
    waits = bench.scheduler.waits_for(job)
    assert waits is not None
    assert waits.code == "connection_lost"
    bench.link_up()
    await assert_whole(bench, await bench.ends(job))


async def test_a_job_waits_for_a_comfyui_that_is_not_there_yet(bench: Bench) -> None:
    await bench.stop_far()
    job = await bench.submit(picture())
    async with asyncio.timeout(5):
        async for _ in bench.scheduler.live.changes():
            if waits := bench.scheduler.waits_for(job):
                break
    assert waits is not None
    assert waits.code == "no_answer"
    await bench.far.start(port=bench.far.port)
    await assert_whole(bench, await bench.ends(job))


async def test_a_post_whose_answer_is_lost_is_looked_up_and_not_repeated(bench: Bench) -> None:
    bench.far.faults.drop_prompt_response = 1
    done = await bench.ends(await bench.submit(picture()))
    await assert_whole(bench, done)
    assert bench.far.prompts_received == 1


async def test_a_post_that_never_arrived_is_sent_again(bench: Bench) -> None:
    bench.far.faults.drop_prompt_request = 1
    done = await bench.ends(await bench.submit(picture()))
    await assert_whole(bench, done)
    assert done.attempts == 2


async def test_a_500_that_queued_the_job_all_the_same_runs_it_once(bench: Bench) -> None:
    bench.far.faults.reject_prompt_500 = 1
    await assert_whole(bench, await bench.ends(await bench.submit(picture())))


async def test_a_server_that_answers_500_and_takes_nothing_fails_the_job_in_the_end(bench: Bench) -> None:
    bench.far.faults.reject_prompt_500_unqueued = ALWAYS
    done = await bench.ends(await bench.submit(picture()))
    assert (done.status, done.executions) == (Status.FAILED, 0)
    assert done.error is not None
    assert done.error.code == "server_error"


async def test_a_workflow_that_comfyui_refuses_fails_with_its_words(bench: Bench) -> None:
    workflow = picture()
    workflow["1"]["inputs"]["width"] = 0
    done = await bench.ends(await bench.submit(workflow))
    assert done.status is Status.FAILED
    assert done.error is not None
    assert (done.error.code, done.error.node_id, done.error.class_type) == (
        "invalid_workflow",
        "1",
        "EmptyImage",
    )
    assert "smaller than min" in done.error.message


async def test_a_node_that_fails_gives_its_class_message_and_traceback(bench: Bench) -> None:
    workflow = picture()
    workflow["3"] = {"class_type": "DemoFail", "inputs": {"image": ["1", 0], "message": "no \x1b[31mluck"}}
    workflow["9"]["inputs"]["images"] = ["3", 0]
    done = await bench.ends(await bench.submit(workflow))
    assert done.status is Status.FAILED
    assert done.error is not None
    assert (done.error.code, done.error.node_id, done.error.class_type) == (
        "node_execution_error",
        "3",
        "DemoFail",
    )
    assert "luck" in done.error.message
    assert done.error.traceback
    assert "\x1b" not in done.error.message + done.error.traceback


@pytest.mark.parametrize("queued", [0, 1])
async def test_a_restart_of_comfyui_in_the_middle_runs_the_job_again_once(bench: Bench, queued: int) -> None:
    """Both the job that ran and the one that waited behind it are proven lost."""
    jobs = [await bench.submit(picture(n, seconds=1.0)) for n in range(2)]
    await bench.reaches(jobs[0], Status.RUNNING)
    await bench.reaches(jobs[1], Stage.ON_SERVER)
    await bench.restart_far()
    done = [await bench.ends(job) for job in jobs]
    assert [job.status for job in done] == [Status.SUCCEEDED, Status.SUCCEEDED]
    assert (done[queued].executions, done[queued].losses) == (2, 1)
    assert done[queued].note is not None
    assert bench.far.executions.count(jobs[0].id) == 2
    assert bench.far.executions.count(jobs[1].id) == 1


async def test_a_job_that_comfyui_loses_again_and_again_fails(bench: Bench) -> None:
    job = await bench.submit(picture(seconds=5.0))
    for times in range(3):
        found = await bench.reaches(job, Status.RUNNING)
        assert found.executions == times + 1
        await bench.restart_far()
        if times < 2:
            async for _ in bench.changes():
                if (await bench.job(job)).losses > times:
                    break
    done = await bench.ends(job)
    assert done.error is not None
    assert (done.status, done.error.code, done.executions) == (Status.FAILED, "lost_repeatedly", 3)


async def test_a_job_that_somebody_removed_from_the_queue_is_canceled_and_not_run(bench: Bench) -> None:
    running, removed = [await bench.submit(picture(n, seconds=1.0)) for n in range(2)]
    await bench.reaches(removed, Stage.ON_SERVER)
    await bench.client.delete_pending(removed.id)
    done = await bench.ends(removed)
    assert done.error is not None
    assert (done.status, done.error.code) == (Status.CANCELED, "removed_on_server")
    await assert_whole(bench, await bench.ends(running))
    assert removed.id not in bench.far.executions


async def test_jobs_run_in_their_order_with_one_ahead_on_the_server(bench: Bench) -> None:
    most = 0
    jobs = [await bench.submit(picture(n, seconds=0.3, prefix=f"p{n}")) for n in range(6)]
    urgent = await bench.submit(picture(99, prefix="urgent"), priority=5)
    async for _ in bench.changes():
        most = max(most, len(await bench.client.queue()))
        if (await bench.job(jobs[-1])).ended:
            break
    order = [job_id for job_id in bench.far.executions if job_id != urgent.id]
    assert order == [job.id for job in jobs]
    assert bench.far.executions.index(urgent.id) < 4
    assert most <= 2
    for done in [await bench.ends(job) for job in [*jobs, urgent]]:
        await assert_whole(bench, done)
    assert len(await bench.files()) == 7


async def test_progress_names_the_node_and_its_steps_and_never_goes_back(bench: Bench) -> None:
    job = await bench.submit(picture(seconds=1.0))
    seen = []
    async with asyncio.timeout(15):
        async for _ in bench.scheduler.live.changes():
            now = bench.scheduler.progress(job.id)
            if now is not None:
                seen.append(now)
            if (await bench.job(job)).ended:
                break
    assert [one.value for one in seen] == sorted(one.value for one in seen)
    assert any(one.current_node_class == "DemoSlow" and one.current_node_title == "Patience" for one in seen)
    assert any(one.step and one.steps == 4 and 0 < one.value < 1 for one in seen)
    assert seen[-1].nodes_total == 3


async def test_a_silent_websocket_does_not_hold_a_job_up(bench: Bench) -> None:
    bench.far.faults.silent_websocket = True
    await assert_whole(bench, await bench.ends(await bench.submit(picture(seconds=0.2))))
