"""Files up: a job's inputs lie in ComfyUI before it is submitted, once, whole, and whatever becomes of the road meanwhile."""

from __future__ import annotations

import asyncio
import io
import shutil
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from PIL import Image

from comfytunnel.comfy import upload as upload_module
from comfytunnel.jobs.about import About
from comfytunnel.jobs.assets import Assets
from comfytunnel.jobs.model import Asset, Job, NewJob, Stage, Status
from comfytunnel.jobs.references import references, replaced
from tests.jobs.bench import DEADLINE, Bench


def png(color: int, size: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (color >> 16, color >> 8 & 255, color & 255)).save(buffer, format="PNG")
    return buffer.getvalue()


def inverted(image: object, *, seconds: float = 0.0) -> dict[str, Any]:
    graph: dict[str, Any] = {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "pic"}},
    }
    if seconds:
        graph["3"] = {
            "class_type": "DemoSlow",
            "inputs": {"image": ["2", 0], "seconds": seconds, "steps": 4},
        }
        graph["9"]["inputs"]["images"] = ["3", 0]
    return graph


async def keep(bench: Bench, data: bytes, name: str = "photo.png") -> Asset:
    """An uploaded file."""
    assets = Assets(bench.store)
    if not bench.store.files.exists():
        await assets.open()
    async with assets.incoming() as coming:
        await coming.write(data)
        asset, _ = await assets.keep(coming, About(content_type="image/png", file_path=name))
    return asset


async def submit(bench: Bench, workflow: dict[str, Any]) -> Job:
    async with Assets(bench.store).bound(workflow) as inputs:
        return await bench.scheduler.submit(NewJob(workflow=workflow, inputs=inputs))


async def color_of(bench: Bench, job: Job) -> int:
    """The colour of the picture that a job which must have succeeded has made."""
    assert job.status is Status.SUCCEEDED, job.error
    (output,) = await bench.store.outputs(job.id)
    pixel = Image.open(output.path).convert("RGB").getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return int(pixel[0]) << 16 | int(pixel[1]) << 8 | int(pixel[2])


def remote(data: bytes, suffix: str = ".png") -> str:
    return f"input/comfytunnel/{blake3(data).hexdigest()}{suffix}"


async def test_a_name_in_the_graph_is_the_uploaded_picture(bench: Bench) -> None:
    """It lies in ComfyUI under its hash, the job keeps its graph, and a second job sends nothing."""
    picture = png(0x102030)
    await keep(bench, picture)
    job = await submit(bench, inverted("photo.png"))
    assert await color_of(bench, await bench.ends(job)) == 0xEFDFCF
    assert await bench.store.workflow(job.id) == inverted("photo.png")
    assert remote(picture) in bench.far.uploads
    before = list(bench.far.uploads)
    again = await submit(bench, inverted("photo.png"))
    assert await color_of(bench, await bench.ends(again)) == 0xEFDFCF
    assert bench.far.uploads == before


async def test_two_places_of_one_graph_send_their_file_once(bench: Bench) -> None:
    asset = await keep(bench, png(0x010203))
    workflow = inverted("photo.png")
    typed = {"__type": "core/ASSET", "info": {"id": asset.id}}
    workflow["4"] = {"class_type": "LoadImage", "inputs": {"image": typed}}
    workflow["5"] = {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}}
    await bench.ends(await submit(bench, workflow))
    assert bench.far.uploads.count(remote(png(0x010203))) == 1


async def test_a_newer_upload_of_that_name_does_not_change_a_job_that_waits(bench: Bench) -> None:
    """What a job means is settled when it is accepted."""
    bench.link_down()
    await keep(bench, png(0x111111))
    job = await submit(bench, inverted("photo.png"))
    await keep(bench, png(0x222222))
    bench.link_up()
    assert await color_of(bench, await bench.ends(job)) == 0xEEEEEE


async def test_a_server_that_is_new_gets_the_file_anew(bench: Bench) -> None:
    picture = png(0x333333)
    await keep(bench, picture)
    await bench.ends(await submit(bench, inverted("photo.png")))
    await bench.stop_far()
    shutil.rmtree(bench.far.base)
    await bench.far.start(port=bench.far.port)
    bench.link_up()
    job = await submit(bench, inverted("photo.png"))
    assert await color_of(bench, await bench.ends(job)) == 0xCCCCCC
    assert bench.far.uploads.count(remote(picture)) == 2


async def test_a_server_that_changes_between_upload_and_submission_gets_the_file_anew(bench: Bench) -> None:
    """Another link may lead to another ComfyUI: what was sent through the old one does not count."""
    picture = png(0x343434)
    await keep(bench, picture)
    bench.far.faults.late_upload_answer = 1.0
    job = await submit(bench, inverted("photo.png"))
    async with asyncio.timeout(DEADLINE):
        while remote(picture) not in bench.far.uploads:  # noqa: ASYNC110 (the far side has no bell for it)
            await asyncio.sleep(0.01)
    (bench.far.base / remote(picture)).unlink()
    bench.link_up()
    bench.far.faults.late_upload_answer = 0.0
    assert await color_of(bench, await bench.ends(job)) == 0xCBCBCB
    assert bench.far.uploads.count(remote(picture)) == 2


