"""The stand-in's faults: each does what its row in the table says, and nothing when it is off."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import struct
import sys
import uuid
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from PIL import Image

from comfytunnel.demo.comfyui import ComfyUI
from comfytunnel.demo.faults import ALWAYS, EVIL_NAMES, Faults

DEADLINE = 10.0


def picture(color: int, **more: Any) -> dict[str, Any]:
    size = {"width": 64, "height": 64, "batch_size": 1, "color": color}
    return {
        "1": {"class_type": "EmptyImage", "inputs": size},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "f"}},
    } | more


def slow(color: int, seconds: float, steps: int) -> dict[str, Any]:
    node = {"class_type": "DemoSlow", "inputs": {"image": ["1", 0], "seconds": seconds, "steps": steps}}
    graph = picture(color, s=node)
    graph["2"]["inputs"]["images"] = ["s", 0]
    return graph


async def submit(http: aiohttp.ClientSession, comfyui: ComfyUI, graph: dict[str, Any], **more: Any) -> str:
    prompt_id = str(uuid.uuid4())
    body = {"prompt": graph, "prompt_id": prompt_id, "client_id": "c", **more}
    async with http.post(f"{comfyui.url}/prompt", json=body) as answer:
        assert answer.status == 200, await answer.text()
    return prompt_id


async def finished(comfyui: ComfyUI, prompt_id: str) -> dict[str, Any]:
    async with asyncio.timeout(DEADLINE):
        await comfyui.until(lambda: prompt_id in comfyui.engine.history)
    return comfyui.engine.history[prompt_id]


async def until_over(socket: aiohttp.ClientWebSocketResponse) -> list[Any]:
    """All frames up to `executing` with node null: dicts, and bytes as they came."""
    heard: list[Any] = []
    async with asyncio.timeout(DEADLINE):
        async for message in socket:
            heard.append(
                message.data if message.type is aiohttp.WSMsgType.BINARY else json.loads(message.data)
            )
            if not isinstance(heard[-1], bytes) and heard[-1]["data"].get("node", "") is None:
                return heard
    raise AssertionError(heard)


def test_counting_switches_are_used_up() -> None:
    """1 acts once, ALWAYS until it is set back, 0 never."""
    faults = Faults(truncate_view=1, lose_interrupts=ALWAYS)
    assert [faults.take("truncate_view"), faults.take("truncate_view")] == [True, False]
    assert [faults.take("lose_interrupts"), faults.take("lose_interrupts")] == [True, True]


def test_everything_is_off_at_first() -> None:
    """A new table has no fault switched on."""
    assert not any(dataclasses.astuple(Faults()))


@pytest.mark.parametrize(("page", "status"), [("401", 401), ("redirect", 302), ("html", 200)])
async def test_html_login(comfyui: ComfyUI, http: aiohttp.ClientSession, page: Any, status: int) -> None:
    """html_login answers every path as Caddy's login page does, never with JSON."""
    comfyui.faults.html_login = page
    async with http.get(f"{comfyui.url}/system_stats", allow_redirects=False) as answer:
        assert answer.status == status
        assert answer.content_type != "application/json"
        assert (status == 302) == ("Location" in answer.headers)


async def test_starting(comfyui: ComfyUI, http: aiohttp.ClientSession) -> None:
    """starting closes each connection at once without a byte; afterwards all is well."""
    comfyui.faults.starting = True
    reader, writer = await asyncio.open_connection("127.0.0.1", comfyui.port)
    assert await reader.read() == b""
    writer.close()
    comfyui.faults.starting = False
    async with http.get(f"{comfyui.url}/prompt") as answer:
        assert answer.status == 200


async def test_slow_answers(comfyui: ComfyUI, http: aiohttp.ClientSession) -> None:
    """slow_answers lets a client's deadline pass."""
    comfyui.faults.slow_answers = 60
    with pytest.raises(TimeoutError):
        await http.get(f"{comfyui.url}/prompt", timeout=aiohttp.ClientTimeout(total=0.05))


