"""A file of the right name is not taken for a job's output if it is another job's: a ComfyUI that begins anew gives old names to new pictures."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from comfytunnel.demo.faults import ALWAYS
from comfytunnel.jobs.model import Job, Stage, Status
from tests.jobs.bench import DEADLINE, Bench, picture
from tests.jobs.test_road import assert_whole

LATER = 10.0
"""Seconds after the job's end at which the file was written: by the file system's word, so that no test waits."""


async def killed_while_it_fetches(bench: Bench) -> Job:
    bench.far.faults.stall_view = 1
    job = await bench.reaches(await bench.submit(picture(0xFF0000)), Stage.FETCHING)
    await bench.kill()
    bench.far.faults.stall_view = 0
    return job


def written_later(bench: Bench) -> None:
    [file] = (bench.far.base / "output").iterdir()
    os.utime(file, (file.stat().st_atime, file.stat().st_mtime + LATER))


async def begin_anew(bench: Bench) -> None:
    """ComfyUI is another process with an empty folder, in which a stranger's picture gets the first name."""
    await bench.stop_far()
    shutil.rmtree(bench.far.base / "output")
    await bench.far.start(port=bench.far.port)
    await bench.start(running=False)
    await bench.client.submit(picture(0x00FF00), "0b79e3d2-8e52-44d6-9c2f-5b1f1f1d7a10", "stranger")
    async with asyncio.timeout(DEADLINE):
        await bench.far.until(lambda: len(bench.far.engine.history) == 1)
    await bench.kill()
    written_later(bench)


async def test_another_jobs_picture_under_the_same_name_is_not_taken(bench: Bench) -> None:
    """The output counts as gone, ComfyUI has provably been restarted, and the job is run again."""
    job = await killed_while_it_fetches(bench)
    await begin_anew(bench)
    await bench.start()
    done = await bench.ends(job)
    assert done.losses == 1
    await assert_whole(bench, done, executions=2)
    assert [path.name for path in await bench.files()] == ["pic_00002_.png"]


async def test_without_a_proof_of_the_restart_another_jobs_picture_fails_the_job(bench: Bench) -> None:
    """Where no marker was left the history, which dies with its process, says that it is another one; but what ran there is unproven."""
    bench.far.faults.reject_upload_500 = ALWAYS
    job = await killed_while_it_fetches(bench)
    await begin_anew(bench)
    await bench.start()
    done = await bench.ends(job)
    assert done.error is not None
    assert (done.status, done.error.code, done.executions) == (Status.FAILED, "output_missing", 1)
    assert "another job's" in done.error.message
    assert await bench.files() == []


@pytest.mark.parametrize("markerless", [False, True])
async def test_a_node_that_writes_late_is_believed_while_comfyui_is_the_same_process(
    bench: Bench, *, markerless: bool
) -> None:
    bench.far.faults.reject_upload_500 = ALWAYS if markerless else 0
    job = await killed_while_it_fetches(bench)
    written_later(bench)
    await bench.start()
    done = await bench.ends(job)
    assert (done.losses, done.server is None) == (0, markerless)
    await assert_whole(bench, done)


async def test_a_restart_alone_costs_no_output(bench: Bench) -> None:
    """The folder outlives the process: a file that is no newer than its job is the job's."""
    job = await killed_while_it_fetches(bench)
    await bench.restart_far()
    await bench.start()
    done = await bench.ends(job)
    assert (done.status, done.losses, done.executions) == (Status.SUCCEEDED, 0, 1)
    [output] = await bench.store.outputs(job.id)
    assert Path(output.path).read_bytes() == (bench.far.base / "output" / output.name).read_bytes()
