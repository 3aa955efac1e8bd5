"""POST /api/generate through the whole daemon, as a page or a script asks: over the port, on a train, and over a kill -9."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import aiohttp
from PIL import Image

from tests.app.test_web import write
from tests.app.world import DEADLINE, World
from tests.fakes.sshd import free_port

GRAPH = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 5, "seed": 1},
        "_meta": {"title": "Colour"},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "named"}},
}
INVERTED = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "inverted"}},
}


def lay(world: World, name: str, graph: dict[str, Any]) -> None:
    folder = world.config.parent / "workflows"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(graph))


async def ask(http: aiohttp.ClientSession, port: int, **body: Any) -> tuple[int, Any]:
    async with http.post(f"http://localhost:{port}/api/generate", json=body) as answer:
        return answer.status, await answer.json()


async def test_a_page_gets_its_picture_in_one_call_and_what_comfyui_knows_bounds_the_values(
    world: World,
) -> None:
    port = free_port()
    write(world, port)
    lay(world, "colour", GRAPH)
    lay(world, "inverted", INVERTED)
    await world.start()
    await world.until(lambda: list((world.base / "state" / "nodes").glob("*.nodes")), bool)
    async with aiohttp.ClientSession() as http:
        async with http.get(f"http://localhost:{port}/v1/workflows/colour") as answer:
            found = {each["name"]: each for each in (await answer.json())["parameters"]}
        assert found["colour"]["max"] == 0xFFFFFF
        status, told = await ask(http, port, workflow="colour", params={"colour": 0x1000000})
        assert (status, told["error"]["details"]["path"]) == (422, "$.params.colour")

        values = {"colour": 0x102030, "width": 32}
        status, job = await ask(http, port, workflow="colour", params=values, wait=DEADLINE)
        assert (status, job["status"]) == (200, "succeeded")
        async with http.get(job["outputs"][0]["url"]) as answer:
            with Image.open(io.BytesIO(await answer.read())) as image:
                assert (image.size, image.convert("RGB").getpixel((0, 0))) == ((32, 64), (0x10, 0x20, 0x30))
        drawn = job["comfytunnel"]["generated"]["params"]
        assert drawn == {**values, "seed": drawn["seed"]}

        data = io.BytesIO()
        Image.new("RGB", (8, 8), (1, 2, 3)).save(data, format="PNG")
        url = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
        status, job = await ask(http, port, workflow="inverted", images={"image": url}, wait=DEADLINE)
        assert (status, job["status"]) == (200, "succeeded")
        async with http.get(job["outputs"][0]["url"]) as answer:
            with Image.open(io.BytesIO(await answer.read())) as image:
                assert image.convert("RGB").getpixel((0, 0)) == (254, 253, 252)

        async with http.post(f"http://localhost:{port}/v1/jobs/{job['id']}/retry") as answer:
            again = await answer.json()
        assert again["comfytunnel"]["generated"] == job["comfytunnel"]["generated"]


async def test_on_a_train_the_job_waits_with_its_seed_and_runs_when_there_is_a_way(world: World) -> None:
    """The daemon dies meanwhile."""
    port = free_port()
    write(world, port)
    lay(world, "colour", GRAPH)
    await world.comfyui.stop()
    await world.start(serving=False)
    async with aiohttp.ClientSession() as http:
        status, job = await ask(http, port, workflow="colour", params={"width": 16}, wait=0.1)
    assert (status, job["status"]) == (202, "queued")
    assert job["comfytunnel"]["waits_for"]["code"] != "queue"
    seed = job["comfytunnel"]["generated"]["params"]["seed"]
    await world.kill()
    await world.comfyui.start()
    world.remote.targets[("localhost", 18188)] = world.comfyui.port
    await world.start()
    ended = await world.end_of(await world.ask(lambda: world.client.job(job["id"])))
    assert ended.status == "succeeded"
    assert ended.comfytunnel is not None
    assert ended.comfytunnel.generated is not None
    assert ended.comfytunnel.generated.params == {"width": 16, "seed": seed}


async def test_a_graph_of_comfyuis_page_is_converted_by_what_was_told_of_the_nodes(world: World) -> None:
    """By a tunnel that is down too; where none has told yet, and for one that is not there, the reason is said."""
    port = free_port()
    write(world, port)
    drawn = {
        "nodes": [
            {"id": 1, "type": "EmptyImage", "outputs": [{"links": [1]}], "widgets_values": [16, 16, 1, 5]},
            {
                "id": 2,
                "type": "SaveImage",
                "inputs": [{"name": "images", "type": "IMAGE", "link": 1}],
                "widgets_values": ["drawn"],
            },
        ],
        "links": [[1, 1, 0, 2, 0, "IMAGE"]],
    }
    await world.comfyui.stop()
    await world.start(serving=False)
    async with aiohttp.ClientSession() as http:
        status, told = await ask(http, port, workflow=drawn)
        assert (status, told["error"]["code"]) == (422, "workflow_format_ui")
        assert "no ComfyUI has told yet" in told["error"]["message"]
        assert "Export (API)" in told["error"]["details"]["hint"]
        status, told = await ask(http, port, workflow=drawn, comfytunnel={"tunnel": "other"})
        assert (status, told["error"]["code"]) == (422, "unknown_tunnel")
        await world.comfyui.start()
        world.remote.targets[("localhost", 18188)] = world.comfyui.port
        await world.until(lambda: list((world.base / "state" / "nodes").glob("*.nodes")), bool)
        await world.ask(lambda: world.client.down("default"))
        status, job = await ask(http, port, workflow=drawn, params={"width": 32})
        assert (status, job["comfytunnel"]["waits_for"]["code"]) == (202, "down_on_purpose"), job
        await world.ask(lambda: world.client.up("default"))
    ended = await world.end_of(await world.ask(lambda: world.client.job(job["id"])))
    assert ended.outputs[0].comfytunnel is not None
    with Image.open(ended.outputs[0].comfytunnel.path) as image:
        assert image.size == (32, 16)
