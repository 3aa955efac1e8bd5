"""Webhooks through the whole daemon, a process that is killed: what was due before is told after."""

from __future__ import annotations

import asyncio
import json
import socket
import stat

from aiohttp import web

from comfytunnel import wire
from tests.app.world import DEADLINE, World, workflow
from tests.fakes.receiver import receiving
from tests.fakes.sshd import free_port


def hook_of(job: wire.Job) -> wire.Webhook:
    assert job.comfytunnel is not None
    assert job.comfytunnel.webhook is not None
    return job.comfytunnel.webhook


async def test_an_undelivered_webhook_survives_kill_9_and_is_delivered_by_the_next_daemon(
    world: World,
) -> None:
    port = free_port()
    await world.start()
    job = await world.ask(lambda: world.client.submit(workflow(7), webhook=f"http://127.0.0.1:{port}/done"))
    assert hook_of(job).state == "waiting"
    assert (await world.end_of(job)).status == "succeeded"
    pending = await world.until(lambda: hook_of(world.client.job(job.id)), lambda hook: hook.attempts > 0)
    assert (pending.state, pending.delivered_at) == ("pending", None)
    assert pending.last_error
    await world.kill()
    async with receiving(port=port) as receiver:
        await world.start(serving=False)
        [got] = await receiver.until(1)
        done = await world.until(
            lambda: hook_of(world.client.job(job.id)), lambda hook: hook.state != "pending"
        )
    assert (done.state, done.last_error) == ("delivered", None)
    secret = world.base / "state" / "webhook.secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert got.is_signed_with(secret.read_text().strip())
    assert (got.path, got.id) == ("/done", f"msg_{job.id}")
    assert (got.json["type"], got.json["data"]["id"], got.json["data"]["status"]) == (
        "job.succeeded",
        job.id,
        "succeeded",
    )
    assert got.json["data"]["outputs"][0]["comfytunnel"]["path"].endswith(".png")


async def test_a_daemon_that_is_killed_while_the_receiver_thinks_tells_it_again_under_the_same_id(
    world: World,
) -> None:
    async with receiving(world.base / "me.sock") as receiver:
        asked, never = asyncio.Event(), asyncio.Event()

        async def think(_: web.Request) -> web.StreamResponse:
            asked.set()
            await never.wait()
            raise AssertionError

        receiver.answers = [think]
        await world.start(serving=False)
        job = await world.ask(lambda: world.client.submit(workflow(8), webhook=receiver.url))
        await world.ask(lambda: world.client.cancel(job.id))
        async with asyncio.timeout(DEADLINE):
            await asked.wait()
        await world.kill()
        await world.start(serving=False)
        first, second = await receiver.until(2)
        assert first.id == second.id == f"msg_{job.id}"
        assert first.body == second.body
        assert second.json["type"] == "job.canceled"


async def test_run_and_submit_take_a_webhook_and_jobs_show_says_what_became_of_it(world: World) -> None:
    (world.base / "w.json").write_text(json.dumps(workflow(9)))
    async with receiving() as receiver:
        await world.start()
        code, out, err = await world.run("run", str(world.base / "w.json"), "--webhook", receiver.url)
        assert (code, out.strip()[-4:]) == (0, ".png"), err
        [got] = await receiver.until(1)
        job_id = got.json["data"]["id"]
        await world.until(lambda: hook_of(world.client.job(job_id)), lambda hook: hook.state == "delivered")
        code, out, _ = await world.run("jobs", "show", job_id)
        assert f"webhook    {receiver.url}: delivered" in out
    code, _, err = await world.run("submit", str(world.base / "w.json"), "--webhook", "gopher://x")
    assert code == 2
    assert "unix:/PATH" in err


async def test_a_receiver_that_does_not_answer_keeps_no_daemon_from_stopping(world: World) -> None:
    """Nor does an address that is only dropped: what was under way is tried again by the next daemon."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        await world.start(serving=False)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        job = await world.ask(lambda: world.client.submit(workflow(1), webhook=url))
        await world.ask(lambda: world.client.cancel(job.id))
        connection, _ = await asyncio.to_thread(silent.accept)
        with connection:
            assert await world.stop() < 2.0
        assert world.process is not None
        assert world.process.returncode == 0