@pytest.mark.parametrize(
    ("fault", "runs"),
    [
        ("drop_prompt_request", False),
        ("drop_prompt_response", True),
        ("reject_prompt_500", True),
        ("reject_prompt_500_unqueued", False),
    ],
)
async def test_doubtful_prompts(
    comfyui: ComfyUI, http: aiohttp.ClientSession, fault: str, runs: bool
) -> None:
    """A POST that is cut or answered with 500 runs or does not, as the fault says; the next one is fine."""
    setattr(comfyui.faults, fault, 1)
    prompt_id = str(uuid.uuid4())
    body = {"prompt": picture(1), "prompt_id": prompt_id}
    if fault.startswith("drop"):
        with pytest.raises(aiohttp.ClientConnectionError):
            await http.post(f"{comfyui.url}/prompt", json=body)
    else:
        async with http.post(f"{comfyui.url}/prompt", json=body) as answer:
            assert answer.status == 500
    after = await submit(http, comfyui, picture(2))
    await finished(comfyui, after)
    assert comfyui.executions == ([prompt_id, after] if runs else [after])
    assert comfyui.prompts_received == 2


async def test_slow_node_ticks_and_sends_previews(comfyui: ComfyUI, http: aiohttp.ClientSession) -> None:
    """DemoSlow sends progress_state, progress and a binary JPEG frame (type 1, format 1) for each step."""
    async with http.ws_connect(f"{comfyui.url}/ws?clientId=c") as socket:
        prompt_id = await submit(http, comfyui, slow(3, 0.0, 3))
        heard = await until_over(socket)
    ticks = [said["data"] for said in heard if not isinstance(said, bytes) and said["type"] == "progress"]
    assert ticks == [{"value": n, "max": 3, "prompt_id": prompt_id, "node": "s"} for n in (1, 2, 3)]
    frames = [said for said in heard if isinstance(said, bytes)]
    assert len(frames) == 3
    assert struct.unpack(">II", frames[0][:8]) == (1, 1)
    assert Image.open(io.BytesIO(frames[0][8:])).format == "JPEG"


async def test_preview_with_metadata_for_who_wants_it(comfyui: ComfyUI, http: aiohttp.ClientSession) -> None:
    """A client that names supports_preview_metadata gets frames of type 4: length, JSON, picture."""
    async with http.ws_connect(f"{comfyui.url}/ws?clientId=c") as socket:
        await socket.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
        assert (await socket.receive_json())["type"] == "status"
        assert (await socket.receive_json())["type"] == "feature_flags"
        prompt_id = await submit(http, comfyui, slow(3, 0.0, 1))
        [frame] = [said for said in await until_over(socket) if isinstance(said, bytes)]
    kind, length = struct.unpack(">II", frame[:8])
    metadata = json.loads(frame[8 : 8 + length])
    assert kind == 4
    assert (metadata["node_id"], metadata["prompt_id"]) == ("s", prompt_id)
    assert Image.open(io.BytesIO(frame[8 + length :])).format == "JPEG"


