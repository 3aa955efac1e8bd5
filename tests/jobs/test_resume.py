"""A download that was cut is gone on with where it is still the same file, and is begun again where that cannot be known."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from comfytunnel.demo.comfyui import ComfyUI
from comfytunnel.jobs.landing import RESUMABLE, Landing
from comfytunnel.jobs.model import Job, Stage, Status
from comfytunnel.jobs.store import Store
from tests.jobs.bench import Bench, picture
from tests.jobs.test_road import assert_whole

ROOT = Path(__file__).parents[2]
SIZE = 4_000_000


async def stalled(bench: Bench) -> Job:
    """A job whose output is here by half; the other half does not come."""
    bench.far.faults.huge_output = SIZE
    bench.far.faults.stall_view = 1
    job = await bench.submit(picture())
    await bench.reaches(job, Stage.FETCHING)
    await part_grows(bench.folder / "pictures")
    return job


async def part_grows(pictures: Path) -> Path:
    """Wait until a .part has its bytes: a file has no feed."""
    async with asyncio.timeout(10):
        while True:
            for part in pictures.rglob(".*.part"):
                if part.stat().st_size >= RESUMABLE:
                    return part
            await asyncio.sleep(0.01)


async def test_a_cut_download_goes_on_where_it_was_cut(bench: Bench) -> None:
    bench.far.faults.huge_output = SIZE
    bench.far.faults.truncate_view = 2
    done = await bench.ends(await bench.submit(picture()))
    await assert_whole(bench, done)
    first, second, third = bench.far.views
    at = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in (second, third)]
    assert (first, RESUMABLE - 1 <= at[0] < at[1] < SIZE) == ("", True)
    assert len(await bench.files()) == 1


async def test_a_new_start_goes_on_with_the_part_of_the_process_before(bench: Bench) -> None:
    job = await stalled(bench)
    await bench.kill()
    await bench.start()
    await assert_whole(bench, await bench.ends(job))
    assert [asked[:6] for asked in bench.far.views] == ["", "bytes="]


async def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(bench: Bench) -> None:
    job = await stalled(bench)
    await bench.kill()
    [there] = (bench.far.base / "output").iterdir()
    there.write_bytes(os.urandom(SIZE))
    await bench.start()
    await assert_whole(bench, await bench.ends(job))
    assert [asked[:6] for asked in bench.far.views] == ["", "bytes=", ""]
    assert len(await bench.files()) == 1


async def test_a_file_that_became_shorter_than_the_part_is_fetched_from_its_beginning(bench: Bench) -> None:
    job = await stalled(bench)
    await bench.kill()
    [there] = (bench.far.base / "output").iterdir()
    there.write_bytes(b"short")
    await bench.start()
    await assert_whole(bench, await bench.ends(job))


async def test_a_part_from_before_a_restart_of_the_machine_is_not_trusted(bench: Bench) -> None:
    """Its length may be there without its bytes."""
    job = await stalled(bench)
    await bench.kill()
    [note] = (bench.folder / "pictures").rglob(".*.tag")
    run, _, tag = note.read_text().partition(" ")
    note.write_text(f"{run[::-1]} {tag}")
    await bench.start()
    await assert_whole(bench, await bench.ends(job))
    assert bench.far.views == ["", ""]
    assert len(await bench.files()) == 1


async def test_a_whole_part_that_was_not_yet_named_is_not_fetched_again(bench: Bench) -> None:
    job = await stalled(bench)
    await bench.kill()
    [there] = (bench.far.base / "output").iterdir()
    [part] = (bench.folder / "pictures").rglob(".*.part")
    part.write_bytes(there.read_bytes())
    await bench.start()
    await assert_whole(bench, await bench.ends(job))
    assert bench.far.views == ["", f"bytes={there.stat().st_size - 1}-"]


async def test_a_cancel_leaves_no_part_behind(bench: Bench) -> None:
    job = await stalled(bench)
    await bench.scheduler.cancel(job.id)
    assert (await bench.job(job)).status is Status.CANCELED
    assert not await bench.files()


async def test_sigkill_in_the_middle_of_a_download_costs_no_second_download(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.jobs.carrier", str(tmp_path)]
    async with ComfyUI(tmp_path / "far") as far:
        far.faults.huge_output = SIZE
        far.faults.stall_view = 1
        for kill in (True, False):
            carrier = await asyncio.create_subprocess_exec(
                *command,
                far.url,
                "1",
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": "daemon"},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
            )
            if kill:
                await part_grows(tmp_path / "pictures")
                carrier.kill()
            await carrier.communicate()
        assert (carrier.returncode, [asked[:6] for asked in far.views]) == (0, ["", "bytes="])
        store = await Store.open(tmp_path / "jobs.db")
        [job] = await store.since(0)
        [output] = await store.outputs(job.id)
        await store.close()
        assert (job.status, job.executions) == (Status.SUCCEEDED, 1)
        assert Path(output.path).read_bytes() == (tmp_path / "far" / "output" / output.name).read_bytes()


@pytest.mark.parametrize("way", ["linked", "symlink", "folder"])
def test_a_part_that_is_not_ours_alone_is_not_touched(tmp_path: Path, way: str) -> None:
    """A second name is what a crash between naming and tidying up leaves: those bytes are the finished file's."""
    landing = Landing(tmp_path, ".x.part")
    landing.open(RESUMABLE, "tag")
    landing.write(b"x" * RESUMABLE)
    landing.leave()
    part, other = tmp_path / ".x.part", tmp_path / "other"
    if way == "linked":
        other.hardlink_to(part)
    else:
        part.rename(other)
        (part.mkdir if way == "folder" else lambda: part.symlink_to(other))()
    assert landing.resume() is None
    assert other.stat().st_size == RESUMABLE
