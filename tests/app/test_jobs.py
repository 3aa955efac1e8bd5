"""Jobs through the whole daemon: accepted is on disk, and ends once with its picture here, whatever happens to the process."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

from PIL import Image

from comfytunnel import wire
from tests.app.world import DEADLINE, World, workflow


def picture_of(job: wire.Job) -> Path:
    (output,) = job.outputs
    assert output.comfytunnel is not None
    return Path(output.comfytunnel.path)


async def test_a_workflow_goes_in_and_a_picture_comes_out(world: World) -> None:
    await world.start()
    job = await world.end_of(await world.submit(workflow(0x102030)))
    assert job.status == "succeeded"
    with Image.open(picture_of(job)) as image:
        assert image.getpixel((0, 0)) == (0xEF, 0xDF, 0xCF)
    stored = io.BytesIO()
    await world.ask(lambda: world.client.download(job.outputs[0].id, stored))
    assert stored.getvalue() == picture_of(job).read_bytes()


async def test_a_job_is_accepted_without_a_tunnel_and_runs_when_there_is_one(world: World) -> None:
    await world.remote.unbind()
    await world.start(serving=False)
    job = await world.submit(workflow(2))
    assert job.status == "queued"

    def why(seen: wire.Job) -> str | None:
        waits = seen.comfytunnel.waits_for if seen.comfytunnel else None
        return waits.code if waits else None

    await world.until(lambda: world.client.job(job.id), lambda seen: why(seen) == "connect_refused")
    await world.remote.rebind()
    assert (await world.end_of(job)).status == "succeeded"
    assert world.comfyui.executions == [job.id]


async def test_kill_9_in_the_middle_of_a_download_costs_no_second_download(world: World) -> None:
    world.comfyui.faults.huge_output = 4_000_000
    world.comfyui.faults.stall_view = 1
    await world.start()
    job = await world.submit(workflow(4))
    fetching = await world.until(
        lambda: world.client.job(job.id), lambda seen: bool(seen.comfytunnel and seen.comfytunnel.folder)
    )
    assert fetching.comfytunnel is not None
    folder = Path(fetching.comfytunnel.folder or "")
    await world.until(
        lambda: [part.stat().st_size for part in folder.glob(".*.part")], lambda sizes: sum(sizes) > 1_000_000
    )
    await world.kill()
    await world.start()
    done = await world.end_of(job)
    assert (done.status, [asked[:6] for asked in world.comfyui.views]) == ("succeeded", ["", "bytes="])
    there = world.comfyui.base / "output" / picture_of(done).name
    assert picture_of(done).read_bytes() == there.read_bytes()


async def test_kill_9_in_the_middle_of_a_job_and_a_new_start_end_it_once(world: World) -> None:
    await world.start()
    job = await world.submit(workflow(3, seconds=2.0))
    async with asyncio.timeout(DEADLINE):
        await world.comfyui.until(lambda: job.id in world.comfyui.executions)
    await world.kill()
    await world.start()
    done = await world.end_of(job)
    assert done.status == "succeeded"
    assert world.comfyui.executions == [job.id]
    assert picture_of(done).read_bytes().startswith(b"\x89PNG")


async def test_kill_9_before_the_job_ran_and_a_new_start_run_it_once(world: World) -> None:
    await world.start()
    first = await world.submit(workflow(4, seconds=1.0))
    rest = [await world.submit(workflow(5 + number)) for number in range(3)]
    await world.kill()
    await world.start()
    ends = [await world.end_of(job) for job in (first, *rest)]
    assert [job.status for job in ends] == ["succeeded"] * 4
    assert sorted(world.comfyui.executions) == sorted(job.id for job in (first, *rest))
    assert len({picture_of(job) for job in ends}) == 4


async def test_a_cut_in_the_middle_of_a_job_changes_nothing(world: World) -> None:
    await world.start()
    job = await world.submit(workflow(6, seconds=1.5))
    async with asyncio.timeout(DEADLINE):
        await world.comfyui.until(lambda: job.id in world.comfyui.executions)
    world.remote.cut()
    assert (await world.end_of(job)).status == "succeeded"
    assert world.comfyui.executions == [job.id]


async def test_run_prints_the_file_and_copies_it_where_it_is_told(world: World) -> None:
    await world.start()
    source = world.base / "workflow.json"
    source.write_bytes(json.dumps(workflow(7)).encode())
    code, out, err = await world.run("run", str(source), "-o", str(world.base / "here"))
    assert code == 0, err
    assert Path(out.strip()).read_bytes().startswith(b"\x89PNG")
    assert Path(out.strip()).parent == world.base / "here"
