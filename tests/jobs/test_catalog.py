"""What a ComfyUI tells of its nodes is kept, and a workflow that it would surely refuse is refused at once, with the way out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from comfytunnel.comfy.client import Client
from comfytunnel.errors import WorkflowError
from comfytunnel.feed import Feed
from comfytunnel.jobs import shelf
from comfytunnel.jobs.model import Status
from comfytunnel.jobs.place import Gate, Place
from comfytunnel.jobs.shelf import Shelf, Told
from tests.jobs.bench import DEADLINE, Bench, picture

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def wrong(class_type: str = "ImageInvret", **inputs: Any) -> dict[str, Any]:
    graph = picture()
    graph["2"] = {"class_type": class_type, "inputs": {"image": ["1", 0], **inputs}}
    graph["9"]["inputs"]["images"] = ["2", 0]
    return graph


def model(name: str) -> dict[str, Any]:
    return wrong("DemoModel", model=name)


async def learnt(bench: Bench) -> Told:
    """What the process that serves now has told, once it has."""
    catalog = bench.scheduler.judges.of(bench.place)
    async with asyncio.timeout(DEADLINE):
        await catalog.link.until(lambda _: catalog.fresh)
    told = await catalog.told()
    assert told is not None
    return told


async def until(so: Callable[[], Awaitable[bool]]) -> None:
    """A file has no bell: look again and again."""
    async with asyncio.timeout(DEADLINE):
        while not await so():  # noqa: ASYNC110 (it has no bell)
            await asyncio.sleep(0.01)


async def entry_has(bench: Bench, text: bytes) -> bool:
    return text in (await bench.scheduler.judges.of(bench.place).entry("DemoModel") or b"")


async def another(bench: Bench, told: Told) -> bool:
    return await learnt(bench) != told


async def refused(bench: Bench, graph: dict[str, Any]) -> WorkflowError:
    before = await bench.store.in_line()
    with pytest.raises(WorkflowError) as caught:
        await bench.submit(graph)
    assert caught.value.code_on_wire == "invalid_workflow"
    assert await bench.store.in_line() == before
    return caught.value


async def test_a_misspelt_class_is_refused_with_the_close_one(bench: Bench) -> None:
    await learnt(bench)
    error = await refused(bench, wrong())
    assert "Node 2 (ImageInvret)" in error.message
    assert error.hint == "Did you mean 'ImageInvert'?"
    [problem] = error.details["node_errors"]["2"]
    assert problem["reason"] == "missing_node_type"
    assert problem["close_matches"] == ["ImageInvert"]
    assert bench.far.prompts_received == 0


async def test_a_misspelt_model_is_refused_with_the_close_one(bench: Bench) -> None:
    await learnt(bench)
    error = await refused(bench, model("demo-xl.safetensor"))
    [problem] = error.details["node_errors"]["2"]
    assert (problem["field"], problem["reason"]) == ("model", "value_not_in_list")
    assert problem["close_matches"][0] == "demo/demo-xl.safetensors"


async def test_a_model_that_came_since_is_found_before_anything_is_refused(bench: Bench) -> None:
    """Models come and go within one process: a refusal is confirmed first."""
    await learnt(bench)
    (bench.far.base / "models").mkdir()
    (bench.far.base / "models" / "new.safetensors").touch()
    job = await bench.submit(model("new.safetensors"))
    assert job.warnings == ()
    assert (await bench.ends(job)).status is Status.SUCCEEDED
    await until(lambda: entry_has(bench, b"new.safetensors"))  # and the rest is learnt anew


async def test_a_refusal_that_cannot_be_confirmed_counts_as_stale(bench: Bench) -> None:
    await learnt(bench)
    await bench.stop_far()  # and the gate has not heard of it
    assert (await refused(bench, wrong())).hint.startswith("Did you mean 'ImageInvert'? ComfyUI told so at ")
    job = await bench.submit(model("nobodys.safetensors"))
    assert "Value not in list" in job.warnings[1]


async def test_without_a_word_of_comfyui_all_is_accepted_and_judged_on_arrival(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.start()
    try:
        job = await bench.submit(wrong())
        with pytest.raises(WorkflowError, match="which is not there"):
            await bench.submit(wrong("ImageInvert", image=["7", 0]))
        await bench.far.start()
        await bench.kill()
        await bench.start()
        bench.link_up()
        ended = await bench.ends(job)
        assert ended.error is not None
        assert (ended.status, ended.error.code) == (Status.FAILED, "invalid_workflow")
    finally:
        await bench.stop()


async def test_on_a_train_a_slip_is_refused_and_what_may_be_new_is_accepted_with_a_warning(
    bench: Bench,
) -> None:
    await learnt(bench)
    bench.link_down()
    error = await refused(bench, wrong())
    assert '"validate": false' in error.hint
    await refused(bench, picture() | {"9": {"class_type": "SaveImage", "inputs": {}}})
    tomorrows = await bench.submit(wrong("SomebodysUpscaler"))
    assert len(tomorrows.warnings) == 2
    assert tomorrows.warnings[0].startswith("Judged by what ComfyUI told at ")
    assert "'SomebodysUpscaler' not found" in tomorrows.warnings[1]
    assert (await bench.job(tomorrows)).warnings == tomorrows.warnings
    assert (await bench.submit(picture())).warnings == ()


async def test_whoever_knows_better_is_not_held_up(bench: Bench) -> None:
    """`validate` false, and a retry: ComfyUI judges on arrival."""
    await learnt(bench)
    job = await bench.ends(await bench.submit(wrong(), validate=False))
    assert (job.status, job.warnings) == (Status.FAILED, ())
    again = await bench.scheduler.retry(job.id)
    assert (await bench.ends(again)).status is Status.FAILED


async def test_a_class_that_comfyui_puts_another_in_the_place_of_is_taken(bench: Bench) -> None:
    await learnt(bench)
    job = await bench.submit(wrong("DemoSleep", seconds=0.0, steps=1))
    assert (await bench.ends(job)).status is Status.SUCCEEDED


async def test_an_output_that_will_be_left_out_is_told_at_once(bench: Bench) -> None:
    await learnt(bench)
    graph = picture() | {"10": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}}}
    job = await bench.submit(graph)
    assert job.warnings[0] == "ComfyUI will leave out the outputs of 10."
    assert (await bench.ends(job)).status is Status.SUCCEEDED


async def test_another_daemon_takes_up_what_the_same_comfyui_has_told(bench: Bench) -> None:
    """The marker proves that it is the same process: nothing is fetched again. Until then it is stale."""
    told = await learnt(bench)
    await bench.kill()
    bench.link_down()
    await bench.start()
    assert not bench.scheduler.judges.of(bench.place).fresh
    await refused(bench, wrong())
    bench.link_up()
    assert (await learnt(bench)) == told


@pytest.mark.parametrize("noticed", [True, False])
async def test_a_comfyui_that_was_restarted_is_asked_again(bench: Bench, noticed: bool) -> None:
    """Whether its gate closed meanwhile, or only the next job found another process."""
    told = await learnt(bench)
    await bench.ends(await bench.submit(picture(1)))
    await bench.restart_far()
    if noticed:
        bench.link_up()
    else:
        for color in (2, 3):  # the first one's number is not higher than one seen before; the second looks
            await bench.ends(await bench.submit(picture(color)))
    await until(lambda: another(bench, told))


async def test_another_instance_behind_the_tunnel_is_another_comfyui(bench: Bench) -> None:
    """Nothing that the one has told is held against the other."""
    await learnt(bench)
    bench.link_down()
    bench.address = "two"
    assert (await bench.submit(wrong())).warnings == ()
    bench.address = "one"
    await refused(bench, wrong())


async def test_one_place_that_takes_it_is_enough(bench: Bench) -> None:
    await learnt(bench)
    await refused(bench, wrong())
    client = Client("http://127.0.0.1:9")
    bench.scheduler.add_place(Place("other", client, Feed(Gate(None, False))))
    taken = await bench.submit(wrong())
    assert taken.warnings == ()
    with pytest.raises(WorkflowError):
        await bench.submit(wrong(), tunnel="default")
    assert (
        await bench.ends(taken)
    ).status is Status.FAILED  # given to the one that is up, which judges it on arrival
    await bench.scheduler.remove_place("other")
    await refused(bench, wrong())
    await client.close()


async def test_the_file_is_the_owners_alone(bench: Bench) -> None:
    await learnt(bench)
    [path] = (bench.folder / "nodes").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


async def test_a_broken_file_is_none(bench: Bench) -> None:
    await learnt(bench)
    bench.link_down()
    await bench.far.stop()  # what is being learnt once more would make the file whole
    [path] = (bench.folder / "nodes").iterdir()
    for length in (0, 10, 25, 100, path.stat().st_size - 1):
        path.write_bytes(path.read_bytes()[:length])
        assert (await bench.submit(wrong())).warnings == ()
    path.write_bytes(b"comfytunnel nodes 1\n" + b"\xff" * 100)
    assert (await bench.submit(wrong())).warnings == ()


def test_what_python_writes_and_json_does_not_know_is_read(tmp_path: Path) -> None:
    raw = b'{"A": {"max": Infinity, "n": [NaN, -Infinity]}, "B": {"x": "a\\ud83d\\ude00b\\udcffc"}}'
    assert shelf.put(tmp_path / "x.nodes", Told(NOW), raw) == 2
    with Shelf(tmp_path / "x.nodes") as file:
        index = file.index()
        assert file.entry(index, "A") == b'{"max": null, "n": [null, null]}'
        assert file.entry(index, "B") == b'{"x": "a\\ud83d\\ude00b\\ufffdc"}'


@pytest.mark.parametrize("raw", [b"", b"[]", b"5", b'{"A": ', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_answer_leaves_the_file_as_it_was(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "nodes" / "x.nodes"
    shelf.put(path, Told(NOW, "m"), b'{"A": {}}')
    with pytest.raises(ValueError):
        shelf.put(path, Told(NOW, "n"), raw)
    with Shelf(path) as file:
        assert (file.index().told.marker, list(path.parent.iterdir())) == ("m", [path])


def test_old_files_go(tmp_path: Path) -> None:
    for number in range(shelf.KEPT_FILES + 3):
        shelf.put(tmp_path / f"{number}.nodes", Told(NOW), b"{}")
    assert len(list(tmp_path.iterdir())) == shelf.KEPT_FILES


async def test_an_answer_that_is_too_long_is_not_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile far side fills neither memory nor disk, and jobs go on."""
    monkeypatch.setattr("comfytunnel.comfy.client.MAX_INFO", 1000)
    await bench.restart_far()
    bench.link_up()
    assert (await bench.ends(await bench.submit(picture()))).status is Status.SUCCEEDED
    assert not bench.scheduler.judges.of(bench.place).fresh


