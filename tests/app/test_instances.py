"""Two instances through the whole daemon: a reload brings one, takes it away in the middle of its job, and brings it back."""

from __future__ import annotations

import asyncio
import json

from comfytunnel.demo.comfyui import ComfyUI
from comfytunnel.demo.remote import Remote
from tests.app.world import DEADLINE, World, workflow
from tests.fakes.sshd import free_port


async def test_a_tunnel_comes_goes_and_comes_back_with_jobs_on_it(world: World) -> None:
    """What asks for a tunnel that is not there is refused with the nearest name; a job on one that is taken away says so, and moves by word."""
    async with ComfyUI(world.base / "second") as second:
        remote = Remote(targets={("localhost", 18188): second.port}, authorized=world.remote.authorized)
        await remote.start()
        await world.start()
        source = world.base / "workflow.json"
        source.write_text(json.dumps(workflow(1, seconds=20.0, steps=400)))
        code, _, err = await world.run("submit", str(source), "--tunnel", "defualt")
        assert (code, "Did you mean default?" in err) == (2, True)

        alone = world.config.read_text()
        both = alone + alone.replace("[tunnels.default]", "[tunnels.second]").partition("[jobs]")[0].replace(
            f"port = {world.remote.port}", f"port = {remote.port}"
        ).replace(f"localhost:{world.port}", f"localhost:{free_port()}")
        world.config.write_text(both)
        assert (await world.ask(world.client.reload))["added"] == ["second"]
        code, out, _ = await world.run("submit", str(source), "--tunnel", "second")
        job_id = out.strip()
        async with asyncio.timeout(DEADLINE):
            await second.until(lambda: job_id in second.executions)
        code, out, _ = await world.run("jobs", "--by-tunnel")
        lines = out.splitlines()
        assert lines[0].startswith("default: up")
        assert lines[1] == "  no jobs"
        assert lines[2].startswith("second: up")
        assert lines[3].startswith(f"  {job_id}")

        world.config.write_text(alone)
        assert (await world.ask(world.client.reload))["removed"] == ["second"]
        _, out, _ = await world.run("jobs", "show", job_id)
        assert "'second' is not in the config" in out
        assert f"jobs move {job_id}" in out
        assert "second: not in the config" in (await world.run("jobs", "--by-tunnel"))[1]

        code, out, err = await world.run("jobs", "move", job_id, "--to", "default")
        assert (code, job_id in out) == (0, True)
        assert "may have run there as well" in err
        async with asyncio.timeout(DEADLINE):
            await world.comfyui.until(lambda: len(world.comfyui.executions) == 1)
        world.config.write_text(both)
        await world.ask(world.client.reload)
        async with asyncio.timeout(DEADLINE):
            await second.until(lambda: not second.engine.running)
        await world.run("jobs", "cancel", job_id)
        done = await world.end_of(await world.ask(lambda: world.client.job(job_id)))
        assert done.status == "canceled"
        assert done.comfytunnel is not None
        assert (done.comfytunnel.executions, done.comfytunnel.moves) == (2, 1)
        await world.stop()
        await remote.stop()
