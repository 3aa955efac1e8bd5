"""Outputs come home whole or not at all, under names of our making, into the folder of the day and nowhere else."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from comfytunnel.demo.faults import EVIL_NAMES
from comfytunnel.jobs.landing import RESERVE, Landing, Trouble, trouble
from comfytunnel.jobs.model import Stage, Status
from comfytunnel.jobs.outputs import _disk
from tests.jobs.bench import Bench, picture
from tests.jobs.test_road import assert_whole, named


async def test_evil_names_stay_inside_the_folder(bench: Bench) -> None:
    bench.far.faults.evil_filename = EVIL_NAMES
    done = await bench.ends(await bench.submit(picture()))
    outputs = await bench.store.outputs(done.id)
    assert (done.status, len(await named(bench, done))) == (
        Status.FAILED,
        16,
    )  # no names at all and repetitions left out
    assert len(outputs) == 15  # three are never served, the others are still worth having
    assert done.folder is not None
    for output in outputs:
        path = Path(output.path)
        assert path.parent == Path(done.folder)
        assert path.is_file()
        assert not path.is_symlink()
        assert not path.name.startswith(".")
    around = {path.name for path in bench.folder.iterdir()}
    assert around <= {"far", "pictures", "nodes", "jobs.db", "jobs.db-wal", "jobs.db-shm"}


async def test_a_truncated_download_is_fetched_again(bench: Bench) -> None:
    bench.far.faults.truncate_view = 2
    await assert_whole(bench, await bench.ends(await bench.submit(picture())))


async def test_a_file_of_the_users_is_never_overwritten(bench: Bench) -> None:
    first = await bench.ends(await bench.submit(picture(prefix="mine")))
    [output] = await bench.store.outputs(first.id)
    Path(output.path).write_bytes(b"painted over by the user")
    (bench.far.base / "output" / "mine_00001_.png").unlink()
    second = await bench.ends(await bench.submit(picture(1, prefix="mine")))
    await assert_whole(bench, second)
    assert Path(output.path).read_bytes() == b"painted over by the user"
    assert [path.name for path in await bench.files()] == ["mine_00001_ (2).png", "mine_00001_.png"]


async def test_a_symlink_in_the_way_is_not_followed(bench: Bench) -> None:
    first = await bench.ends(await bench.submit(picture(prefix="link")))
    [output] = await bench.store.outputs(first.id)
    victim = bench.folder / "victim"
    victim.write_bytes(Path(output.path).read_bytes())
    Path(output.path).unlink()
    Path(output.path).symlink_to(victim)
    second = await bench.ends(
        await bench.submit(picture(prefix="link"))
    )  # cached: the same name, the same bytes
    [other] = await bench.store.outputs(second.id)
    assert other.path != output.path
    assert other.cached
    assert Path(output.path).is_symlink()


async def test_an_unchanged_workflow_is_answered_from_the_cache_and_makes_no_second_file(
    bench: Bench,
) -> None:
    jobs = [await bench.ends(await bench.submit(picture())) for _ in range(2)]
    for job in jobs:
        await assert_whole(bench, job)
    assert len(await bench.files()) == 1
    assert [output.cached for job in jobs for output in await bench.store.outputs(job.id)] == [False, True]


async def test_an_output_that_comfyui_does_not_have_fails_the_job_with_a_reason(bench: Bench) -> None:
    bench.far.faults.missing_output = True
    done = await bench.ends(await bench.submit(picture()))
    assert done.error is not None
    assert (done.status, done.error.code, done.error.node_id) == (Status.FAILED, "output_missing", "9")
    assert not await bench.files()


async def test_an_output_that_comfyui_cannot_serve_fails_the_job_instead_of_being_asked_for_for_ever(
    bench: Bench,
) -> None:
    """As with the real one: the name is a header of the answer, and a line break in it breaks the connection off, each time."""
    workflow = picture(prefix="two\nlines")
    workflow["12"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "good"}}
    done = await bench.ends(await bench.submit(workflow))
    assert done.error is not None
    assert (done.status, done.error.code, done.executions) == (Status.FAILED, "output_missing", 1)
    assert "line break" in done.error.message
    assert [path.name for path in await bench.files()] == ["good_00001_.png"]
    assert len(bench.far.views) < 20  # aiohttp asks twice each time


async def test_an_output_of_an_ordinary_name_is_worth_more_patience(bench: Bench) -> None:
    """Ten failures in a row are a ComfyUI in trouble that may pass, not a file that never comes."""
    bench.far.faults.reject_view_500 = 10
    done = await bench.ends(await bench.submit(picture()))
    assert (done.status, done.executions, bench.far.faults.reject_view_500) == (Status.SUCCEEDED, 1, 0)


async def test_while_the_folder_is_in_the_way_a_job_says_since_when_it_waits_and_nothing_more_is_given_out(
    bench: Bench,
) -> None:
    """Each new try to put the files down is the same waiting, not another."""
    (bench.folder / "pictures").write_text("in the way")
    jobs = [await bench.submit(picture(color)) for color in range(6)]
    since = set()
    async with asyncio.timeout(15):
        async for _ in bench.scheduler.live.changes():
            waits = bench.scheduler.waits_for(await bench.job(jobs[0]))
            if waits is not None and waits.code == "folder_unwritable":
                since.add(waits.since)
            elif since:
                since.add(None)
            if len(bench.far.views) >= 8:
                break
    assert len(since) == 1
    assert bench.far.prompts_received <= 3  # those that it had before the trouble was seen


async def test_a_preview_comes_home_only_when_there_is_nothing_else(bench: Bench) -> None:
    alone = picture()
    alone["9"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    both = picture(1)
    both["8"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    for workflow, node in ((alone, "9"), (both, "9")):
        done = await bench.ends(await bench.submit(workflow))
        [output] = await bench.store.outputs(done.id)
        assert (done.status, output.node_id) == (Status.SUCCEEDED, node)


async def test_previews_that_a_restart_wiped_are_made_again(bench: Bench) -> None:
    """The outputs of the first execution are provably lost: temp/ is empty and the process is another."""
    workflow = picture()
    workflow["9"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    pictures = bench.folder / "pictures"
    pictures.write_text("in the way")
    job = await bench.submit(workflow)
    await bench.reaches(job, Stage.FETCHING)
    await bench.restart_far()
    pictures.unlink()
    done = await bench.ends(job)
    assert (done.status, done.executions, done.losses) == (Status.SUCCEEDED, 2, 1)
    assert len(await bench.files()) == 1


async def test_a_loss_while_fetching_brings_home_the_outputs_of_the_second_execution_alone(
    bench: Bench,
) -> None:
    """Of the first execution one file is home already when the other proves lost."""
    workflow = picture(prefix="a", seconds=0.1)
    workflow["12"] = {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "b"}}
    pictures = bench.folder / "pictures"
    pictures.write_text("in the way")
    job = await bench.submit(workflow)
    await bench.reaches(job, Stage.FETCHING)
    await bench.restart_far()
    [lost] = (bench.far.base / "output").glob("b_*")
    lost.unlink()
    pictures.unlink()
    done = await bench.ends(job)
    assert (done.status, done.executions, done.losses) == (Status.SUCCEEDED, 2, 1)
    assert [output.name for output in await bench.store.outputs(job.id)] == [
        wanted.filename for wanted in await named(bench, done)
    ]


async def test_too_many_and_too_large_outputs_fail_the_job(bench: Bench) -> None:
    await bench.kill()
    await bench.start(max_files=5, max_file_size=200_000)
    bench.far.faults.many_outputs = 10
    done = await bench.ends(await bench.submit(picture()))
    assert done.error is not None
    assert done.error.code == "too_many_outputs"
    bench.far.faults.many_outputs = 0
    bench.far.faults.huge_output = 300_000
    done = await bench.ends(await bench.submit(picture(1)))
    assert done.error is not None
    assert done.error.code == "output_too_large"
    assert not await bench.files()


async def test_an_unwritable_folder_holds_the_job_and_the_queue_until_it_is_mended(bench: Bench) -> None:
    pictures = bench.folder / "pictures"
    pictures.write_text("a file where the folder should be")
    first, second = [await bench.submit(picture(n, prefix=f"p{n}")) for n in range(2)]
    async with asyncio.timeout(10):
        async for _ in bench.scheduler.live.changes():
            waits = bench.scheduler.waits_for(await bench.job(first))
            if waits is not None and waits.code == "folder_unwritable":
                break
    assert (await bench.job(first)).stage is Stage.FETCHING
    pictures.unlink()
    for done in [await bench.ends(job) for job in (first, second)]:
        await assert_whole(bench, done)


async def test_a_full_disk_holds_the_job_until_there_is_room(bench: Bench) -> None:
    """The kernel refuses to let a file of ours grow past 1 MB; to this process that is a full disk."""
    bench.far.faults.huge_output = 2_000_000
    job = await bench.submit(picture(seconds=0.3))
    await bench.reaches(job, Stage.ON_SERVER)
    bench.link_down()
    size, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with asyncio.timeout(15):
        await bench.far.until(lambda: job.id in bench.far.engine.history)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, most))
            bench.link_up()
            async for _ in bench.scheduler.live.changes():
                waits = bench.scheduler.waits_for(await bench.job(job))
                if waits is not None and waits.code == "disk_full":
                    break
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    await assert_whole(bench, await bench.ends(job))


def command(*words: str | Path) -> None:
    subprocess.run(words, check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system: needs root")
async def test_a_disk_that_is_really_full_holds_the_queue_until_it_has_grown(bench: Bench) -> None:
    """Once the first jobs cannot put their pictures down, no more are given to ComfyUI than it had."""
    pictures = bench.folder / "pictures"
    pictures.mkdir()
    command("mount", "-t", "tmpfs", "-o", f"size={RESERVE + 1_000_000}", "none", pictures)
    try:
        bench.far.faults.huge_output = 2_000_000
        jobs = [await bench.submit(picture(n, prefix=f"p{n}", seconds=0.3)) for n in range(8)]
        async with asyncio.timeout(15):
            for job in jobs[:2]:
                async for _ in bench.scheduler.live.changes():
                    waits = bench.scheduler.waits_for(await bench.job(job))
                    if waits is not None and waits.code == "disk_full":
                        break
        # how many were begun before is a matter of speed
        assert (await bench.job(jobs[-1])).stage is Stage.WAITING
        command("mount", "-o", f"remount,size={2 * RESERVE}", pictures)
        for job in jobs:
            await assert_whole(bench, await bench.ends(job))
    finally:
        await bench.stop()
        command("umount", "--lazy", pictures)


def test_what_the_disk_says_is_told_apart(tmp_path: Path) -> None:
    assert trouble(OSError(errno.ENOSPC, "x"), tmp_path).code == "disk_full"
    assert trouble(OSError(errno.EDQUOT, "x"), tmp_path).code == "disk_full"
    assert trouble(OSError(errno.EROFS, "x"), tmp_path).code == "folder_unwritable"
    assert isinstance(trouble(OSError("odd"), tmp_path), Trouble)


def test_too_little_room_is_seen_before_the_first_byte(tmp_path: Path) -> None:
    landing = Landing(tmp_path, ".x.part")
    with pytest.raises(OSError, match="No space"):
        landing.open(2**62)
    landing.drop()
    assert not list(tmp_path.iterdir())


def test_some_room_is_left_for_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both before the first byte and when the disk fills up meanwhile."""
    room = os.statvfs(tmp_path)
    part = Landing(tmp_path, ".x.part")
    with pytest.raises(OSError, match="No space"):
        part.open(room.f_bavail * room.f_frsize - RESERVE // 2)
    part.drop()
    part.open(None)
    monkeypatch.setattr("comfytunnel.jobs.landing.RESERVE", 2**62)
    with pytest.raises(OSError, match="No space"):
        part.write(b"x")
    part.drop()
    assert not list(tmp_path.iterdir())


async def test_a_thread_that_writes_is_awaited_however_often_we_are_cancelled(tmp_path: Path) -> None:
    """Its descriptors are closed once `_disk` has returned."""
    begun, go_on = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(10)

    doing = asyncio.create_task(_disk(work, tmp_path))
    await asyncio.to_thread(begun.wait, 10)
    for _ in range(3):
        doing.cancel()
        await asyncio.wait([doing], timeout=0.05)
        assert not doing.done()
    go_on.set()
    await asyncio.wait([doing])
    assert doing.cancelled()


def test_without_hard_links_nothing_is_overwritten_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "no hard links on this file system")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a.png").write_bytes(b"the user's")
    for data in (b"one", b"two", b"one"):
        landing = Landing(tmp_path, ".x.part")
        landing.open(3)
        landing.write(data)
        landing.settle("a.png")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "a.png": b"the user's",
        "a (2).png": b"one",
        "a (3).png": b"two",
    }


async def test_another_output_dir_helps_a_job_that_could_not_write_to_the_first(bench: Bench) -> None:
    (bench.folder / "pictures").write_text("a file where the folder should be")
    job = await bench.submit(picture())
    await bench.reaches(job, Stage.FETCHING)
    bench.scheduler.apply(replace(bench.settings, output_dir=bench.folder / "elsewhere"))
    done = await bench.ends(job)
    [output] = await bench.store.outputs(done.id)
    assert Path(output.path).is_relative_to(bench.folder / "elsewhere")
