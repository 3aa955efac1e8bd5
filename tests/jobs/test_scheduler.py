"""What the API and the app see of the scheduler: refusals, positions, waiting reasons, demand, places that come and go."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from comfytunnel.comfy.client import Client
from comfytunnel.demo.comfyui import ComfyUI
from comfytunnel.errors import NotFoundError, WorkflowError
from comfytunnel.feed import Feed
from comfytunnel.jobs.model import Stage, Status
from comfytunnel.jobs.scheduler import Gate, Place
from tests.jobs.bench import Bench, picture
from tests.jobs.test_road import assert_whole


async def test_what_cannot_run_is_refused_and_not_kept(bench: Bench) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({}, "invalid_workflow"),
        ({"nodes": [], "links": []}, "workflow_format_ui"),
    ]
    for workflow, code in refused:
        with pytest.raises(WorkflowError) as caught:
            await bench.submit(workflow)
        assert caught.value.code_on_wire == code
    with pytest.raises(NotFoundError) as missing:
        await bench.submit(picture(), tunnel="nowhere")
    assert "default" in missing.value.hint
    assert await bench.store.since(0) == []


async def test_positions_and_reasons_are_told_while_jobs_wait(bench: Bench) -> None:
    bench.link_down("auth_refused")
    low, high = await bench.submit(picture(0)), await bench.submit(picture(1), priority=1)
    assert (bench.scheduler.queue_position(high), bench.scheduler.queue_position(low)) == (0, 1)
    waits = bench.scheduler.waits_for(low)
    assert waits is not None
    assert waits.code == "auth_refused"
    assert bench.scheduler.demand.value == {"default": 2}
    await bench.scheduler.cancel(high.id)
    assert bench.scheduler.queue_position(low) == 0
    bench.link_up()
    done = await bench.ends(low)
    assert bench.scheduler.queue_position(done) is None
    assert bench.scheduler.waits_for(done) is None
    async with asyncio.timeout(5):
        await bench.scheduler.demand.until(lambda demand: demand == {})


async def test_a_job_behind_others_says_how_many(bench: Bench) -> None:
    jobs = [await bench.submit(picture(n, seconds=0.5)) for n in range(4)]
    await bench.reaches(jobs[1], Stage.ON_SERVER)
    waits = bench.scheduler.waits_for(await bench.job(jobs[3]))
    assert waits is not None
    assert (waits.code, waits.message) == ("queue", "3 jobs before it.")


async def test_two_places_share_the_work_and_a_named_one_is_kept_to(bench: Bench) -> None:
    other = ComfyUI(bench.folder / "other")
    async with other:
        client = Client(other.url)
        bench.scheduler.add_place(Place("other", client, Feed(Gate(1, True))))
        named = await bench.submit(picture(99), tunnel="other")
        jobs = [await bench.submit(picture(n, seconds=0.2)) for n in range(8)]
        done = [await bench.ends(job) for job in [named, *jobs]]
        assert {job.status for job in done} == {Status.SUCCEEDED}
        assert done[0].place == "other"
        assert {job.place for job in done[1:]} == {"default", "other"}
        everything = bench.far.executions + other.executions
        assert sorted(everything) == sorted(job.id for job in done)
        await bench.scheduler.remove_place("other")
        await client.close()


async def test_a_place_that_comes_back_takes_up_its_jobs(bench: Bench) -> None:
    job = await bench.submit(picture(seconds=0.5))
    await bench.reaches(job, Status.RUNNING)
    await bench.scheduler.remove_place("default")
    waits = bench.scheduler.waits_for(await bench.job(job))
    assert waits is not None
    assert waits.code == "no_tunnel"
    bench.scheduler.add_place(Place("default", bench.client, bench.gate))
    await assert_whole(bench, await bench.ends(job))


@pytest.mark.parametrize("drop", [0, 1])
async def test_an_old_server_that_makes_up_its_own_ids_is_followed(bench: Bench, drop: int) -> None:
    """Before about 0.3.45 prompt_id was ignored; our id in extra_data finds the job even when the answer was lost."""
    await bench.stop_far()
    bench.far.version = "0.3.40"
    await bench.far.start(port=bench.far.port)
    bench.far.faults.drop_prompt_response = drop
    job = await bench.submit(picture(seconds=0.2))
    if drop:  # so that it is found in the history
        async with asyncio.timeout(10):
            await bench.far.until(lambda: bench.far.prompts_received == 1)
            bench.link_down()
            await bench.far.until(lambda: len(bench.far.engine.history) == 1)
            bench.link_up()
    done = await bench.ends(job)
    assert (done.status, done.executions, bench.far.prompts_received) == (Status.SUCCEEDED, 1, 1)
    assert done.remote_id == bench.far.executions[0] != done.id


async def test_a_skipped_output_is_said(bench: Bench) -> None:
    workflow = picture()
    workflow["5"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 7], "filename_prefix": "x"}}
    done = await bench.ends(await bench.submit(workflow))
    assert done.status is Status.SUCCEEDED
    assert "node 5 (SaveImage)" in (done.note or "")


async def test_previews_reach_the_reader(bench: Bench) -> None:
    job = await bench.submit(picture(seconds=0.5, steps=40))
    async with asyncio.timeout(10):
        async for _ in bench.scheduler.live.changes():
            preview = bench.scheduler.preview(job.id)
            if preview is not None:
                break
    assert preview is not None
    assert (preview.content_type, preview.node_id) == ("image/jpeg", "2")
    assert preview.data.startswith(b"\xff\xd8")
    await assert_whole(bench, await bench.ends(job))