async def test_a_file_that_was_half_written_over_there_is_replaced(bench: Bench) -> None:
    picture = png(0x444444)
    await keep(bench, picture)
    there = bench.far.base / remote(picture)
    there.parent.mkdir(parents=True)
    there.write_bytes(picture[: len(picture) // 2])
    job = await submit(bench, inverted("photo.png"))
    assert await color_of(bench, await bench.ends(job)) == 0xBBBBBB
    assert there.read_bytes() == picture


@pytest.mark.parametrize("cuts", [1, 3])
async def test_a_cut_upload_is_sent_again(bench: Bench, cuts: int) -> None:
    picture = png(0x555555)
    await keep(bench, picture)
    bench.far.faults.cut_upload = 0
    await bench.ends(
        await submit(bench, inverted("other.png"))
    )  # leaves the marker, whose upload would be cut first
    bench.far.faults.cut_upload = cuts
    job = await submit(bench, inverted("photo.png"))
    assert await color_of(bench, await bench.ends(job)) == 0xAAAAAA
    assert bench.far.faults.cut_upload == 0
    assert bench.far.executions.count(job.id) == 1


async def test_a_lost_link_leaves_the_job_waiting_and_the_next_one_takes_it_on(bench: Bench) -> None:
    """ComfyUI goes away in the middle of an upload; the job waits, with the reason, and runs when it is back."""
    picture = png(0x666666)
    await keep(bench, picture)
    bench.far.faults.cut_upload = -1
    job = await submit(bench, inverted("photo.png"))
    await says(bench, job, "no_answer")
    await bench.stop_far()
    bench.link_down()
    assert (await bench.job(job)).stage is Stage.WAITING
    bench.far.faults.cut_upload = 0
    await bench.far.start(port=bench.far.port)
    bench.link_up()
    assert await color_of(bench, await bench.ends(job)) == 0x999999


@pytest.mark.parametrize(("errors", "status"), [(2, Status.SUCCEEDED), (3, Status.FAILED)])
async def test_a_server_that_cannot_store_it_fails_the_job_after_three_times(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, errors: int, status: Status
) -> None:
    monkeypatch.setattr("comfytunnel.jobs.inputs.PAUSE", 0.01)
    await keep(bench, png(0x777777))
    await bench.ends(await submit(bench, inverted("other.png")))
    bench.far.faults.reject_upload_500 = errors
    job = await bench.ends(await submit(bench, inverted("photo.png")))
    assert job.status is status
    if job.error is not None:
        assert job.error.code == "upload_refused"
        assert "photo.png" in job.error.message
        assert job.id not in bench.far.executions


async def test_a_file_larger_than_the_server_takes_fails_the_job_with_the_reason(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfytunnel.demo.life.UPLOAD_LIMIT", 3 * 1024**2)
    await bench.restart_far()
    bench.link_up()
    await keep(bench, bytes(8 * 1024**2), "large.png")
    job = await bench.ends(await submit(bench, inverted("large.png")))
    assert job.error is not None
    assert (job.status, job.error.code) == (Status.FAILED, "upload_refused")
    assert "--max-upload-size" in job.error.message
    assert job.error.node_id == "1"


@pytest.mark.parametrize("what", ["gone", "damaged"])
async def test_bytes_that_are_gone_or_damaged_fail_the_job_and_are_not_sent(bench: Bench, what: str) -> None:
    """Other bytes under that hash would be taken for the right ones by every later job."""
    bench.link_down()
    asset = await keep(bench, png(0x888888))
    job = await submit(bench, inverted("photo.png"))
    path = bench.store.files / asset.blake3
    path.unlink() if what == "gone" else path.write_bytes(b"x" * asset.size)
    bench.link_up()
    job = await bench.ends(job)
    assert job.error is not None
    assert job.error.code == "input_missing"
    assert not [name for name in bench.far.uploads if name.startswith("input/")]


async def says(bench: Bench, job: Job, part: str) -> None:
    """Wait until the job says that it waits for this."""
    async with asyncio.timeout(DEADLINE):
        async for _ in bench.scheduler.live.changes():
            waits = bench.scheduler.waits_for(await bench.job(job))
            if waits is not None and part in f"{waits.code}: {waits.message}":
                return


async def test_a_cancel_does_not_wait_for_the_upload(bench: Bench) -> None:
    """A job whose upload makes no progress is canceled at once, and the next one gets its turn."""
    await keep(bench, png(0x999999))
    await bench.ends(await submit(bench, inverted("other.png")))
    bench.far.faults.slow_upload = 60.0
    job = await submit(bench, inverted("photo.png"))
    await says(bench, job, "inputs: Its input photo.png")
    canceled = await bench.scheduler.cancel(job.id)
    assert canceled.status is Status.CANCELED
    bench.far.faults.slow_upload = 0.0
    after = await submit(bench, inverted("photo.png"))
    assert await color_of(bench, await bench.ends(after)) == 0x666666
    assert job.id not in bench.far.executions


async def test_a_job_on_a_new_start_is_still_bound_to_its_file(bench: Bench) -> None:
    """Killed while it waits; the asset is deleted meanwhile, the bytes stay for the job."""
    bench.link_down()
    asset = await keep(bench, png(0xABCDEF))
    job = await submit(bench, inverted("photo.png"))
    await bench.kill()
    await bench.start()
    assets = Assets(bench.store)
    await assets.open()
    assert await assets.delete(asset.id)
    bench.link_up()
    assert await color_of(bench, await bench.ends(job)) == 0x543210
    await assets.sweep()
    assert list(bench.store.files.iterdir()) == []


async def test_an_upload_that_makes_no_progress_is_given_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is sent again: silence is the road's, never the job's end."""
    monkeypatch.setattr(upload_module, "SILENCE", 0.2)
    await keep(bench, png(0x010101))
    await bench.ends(await submit(bench, inverted("other.png")))
    bench.far.faults.slow_upload = 60.0
    job = await submit(bench, inverted("photo.png"))
    await says(bench, job, "no progress")
    bench.far.faults.slow_upload = 0.0
    assert await color_of(bench, await bench.ends(job)) == 0xFEFEFE


async def test_an_upload_that_goes_on_slowly_is_not_given_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline is on silence, not on the whole."""
    monkeypatch.setattr(upload_module, "SILENCE", 0.5)
    pieces = [bytes(1000)] * 10 + [b""]

    async def read() -> bytes:
        await asyncio.sleep(0.1)  # a slow disk
        return pieces.pop(0)

    told = await bench.client.upload_input(read, 10_000, "slow.bin", "comfytunnel", overwrite=False)
    assert told == "comfytunnel/slow.bin"
    assert await bench.client.size_of_input("slow.bin", "comfytunnel") == 10_000


HOSTILE_ANSWERS: list[Any] = [
    b"",
    b"[]",
    b'{"name": 7}',
    b'{"name": "", "subfolder": ""}',
    b'{"name": "x", "subfolder": ["y"]}',
    b'{"name": "' + b"x" * 100_000 + b'"}',
    b'{"name": "x"}' + b" " * 100_000,
    b"[" * 100_000,
]


@pytest.mark.parametrize("answer", HOSTILE_ANSWERS, ids=range(len(HOSTILE_ANSWERS)))
async def test_an_answer_that_is_not_comfyuis_is_an_error_of_ours(tmp_path: Path, answer: bytes) -> None:
    from aiohttp import web

    from comfytunnel.comfy.client import Client
    from comfytunnel.comfy.errors import ComfyError

    async def take(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=answer, content_type="application/json")

    app = web.Application()
    app.router.add_post("/upload/image", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    client = Client(f"http://{host}:{port}")
    pieces = [b"bytes", b""]

    async def read() -> bytes:
        return pieces.pop(0)

    try:
        with pytest.raises(ComfyError):
            await client.upload_input(read, 5, "x.png", "comfytunnel", overwrite=False)
    finally:
        await client.close()
        await runner.cleanup()


def test_references_are_found_wherever_they_stand_and_garbage_is_passed_over() -> None:
    ref = {"__type": "core/ASSET", "info": {"id": "a"}}
    deep: Any = ref
    for _ in range(1000):
        deep = [deep]
    graph: dict[str, Any] = {
        "1": {"inputs": {"image": ref, "many": [ref, {"x": [ref]}], "text": "photo.png", "deep": deep}},
        "2": {"inputs": [ref]},
        "3": "nonsense",
        "4": {"inputs": {"image": {"__type": "core/ASSET"}, "long": "x" * 5000, "link": ["1", 0], "": ""}},
    }
    found = [(item.at, item.id, item.name) for item in references(graph)]
    assert found == [
        (("1", "image"), "a", None),
        (("1", "many", 0), "a", None),
        (("1", "many", 1, "x", 0), "a", None),
        (("1", "text"), None, "photo.png"),
        (("4", "image"), None, None),
    ]


def test_replacing_leaves_the_given_graph_as_it_is() -> None:
    graph: dict[str, Any] = {
        "1": {"class_type": "A", "inputs": {"a": {"b": [1, {"c": 2}]}, "d": 3}},
        "2": {"inputs": {}},
    }
    made = replaced(graph, {("1", "a", "b", 1): "x", ("1", "d"): "y"})
    assert made == {"1": {"class_type": "A", "inputs": {"a": {"b": [1, "x"]}, "d": "y"}}, "2": {"inputs": {}}}
    assert graph["1"]["inputs"] == {"a": {"b": [1, {"c": 2}]}, "d": 3}
