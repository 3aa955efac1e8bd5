"""A workflow with a slip in it, through the whole daemon: told at once on the road, on a train and after a kill -9."""

from __future__ import annotations

import json

import aiohttp

from tests.app.world import World, workflow


async def test_a_slip_is_told_at_once_also_on_a_train(world: World) -> None:
    """What ComfyUI has told is on disk: a new daemon that meets no ComfyUI goes by it."""
    slip = workflow(1)
    slip["3"]["class_type"] = "SaveImgae"
    source = world.base / "slip.json"
    source.write_text(json.dumps(slip))
    await world.start()
    await world.until(lambda: list((world.base / "state" / "nodes").glob("*.nodes")), bool)
    exit_code, out, err = await world.run("submit", str(source))
    assert (exit_code, out) == (2, "")
    assert "Node 3 (SaveImgae): Node 'SaveImgae' not found." in err
    assert "Did you mean 'SaveImage'?" in err

    await world.kill()
    await world.comfyui.stop()
    await world.start(serving=False)
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(world.client.socket_path))) as http,
        http.post("http://localhost/api/v2/jobs", json={"workflow": slip}) as answer,
    ):
        error = (await answer.json())["error"]
    assert (answer.status, error["code"]) == (422, "invalid_workflow")
    [problem] = error["details"]["node_errors"]["3"]
    assert (problem["reason"], problem["close_matches"]) == ("missing_node_type", ["SaveImage"])
    assert '"validate": false' in error["details"]["hint"]

    newer = workflow(2)
    newer["5"] = {"class_type": "NodeOfTomorrow", "inputs": {}}
    job = await world.submit(newer)
    assert job.comfytunnel is not None
    assert "NodeOfTomorrow" in job.comfytunnel.warnings[1]


async def test_a_warning_is_said_where_the_job_is_submitted(world: World) -> None:
    await world.start()
    await world.until(lambda: list((world.base / "state" / "nodes").glob("*.nodes")), bool)
    graph = workflow(1)
    graph["10"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}}
    source = world.base / "w.json"
    source.write_text(json.dumps(graph))
    exit_code, out, err = await world.run("submit", str(source))
    assert (exit_code, len(out.split())) == (0, 1)
    assert "warning: ComfyUI will leave out the outputs of 10." in err
