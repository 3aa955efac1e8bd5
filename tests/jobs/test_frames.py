"""Pictures that exist on the websocket alone come home, and a job says when one may have been missed."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import Any

from PIL import Image

from comfytunnel.comfy.progress import Finished, PreviewFrame, Started, parse
from comfytunnel.jobs.frames import MOST, Frames
from comfytunnel.jobs.meter import MAX_PREVIEW, Meter
from comfytunnel.jobs.model import Job, Stage, Status
from comfytunnel.workflow.graph import parse_api_graph
from tests.jobs.bench import Bench, picture


def sent(seconds: float = 0.0, number: int = 3) -> dict[str, Any]:
    graph = picture(seconds=seconds)
    graph["1"]["inputs"]["batch_size"] = number
    graph["9"] = {"class_type": "SaveImageWebsocket", "inputs": {"images": graph["9"]["inputs"]["images"]}}
    return graph


async def pictures(bench: Bench, job: Job) -> list[str]:
    """The names of the job's outputs, each of which is a picture on disk."""
    outputs = await bench.store.outputs(job.id)
    for output in outputs:
        with Image.open(Path(output.path)) as image:
            assert (image.format, image.size) == ("PNG", (32, 32))
    return [output.name for output in outputs]


async def test_pictures_from_the_websocket_come_home(bench: Bench) -> None:
    graph = sent()
    graph["8"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "file"}}
    done = await bench.ends(await bench.submit(graph))
    assert (done.status, done.note) == (Status.SUCCEEDED, None)
    assert await pictures(bench, done) == [f"file_0000{n}_.png" for n in (1, 2, 3)] + [
        f"websocket_9_0000{n}_.png" for n in (1, 2, 3)
    ]


async def test_a_job_whose_pictures_come_over_the_websocket_waits_for_it(bench: Bench) -> None:
    bench.far.faults.refuse_websockets = 1
    done = await bench.ends(await bench.submit(sent()))
    assert (done.status, len(await pictures(bench, done))) == (Status.SUCCEEDED, 3)


async def test_a_job_of_which_nothing_was_heard_says_so(bench: Bench) -> None:
    bench.far.faults.silent_websocket = True
    done = await bench.ends(await bench.submit(sent()))
    assert done.error is not None
    assert (done.status, done.error.code, done.error.node_id) == (Status.FAILED, "output_missed", "9")


async def test_a_job_that_was_not_heard_from_its_beginning_says_that_a_picture_may_be_missing(
    bench: Bench,
) -> None:
    job = await bench.submit(sent(seconds=2.0))
    await bench.reaches(job, Status.RUNNING)
    bench.link_up()
    done = await bench.ends(job)
    assert (done.status, len(await pictures(bench, done))) == (Status.SUCCEEDED, 3)
    assert done.note is not None
    assert "one may be missing" in done.note


async def test_a_job_that_ran_while_we_were_dead_says_that_its_pictures_are_missing(bench: Bench) -> None:
    job = await bench.submit(sent(seconds=0.5))
    await bench.reaches(job, Stage.ON_SERVER)
    await bench.kill()
    async with asyncio.timeout(10):
        await bench.far.until(lambda: job.id in bench.far.engine.history)
    await bench.start()
    done = await bench.ends(job)
    assert done.error is not None
    assert (done.status, done.error.code) == (Status.FAILED, "output_missed")


async def test_previews_of_other_nodes_are_no_outputs(bench: Bench) -> None:
    done = await bench.ends(await bench.submit(sent(seconds=0.2, number=1)))
    assert (done.note, await pictures(bench, done)) == (None, ["websocket_9_00001_.png"])


def test_more_pictures_than_are_kept_count_as_missing() -> None:
    frames = Frames()
    frames.expect(parse_api_graph(sent()))
    frames.feed(Started("x"), 1)
    for _ in range(MOST + 1):
        frames.feed(PreviewFrame("x", "9", "image/png", b"png"), 1)
    frames.feed(Finished("x"), 1)
    assert len(frames.pictures) == MOST
    assert "note" in frames.verdict({"9"}, None)  # type: ignore[arg-type]  # the time is not looked at


def test_a_picture_too_large_for_a_preview_is_an_output_all_the_same() -> None:
    frame = parse(struct.pack(">II", 1, 2) + bytes(MAX_PREVIEW + 1))
    assert isinstance(frame, PreviewFrame)
    graph = parse_api_graph(sent())
    meter, frames = Meter(graph), Frames()
    frames.expect(graph)
    meter.feed(frame)
    frames.feed(PreviewFrame("x", "9", frame.content_type, frame.data), 1)
    assert meter.preview is None
    assert [len(picture.data) for picture in frames.pictures] == [MAX_PREVIEW + 1]
