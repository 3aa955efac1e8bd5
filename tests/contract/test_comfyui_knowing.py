"""What we rely on to know how a job stands: queue, history, jobs, interrupts, probes, and how a restart shows."""

from __future__ import annotations

import uuid
from typing import Any

import aiohttp
import pytest

from comfytunnel.demo.comfyui import ComfyUI
from tests.contract.conftest import Far, looks


async def test_a_job_is_never_between_queue_and_history(far: Far) -> None:
    """Who reads /queue first and then /history/{id} finds an accepted job at every look."""
    prompt_id = await far.submit(far.slow(8))
    async for _ in looks():
        queue = await far.get("/queue")
        found = [item for part in queue.values() for item in part if item[1] == prompt_id]
        entry = await far.get(f"/history/{prompt_id}")
        assert found or entry
        if entry:
            return


async def test_queue_items_are_five_tuples(far: Far) -> None:
    """A queue item is number, id, workflow, extra_data, outputs; nothing else leaks."""
    running = await far.submit(far.slow())
    await far.running(running)
    waiting = await far.submit(far.picture(), extra_data={"mine": 1})
    queue = await far.get("/queue")
    assert set(queue) == {"queue_running", "queue_pending"}
    [item] = queue["queue_pending"]
    assert item[1] == waiting
    assert item[2]["2"]["class_type"] == "SaveImage"
    assert item[3]["mine"] == 1
    assert item[4] == ["2"]
    assert len(item) == len(queue["queue_running"][0]) == 5


async def test_pending_order_is_number_then_id(far: Far) -> None:
    """queue_pending is a heap; sorted by (number, id) it is the order of execution."""
    blocker = await far.submit(far.slow())
    await far.running(blocker)
    submitted = [await far.submit(far.picture()) for _ in range(6)]
    submitted.insert(0, await far.submit(far.picture(), front=True))
    pending = (await far.get("/queue"))["queue_pending"]
    assert [item[1] for item in sorted(pending, key=lambda item: (item[0], item[1]))] == submitted
    await far.post("/interrupt", {"prompt_id": blocker})
    entries = [await far.finished(prompt_id) for prompt_id in submitted]
    started = [dict(entry["status"]["messages"])["execution_start"]["timestamp"] for entry in entries]
    assert started == sorted(started)


async def test_unknown_id_is_an_empty_object(far: Far) -> None:
    """/history/{unknown} is 200 {}."""
    assert await far.get(f"/history/{uuid.uuid4()}") == {}


async def test_history_entry_of_a_success(far: Far) -> None:
    """A finished job has outputs, a status with its messages, and success."""
    entry = await far.run(far.picture())
    assert entry["status"]["status_str"] == "success"
    assert entry["status"]["completed"] is True
    events = [event for event, _ in entry["status"]["messages"]]
    assert events == ["execution_start", "execution_cached", "execution_success"]
    assert all(isinstance(data["timestamp"], int) for _, data in entry["status"]["messages"])
    subfolder = f"contract/{far.nonce}"
    assert entry["outputs"] == {
        "2": {"images": [{"filename": "p_00001_.png", "subfolder": subfolder, "type": "output"}]}
    }


async def test_history_entry_of_an_error(far: Far) -> None:
    """A node that raises: status error, and execution_error with the node, the exception and a traceback."""
    graph = far.picture()
    graph["2"]["inputs"]["filename_prefix"] = f"../../{far.nonce}"
    entry = await far.run(graph)
    assert entry["status"]["status_str"] == "error"
    assert entry["status"]["completed"] is False
    assert entry["outputs"] == {}
    event, error = entry["status"]["messages"][-1]
    assert event == "execution_error"
    assert error["node_id"] == "2"
    assert error["node_type"] == "SaveImage"
    assert error["executed"] == ["1"]
    assert isinstance(error["exception_message"], str)
    assert isinstance(error["exception_type"], str)
    assert 'File "' in error["traceback"][0]
    assert set(error["current_inputs"]) >= {"images", "filename_prefix"}


async def test_deleted_pending_job_leaves_no_trace(far: Far) -> None:
    """POST /queue delete takes a waiting job away: it is in neither queue nor history afterwards."""
    await far.running(await far.submit(far.slow()))
    waiting = await far.submit(far.picture())
    status, _ = await far.post("/queue", {"delete": [waiting, str(uuid.uuid4())]})
    assert status == 200
    assert (await far.get("/queue"))["queue_pending"] == []
    assert await far.get(f"/history/{waiting}") == {}


async def test_clear_spares_the_running_job(far: Far) -> None:
    """POST /queue clear empties what waits and leaves what runs."""
    running = await far.submit(far.slow())
    await far.running(running)
    await far.submit(far.picture())
    await far.post("/queue", {"clear": True})
    queue = await far.get("/queue")
    assert queue["queue_pending"] == []
    assert [item[1] for item in queue["queue_running"]] == [running]


