"""What we rely on when a workflow is handed to ComfyUI: ids, refusals, what runs after a cut connection, the order."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.contract.conftest import Far, Graph, looks, save


async def test_answer_echoes_id_and_number(far: Far) -> None:
    """POST /prompt answers prompt_id, number and node_errors; the id is the one that was sent."""
    prompt_id = str(uuid.uuid4())
    status, answer = await far.post("/prompt", {"prompt": far.picture(), "prompt_id": prompt_id})
    assert status == 200
    assert answer["prompt_id"] == prompt_id
    assert answer["node_errors"] == {}
    assert isinstance(answer["number"], int)


async def test_number_counts_up(far: Far) -> None:
    """Each submission gets a higher number."""
    numbers = [(await far.post("/prompt", {"prompt": far.picture()}))[1]["number"] for _ in range(3)]
    assert numbers == [numbers[0], numbers[0] + 1, numbers[0] + 2]


@pytest.mark.parametrize("sent", [{}, {"prompt_id": None}])
async def test_server_makes_an_id(far: Far, sent: dict[str, Any]) -> None:
    """Without an id, or with null, the server makes a UUID."""
    status, answer = await far.post("/prompt", {"prompt": far.picture(), **sent})
    assert status == 200
    assert str(uuid.UUID(answer["prompt_id"])) == answer["prompt_id"]


_UUID = "5c1d6c8e-3a0f-4a77-9d5e-0b6f8f1f2a3b"


@pytest.mark.parametrize(
    "bad",
    ["job-1", "", 5, ["x"], _UUID.upper(), "{" + _UUID + "}", _UUID.replace("-", "")],
    ids=["word", "empty", "number", "list", "upper case", "braces", "no hyphens"],
)
async def test_id_must_be_canonical(far: Far, bad: Any) -> None:
    """0.33 refuses any id but a lower-case UUID with hyphens, and queues nothing."""
    before = await far.get("/history")
    status, answer = await far.post("/prompt", {"prompt": far.picture(), "prompt_id": bad})
    assert status == 400
    assert answer["error"]["type"] == "invalid_prompt_id"
    assert set(answer["error"]) == {"type", "message", "details", "extra_info"}
    assert await far.get("/prompt") == {"exec_info": {"queue_remaining": 0}}
    assert (await far.get("/history")).keys() == before.keys()


async def test_same_id_runs_twice(far: Far) -> None:
    """Nothing is deduplicated: both runs happen, history keeps the last one only."""
    prompt_id = str(uuid.uuid4())
    blocker = await far.submit(far.slow())
    await far.running(blocker)
    await far.submit(far.picture(name="first"), prompt_id=prompt_id)
    last = await far.submit(far.picture(name="second"), prompt_id=prompt_id)
    assert last == prompt_id
    pending = (await far.get("/queue"))["queue_pending"]
    assert [item[1] for item in pending] == [prompt_id, prompt_id]
    await far.post("/interrupt", {"prompt_id": blocker})
    async for _ in looks():
        if (await far.get("/prompt"))["exec_info"]["queue_remaining"] == 0:
            break
    entry = (await far.get(f"/history/{prompt_id}"))[prompt_id]
    assert entry["outputs"]["2"]["images"][0]["filename"] == "second_00001_.png"
    assert await _exists(far, "first_00001_.png")


async def test_extra_data_is_echoed(far: Far) -> None:
    """extra_data comes back in history with client_id and a create_time in milliseconds."""
    entry = await far.run(far.picture(), extra_data={"comfytunnel": {"job": "x"}})
    number, prompt_id, graph, extra, outputs = entry["prompt"]
    assert extra["comfytunnel"] == {"job": "x"}
    assert extra["client_id"] == far.client
    assert extra["create_time"] > 1_700_000_000_000
    assert outputs == ["2"]
    assert isinstance(number, int)
    assert uuid.UUID(prompt_id)
    assert graph["2"]["class_type"] == "SaveImage"


async def test_front_goes_first(far: Far) -> None:
    """front: true puts a job before those that wait, with a negative number."""
    await far.submit(far.picture())
    await far.running(await far.submit(far.slow()))
    later = await far.submit(far.picture())
    first = await far.submit(far.picture(), front=True)
    pending = sorted((await far.get("/queue"))["queue_pending"], key=lambda item: (item[0], item[1]))
    assert [item[1] for item in pending] == [first, later]
    assert pending[0][0] < 0


def _graph(**nodes: Any) -> Graph:
    return {name.lstrip("n"): node for name, node in nodes.items()}


_EMPTY: dict[str, Any] = {
    "class_type": "EmptyImage",
    "inputs": {"width": 4, "height": 4, "batch_size": 1, "color": 1},
}
_SCALE: dict[str, Any] = {
    "image": ["1", 0],
    "upscale_method": "area",
    "width": 4,
    "height": 4,
    "crop": "disabled",
}

REFUSALS: list[tuple[Any, str]] = [
    ({}, "no_prompt"),
    ({"prompt": {}}, "prompt_no_outputs"),
    ({"prompt": _graph(n1=_EMPTY)}, "prompt_no_outputs"),
    ({"prompt": _graph(n1={"class_type": "NoSuchNode", "inputs": {}})}, "missing_node_type"),
    ({"prompt": _graph(n1={"inputs": {}})}, "missing_node_type"),
    ({"prompt": _graph(n2=save("1", "x"))}, "prompt_outputs_failed_validation"),
]


@pytest.mark.parametrize(("body", "kind"), REFUSALS, ids=[str(number) for number in range(len(REFUSALS))])
async def test_refusals_are_400(far: Far, body: Any, kind: str) -> None:
    """A workflow that cannot run is refused with a typed error, and nothing is queued."""
    status, answer = await far.post("/prompt", body)
    assert status == 400
    assert answer["error"]["type"] == kind
    assert {"type", "message", "details", "extra_info"} == set(answer["error"])
    assert isinstance(answer["node_errors"], dict)


NODE_ERRORS: list[tuple[Graph, str, str]] = [
    (_graph(n1={**_EMPTY, "inputs": {**_EMPTY["inputs"], "width": 0}}, n2=save("1", "x")), "1", "value_smaller_than_min"),
    (_graph(n1={**_EMPTY, "inputs": {**_EMPTY["inputs"], "width": 99999}}, n2=save("1", "x")), "1", "value_bigger_than_max"),
    (_graph(n1={**_EMPTY, "inputs": {**_EMPTY["inputs"], "width": "x"}}, n2=save("1", "x")), "1", "invalid_input_type"),
    (_graph(n1={**_EMPTY, "inputs": {}}, n2=save("1", "x")), "1", "required_input_missing"),
    (_graph(n1=_EMPTY, n2={"class_type": "SaveImage", "inputs": {"images": ["1", 0]}}), "2", "required_input_missing"),
    (_graph(n1=_EMPTY, n2={"class_type": "SaveImage", "inputs": {"images": ["1"], "filename_prefix": "x"}}), "2", "bad_linked_input"),
    (_graph(n1=_EMPTY, n2=save("9", "x")), "2", "exception_during_validation"),
    (_graph(n1=_EMPTY, n3={"class_type": "ImageScale", "inputs": {**_SCALE, "width": ["1", 0]}}, n2=save("3", "x")), "3", "return_type_mismatch"),
    (_graph(n1=_EMPTY, n3={"class_type": "ImageScale", "inputs": {**_SCALE, "upscale_method": "magic"}}, n2=save("3", "x")), "3", "value_not_in_list"),
    (_graph(n1={"class_type": "LoadImage", "inputs": {"image": "absent.png"}}, n2=save("1", "x")), "1", "custom_validation_failed"),
    (_graph(n2=save("2", "x")), "2", "dependency_cycle"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("graph", "node", "kind"), NODE_ERRORS, ids=[f"{kind}-{node}" for _, node, kind in NODE_ERRORS]
)
async def test_node_errors_name_node_and_input(far: Far, graph: Graph, node: str, kind: str) -> None:
    """A refused workflow says which node is wrong, how, and which outputs depend on it."""
    status, answer = await far.post("/prompt", {"prompt": graph})
    assert status == 400
    assert answer["error"]["type"] == "prompt_outputs_failed_validation"
    problem = answer["node_errors"][node]
    assert kind in [error["type"] for error in problem["errors"]]
    assert all({"type", "message", "details", "extra_info"} == set(error) for error in problem["errors"])
    assert problem["dependent_outputs"] == ["2"]
    assert problem["class_type"] == graph[node]["class_type"]


async def test_bad_output_beside_a_good_one_is_skipped(far: Far) -> None:
    """200 with node_errors: the good output runs, the bad one is left out in silence."""
    graph = far.picture() | {"3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}}}
    status, answer = await far.post("/prompt", {"prompt": graph, "client_id": far.client})
    assert status == 200
    assert set(answer["node_errors"]) == {"3"}
    entry = await far.finished(answer["prompt_id"])
    assert entry["prompt"][4] == ["2"]
    assert set(entry["outputs"]) == {"2"}
    assert entry["status"]["status_str"] == "success"


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b'{"prompt": [1], "x'])
async def test_broken_json_is_500(far: Far, body: bytes) -> None:
    """A body that is not JSON is a 500, and nothing is queued."""
    async with far.session.post(f"{far.url}/prompt", data=body) as answer:
        assert answer.status == 500
    assert (await far.get("/prompt"))["exec_info"]["queue_remaining"] == 0


async def test_workflow_that_is_a_list_is_500(far: Far) -> None:
    """A prompt that is no object is a 500, not a 400."""
    status, _ = await far.post("/prompt", {"prompt": [1]})
    assert status == 500


async def test_body_limit_is_100_mb(far: Far) -> None:
    """More than 100 MB is a 413."""

    async def zeros() -> AsyncIterator[bytes]:
        for _ in range(101):
            yield bytes(1024 * 1024)

    async with far.session.post(f"{far.url}/prompt", data=zeros()) as answer:
        assert answer.status == 413


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
async def test_runs_though_the_connection_is_gone(far: Far, reset: bool) -> None:
    """Once the last byte of the body is there the job runs, whatever becomes of the connection."""
    prompt_id, head, body = _raw_prompt(far)
    writer = await _connect(far)
    writer.write(head + body)
    await writer.drain()
    if reset:
        async for _ in looks():  # the bytes must have left this host before the reset discards them
            known = json.dumps([await far.get("/queue"), await far.get("/history")])
            if prompt_id in known:
                break
        writer.transport.abort()
    else:
        writer.close()
    assert (await far.finished(prompt_id))["status"]["completed"] is True


async def test_one_byte_short_is_nothing(far: Far) -> None:
    """Without the last byte nothing is queued; when it comes later the job is queued then."""
    prompt_id, head, body = _raw_prompt(far)
    writer = await _connect(far)
    writer.write(head + body[:-1])
    await writer.drain()
    marker = await far.run(far.picture())  # a later job has come and gone: the short one had its chance
    assert marker["status"]["completed"]
    assert await far.get(f"/history/{prompt_id}") == {}
    writer.write(body[-1:])
    assert (await far.finished(prompt_id))["status"]["completed"] is True
    writer.close()


def _raw_prompt(far: Far) -> tuple[str, bytes, bytes]:
    prompt_id = str(uuid.uuid4())
    body = json.dumps({"prompt": far.picture(), "prompt_id": prompt_id}).encode()
    head = f"POST /prompt HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return prompt_id, head, body


async def _connect(far: Far) -> asyncio.StreamWriter:
    at = urlsplit(far.url)
    _, writer = await asyncio.open_connection(at.hostname, at.port)
    return writer


async def _exists(far: Far, name: str) -> bool:
    place = {"filename": name, "subfolder": f"contract/{far.nonce}", "type": "output"}
    async with far.session.head(f"{far.url}/view", params=place) as answer:
        return answer.status == 200