async def test_lost_interrupt(comfyui: ComfyUI, http: aiohttp.ClientSession) -> None:
    """lose_interrupts acknowledges an interrupt that has no effect; the next one acts between two steps."""
    comfyui.faults.lose_interrupts = 1
    async with http.ws_connect(f"{comfyui.url}/ws?clientId=c") as socket:
        prompt_id = await submit(http, comfyui, slow(4, 20.0, 2000))
        while (message := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
            pass
        assert message.type is aiohttp.WSMsgType.BINARY  # it runs and ticks
        await http.post(f"{comfyui.url}/interrupt", json={"prompt_id": prompt_id})
        while (await socket.receive()).type is not aiohttp.WSMsgType.BINARY:
            pass
        assert prompt_id not in comfyui.engine.history
        await http.post(f"{comfyui.url}/interrupt", json={"prompt_id": prompt_id})
        await until_over(socket)
    assert comfyui.engine.history[prompt_id]["status"]["status_str"] == "error"


async def test_late_history(comfyui: ComfyUI, http: aiohttp.ClientSession) -> None:
    """history_late keeps a job in queue_running after its execution_success."""
    comfyui.faults.history_late = 60
    async with http.ws_connect(f"{comfyui.url}/ws?clientId=c") as socket:
        prompt_id = await submit(http, comfyui, picture(5))
        while (await socket.receive_json())["type"] != "execution_success":
            pass
        async with http.get(f"{comfyui.url}/history/{prompt_id}") as answer:
            assert await answer.json() == {}
        async with http.get(f"{comfyui.url}/queue") as answer:
            assert (await answer.json())["queue_running"][0][1] == prompt_id


async def test_huge_output_is_still_a_picture(comfyui: ComfyUI, http: aiohttp.ClientSession) -> None:
    """huge_output pads the PNG; it decodes as before."""
    comfyui.faults.huge_output = 3_000_000
    await finished(comfyui, await submit(http, comfyui, picture(6)))
    async with http.get(f"{comfyui.url}/view?filename=f_00001_.png") as answer:
        body = await answer.read()
    assert len(body) > 3_000_000
    Image.open(io.BytesIO(body)).load()


async def test_many_and_evil_outputs(comfyui: ComfyUI, http: aiohttp.ClientSession) -> None:
    """many_outputs and evil_filename change what history names; /view then serves bytes for any name."""
    comfyui.faults.many_outputs = 500
    comfyui.faults.evil_filename = EVIL_NAMES
    prompt_id = await submit(http, comfyui, picture(7))
    await finished(comfyui, prompt_id)
    async with http.get(f"{comfyui.url}/history/{prompt_id}") as answer:
        files = (await answer.json())[prompt_id]["outputs"]["2"]["images"]
    assert files[: len(EVIL_NAMES)] == [dict(name) for name in EVIL_NAMES]
    assert len(files) == len(EVIL_NAMES) + 500
    async with http.get(f"{comfyui.url}/view", params={"filename": "../../evil.png"}) as answer:
        assert answer.status == 200


async def test_missing_output(comfyui: ComfyUI, http: aiohttp.ClientSession) -> None:
    """missing_output turns every file in output/ into a 404."""
    await finished(comfyui, await submit(http, comfyui, picture(8)))
    comfyui.faults.missing_output = True
    async with http.get(f"{comfyui.url}/view?filename=f_00001_.png") as answer:
        assert answer.status == 404


@pytest.mark.parametrize("asked", ["", "bytes=100-", "bytes=-50"])
async def test_truncated_view(comfyui: ComfyUI, http: aiohttp.ClientSession, asked: str) -> None:
    """truncate_view announces the whole length, with the true ETag, sends half and closes; the next one is whole."""
    await finished(comfyui, await submit(http, comfyui, picture(9)))
    url, headers = f"{comfyui.url}/view?filename=f_00001_.png", {"Range": asked} if asked else {}
    async with http.get(url, headers=headers) as answer:
        whole = await answer.read()
        expected = {key: answer.headers[key] for key in ("Content-Length", "ETag", "Last-Modified")}
        status, span = answer.status, answer.headers.get("Content-Range")
    comfyui.faults.truncate_view = 1
    async with http.get(url, headers=headers) as answer:
        assert (answer.status, answer.headers.get("Content-Range")) == (status, span)
        assert {key: answer.headers[key] for key in expected} == expected
        assert await answer.content.readexactly(len(whole) // 2) == whole[: len(whole) // 2]
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.readany()
    async with http.get(url, headers=headers) as answer:
        assert await answer.read() == whole


async def test_silent_websocket(comfyui: ComfyUI, http: aiohttp.ClientSession) -> None:
    """silent_websocket leaves the socket open and answering pings, but without events after the first."""
    comfyui.faults.silent_websocket = True
    async with http.ws_connect(f"{comfyui.url}/ws?clientId=c", autoping=False) as socket:
        assert (await socket.receive_json())["type"] == "status"
        await finished(comfyui, await submit(http, comfyui, picture(10)))
        await socket.ping()
        assert (await socket.receive()).type is aiohttp.WSMsgType.PONG


async def test_cut_websocket(comfyui: ComfyUI, http: aiohttp.ClientSession) -> None:
    """cut_websockets ends the next websocket at once; the one after it works."""
    comfyui.faults.cut_websockets = 1
    async with http.ws_connect(f"{comfyui.url}/ws") as socket:
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSED
    async with http.ws_connect(f"{comfyui.url}/ws") as socket:
        assert (await socket.receive_json())["type"] == "status"


async def test_failing_node_tells_a_traceback_with_server_paths(
    comfyui: ComfyUI, http: aiohttp.ClientSession
) -> None:
    """DemoFail ends a job as an error with its message and a traceback."""
    fail = {"class_type": "DemoFail", "inputs": {"image": ["1", 0], "message": "boom"}}
    graph = picture(11, f=fail)
    graph["2"]["inputs"]["images"] = ["f", 0]
    entry = await finished(comfyui, await submit(http, comfyui, graph))
    event, error = entry["status"]["messages"][-1]
    assert event == "execution_error"
    assert (error["node_id"], error["node_type"], error["exception_message"]) == ("f", "DemoFail", "boom\n")
    assert any("nodes.py" in line for line in error["traceback"])


async def test_client_id_as_a_list_kills_the_server(comfyui: ComfyUI, http: aiohttp.ClientSession) -> None:
    """A clientId that is no string ends the process: nothing listens any more (seen on a real 0.33)."""
    async with http.ws_connect(f"{comfyui.url}/ws?clientId=c") as socket:
        assert (await socket.receive_json())["type"] == "status"
        await submit(http, comfyui, picture(12), client_id=["x"])
        async with asyncio.timeout(DEADLINE):
            while (await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
    with pytest.raises(aiohttp.ClientConnectionError):
        await http.get(f"{comfyui.url}/prompt")


async def test_old_versions(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """0.3.64 takes any prompt_id and has no /api/jobs; 0.3.40 ignores the id."""
    async with ComfyUI(tmp_path, version="0.3.64") as comfyui:
        async with http.post(
            f"{comfyui.url}/prompt", json={"prompt": picture(1), "prompt_id": "mine"}
        ) as answer:
            assert (await answer.json())["prompt_id"] == "mine"
        async with http.get(f"{comfyui.url}/api/jobs") as answer:
            assert answer.status == 404
    async with ComfyUI(tmp_path, version="0.3.40") as comfyui:
        url, body = f"{comfyui.url}/prompt", {"prompt": picture(1), "prompt_id": "mine"}
        answer = await http.post(url, json=body)
        assert uuid.UUID((await answer.json())["prompt_id"])


async def test_taken_port_leaves_nothing_behind(comfyui: ComfyUI, tmp_path: Path) -> None:
    """start() on a taken port raises, and works on another one afterwards."""
    async with asyncio.timeout(DEADLINE):
        second = ComfyUI(tmp_path / "second")
        with pytest.raises(OSError, match="in use"):
            await second.start(port=comfyui.port)
        assert await second.start() != comfyui.port
        await second.stop()


async def test_runs_as_a_process(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """python -m comfytunnel.demo.comfyui says where it listens in one line, serves, and ends on SIGTERM with 0."""
    command = [sys.executable, "-m", "comfytunnel.demo.comfyui", "--base", str(tmp_path)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE):
        line = (await process.stdout.readline()).decode()
        assert line.startswith("listening on http://127.0.0.1:")
        async with http.get(line.split()[-1] + "/prompt") as answer:
            assert answer.status == 200
        process.terminate()
        assert await process.wait() == 0