@pytest.mark.parametrize("named", [True, False], ids=["with id", "without id"])
async def test_interrupt_stops_the_running_job(far: Far, named: bool) -> None:
    """An interrupted job ends as an error with an execution_interrupted message."""
    running = await far.submit(far.slow())
    await far.running(running)
    status, _ = await far.post("/interrupt", {"prompt_id": running} if named else {})
    assert status == 200
    entry = await far.finished(running)
    assert entry["status"]["status_str"] == "error"
    assert entry["status"]["completed"] is False
    event, data = entry["status"]["messages"][-1]
    assert event == "execution_interrupted"
    assert {"prompt_id", "node_id", "node_type", "executed", "timestamp"} == set(data)


async def test_interrupt_of_another_id_changes_nothing(far: Far) -> None:
    """/interrupt with the id of a job that does not run is 200 and spares the one that does."""
    running = await far.submit(far.slow(6))
    await far.running(running)
    status, _ = await far.post("/interrupt", {"prompt_id": str(uuid.uuid4())})
    assert status == 200
    assert (await far.finished(running))["status"]["status_str"] == "success"


async def test_interrupt_without_a_running_job_is_forgotten(far: Far) -> None:
    """/interrupt while nothing runs does not hit the next job."""
    assert (await far.post("/interrupt", {}))[0] == 200
    assert (await far.run(far.picture()))["status"]["status_str"] == "success"


async def test_history_can_be_deleted_and_paged(far: Far) -> None:
    """POST /history delete forgets one entry; max_items gives the newest ones."""
    first, second = far.picture(), far.picture()
    older, newer = await far.submit(first), await far.submit(second)
    await far.finished(newer)
    assert list(await far.get("/history?max_items=1")) == [newer]
    assert list(await far.get("/history"))[-2:] == [older, newer]
    await far.post("/history", {"delete": [older]})
    assert await far.get(f"/history/{older}") == {}
    assert newer in await far.get("/history")


async def test_jobs_tell_every_state(far: Far) -> None:
    """/api/jobs and /api/jobs/{id} show pending, in_progress, cancelled, completed and failed jobs."""
    bad = far.picture()
    bad["2"]["inputs"]["filename_prefix"] = "../../x"
    failed, completed = await far.submit(bad), await far.submit(far.picture())
    await far.finished(completed)
    running = await far.submit(far.slow())
    await far.running(running)
    pending = await far.submit(far.picture())
    cancelled = running
    expected = {failed: "failed", completed: "completed", running: "in_progress", pending: "pending"}
    for prompt_id, state in expected.items():
        job = await far.get(f"/api/jobs/{prompt_id}")
        assert (job["id"], job["status"]) == (prompt_id, state)
    listed = await far.get("/api/jobs")
    assert {job["id"]: job["status"] for job in listed["jobs"]}.items() >= expected.items()
    assert set(listed["pagination"]) == {"offset", "limit", "total", "has_more"}
    assert await _cancel(far, pending) == {"cancelled": True}
    assert await _cancel(far, cancelled) == {"cancelled": True}
    await far.finished(cancelled)
    assert (await far.get(f"/api/jobs/{cancelled}"))["status"] == "cancelled"
    assert await far.get(f"/history/{pending}") == {}


async def test_finished_job_has_outputs_and_times(far: Far) -> None:
    """/api/jobs/{id} of a finished job holds outputs, status, workflow and times in milliseconds."""
    prompt_id = await far.submit(far.picture())
    entry = await far.finished(prompt_id)
    job = await far.get(f"/api/jobs/{prompt_id}")
    assert job["outputs"] == entry["outputs"]
    assert job["execution_status"] == entry["status"]
    assert job["workflow"]["prompt"] == entry["prompt"][2]
    assert job["create_time"] <= job["execution_start_time"] <= job["execution_end_time"]
    assert job["outputs_count"] == 1
    assert job["preview_output"]["filename"] == "p_00001_.png"


async def test_unknown_job_is_404_and_cancel_a_no_op(far: Far) -> None:
    """/api/jobs/{unknown} is a JSON 404; cancelling it is 200 with cancelled false."""
    unknown = str(uuid.uuid4())
    async with far.session.get(f"{far.url}/api/jobs/{unknown}") as answer:
        assert answer.status == 404
        assert answer.content_type == "application/json"
    assert await _cancel(far, unknown) == {"cancelled": False}


@pytest.mark.parametrize("query", ["status=odd", "limit=0", "limit=x", "sort_by=odd", "sort_order=odd"])
async def test_bad_job_query_is_400(far: Far, query: str) -> None:
    """A query that /api/jobs does not understand is a 400 with a reason."""
    async with far.session.get(f"{far.url}/api/jobs?{query}") as answer:
        assert answer.status == 400
        assert "error" in await answer.json()


async def test_odd_extra_data_breaks_the_job_list(far: Far) -> None:
    """One job whose extra_pnginfo is no object makes /api/jobs a 500 for all; /history still answers."""
    prompt_id = await far.submit(far.picture(), extra_data={"extra_pnginfo": {"workflow": ["odd"]}})
    await far.finished(prompt_id)
    async with far.session.get(f"{far.url}/api/jobs") as answer:
        assert answer.status == 500
    await far.post("/history", {"delete": [prompt_id]})
    await far.get("/api/jobs")