async def test_a_class_is_asked_for_under_its_name_alone(unused_tcp_port: int) -> None:
    """A name may hold anything: it stays one part of the path."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.match_info["name"])
        return web.json_response({})

    app = web.Application()
    app.router.add_get("/object_info/{name:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    client = Client(f"http://127.0.0.1:{unused_tcp_port}")
    try:
        for name in ("A b", "../../prompt", "x?y=1#z", "é|pysssss"):
            assert shelf.one(await client.object_info(name), name) is None
            assert asked[-1] == name
    finally:
        await client.close()
        await runner.cleanup()


async def test_a_workflow_of_the_page_is_converted_by_what_was_told_also_on_a_train(bench: Bench) -> None:
    drawn = {"nodes": [{"id": 1, "type": "DemoModel", "widgets_values": ["b.safetensors"]}], "links": []}
    await learnt(bench)
    bench.link_down()
    made = await bench.scheduler.convert(drawn, bench.place.name)
    assert made["1"]["class_type"] == "DemoModel"
    assert made["1"]["inputs"] == {"model": "b.safetensors"}
    with pytest.raises(WorkflowError, match="does not know the class") as refused:
        await bench.scheduler.convert(
            drawn | {"nodes": [{"id": 1, "type": "X", "outputs": [{"links": [1]}]}]}, None
        )
    assert refused.value.code_on_wire == "workflow_format_ui"