async def test_probes(far: Far) -> None:
    """/system_stats is ComfyUI's JSON with a version, /prompt the number of jobs that are left."""
    stats = await far.get("/system_stats")
    assert isinstance(stats["system"]["comfyui_version"], str)
    assert isinstance(stats["devices"], list)
    assert await far.get("/prompt") == {"exec_info": {"queue_remaining": 0}}


@pytest.mark.parametrize(
    "path", ["/prompt", "/queue", "/history", "/object_info/SaveImage", "/system_stats", "/features"]
)
async def test_api_prefix(far: Far, path: str) -> None:
    """Every path is there with /api in front, too."""
    await far.get("/api" + path)


async def test_object_info(far: Far) -> None:
    """/object_info/{node} tells inputs, outputs and whether the node is an output; an unknown node is {}."""
    info = (await far.get("/object_info/SaveImage"))["SaveImage"]
    assert info["output_node"] is True
    assert info["input"]["required"]["images"][0] == "IMAGE"
    assert info["input"]["required"]["filename_prefix"][0] == "STRING"
    assert info["input_order"]["required"] == ["images", "filename_prefix"]
    everything = await far.get("/object_info")
    assert set(everything) >= {
        "EmptyImage",
        "ImageInvert",
        "ImageScale",
        "LoadImage",
        "SaveImage",
        "PreviewImage",
    }
    assert everything["SaveImage"] == info
    assert await far.get("/object_info/NoSuchNode") == {}


async def test_classes_of_the_past_are_told_apart(far: Far) -> None:
    """/node_replacements tells, by their names, classes that are gone and are taken all the same; /object_info does not have them."""
    replaced = await far.get("/node_replacements")
    assert all(found[0]["old_node_id"] == name for name, found in replaced.items())
    assert replaced.keys() - (await far.get("/object_info")).keys()


async def test_object_info_is_not_compressed(far: Far) -> None:
    """The big answers come as they are, though the client would take gzip."""
    async with far.session.get(f"{far.url}/object_info", headers={"Accept-Encoding": "gzip"}) as answer:
        assert "Content-Encoding" not in answer.headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "SELF"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 200),
        ({"Host": "evil.example"}, 200),
        ({"Host": "evil.example", "Origin": "http://other.example"}, 200),
    ],
)
async def test_origin_check(far: Far, headers: dict[str, str], status: int) -> None:
    """A loopback Host and another Origin is 403; a rebound Host gets through."""
    headers = {key: far.url if value == "SELF" else value for key, value in headers.items()}
    async with far.session.get(f"{far.url}/queue", headers=headers) as answer:
        assert answer.status == status


async def test_restart_loses_queue_history_and_temp(far: Far, server: ComfyUI) -> None:
    """A new process knows nothing: queue, history and number are gone, temp/ is wiped, output/ and input/ stay."""
    done = await far.submit(far.picture())
    await far.finished(done)
    form = aiohttp.FormData({"type": "temp"})
    form.add_field("image", b"nonce", filename=f"{far.nonce}.txt")
    async with far.session.post(f"{far.url}/upload/image", data=form) as answer:
        assert answer.status == 200
    mark = f"{far.url}/view?filename={far.nonce}.txt&type=temp"
    async with far.session.head(mark) as answer:
        assert answer.status == 200
    await far.running(await far.submit(far.slow()))
    await far.submit(far.picture())
    await server.restart()
    assert await far.get("/queue") == {"queue_running": [], "queue_pending": []}
    assert await far.get("/history") == {}
    async with far.session.head(mark) as answer:
        assert answer.status == 404
    assert (await far.post("/prompt", {"prompt": far.picture()}))[1]["number"] == 0
    async with far.session.head(
        f"{far.url}/view?filename=p_00001_.png&subfolder=contract/{far.nonce}"
    ) as answer:
        assert answer.status == 200


async def test_number_with_a_used_id_kills_the_worker(far: Far, server: ComfyUI) -> None:
    """Queued items with equal number and id: 500 and queued all the same; then nothing runs again, while HTTP goes on."""
    blocker = await far.submit(far.slow(6))
    await far.running(blocker)
    body = {"prompt": far.picture(), "prompt_id": str(uuid.uuid4()), "number": 7}
    statuses = [(await far.post("/prompt", {**body, "prompt": far.picture()}))[0] for _ in range(3)]
    assert statuses == [200, 500, 500]
    assert len((await far.get("/queue"))["queue_pending"]) == 3
    await far.finished(blocker)
    await far.submit(far.picture())
    for _ in range(20):
        assert (await far.get("/prompt"))["exec_info"]["queue_remaining"] >= 3
    assert server.executions == [blocker]


async def _cancel(far: Far, prompt_id: str) -> Any:
    async with far.session.post(f"{far.url}/api/jobs/{prompt_id}/cancel") as answer:
        assert answer.status == 200
        return await answer.json()
