"""The queue through the whole daemon: what a job waits for on a real road, orders from the command line, all of it over kill -9."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from comfytunnel import wire
from tests.app.world import World, workflow


def waits_for(job: wire.Job) -> wire.WaitsFor | None:
    return job.comfytunnel.waits_for if job.comfytunnel else None


def code(job: wire.Job) -> str | None:
    waits = waits_for(job)
    return waits.code if waits else None


async def stop_comfyui(world: World) -> None:
    await world.comfyui.stop()


async def no_server(world: World) -> None:
    await world.remote.unbind()


async def no_key(world: World) -> None:
    world.remote.authorized.clear()


async def busy_relay(world: World) -> None:
    world.remote.refuse_connections = True


async def another_host(world: World) -> None:
    (world.base / "known_hosts").write_text(world.remote.known_hosts_line + "\n")
    world.remote.change_host_key()


@pytest.mark.parametrize(
    ("trouble", "wanted"),
    [
        (no_server, "connect_refused"),
        (busy_relay, "connect_reset"),
        (no_key, "auth_denied"),
        (another_host, "host_key_changed"),
        (stop_comfyui, "comfyui_starting"),
    ],
)
async def test_a_waiting_job_names_the_trouble_and_since_when(
    world: World, trouble: Callable[[World], Awaitable[None]], wanted: str
) -> None:
    """And one that fails fast ends with that reason."""
    await trouble(world)
    began = datetime.now(UTC)
    await world.start(serving=False)
    first = await world.submit(workflow(1))
    seen = await world.until(lambda: world.client.job(first.id), lambda job: code(job) == wanted)
    noticed = datetime.now(UTC)
    waits = waits_for(seen)
    assert waits is not None
    assert waits.message
    assert began < waits.since < noticed
    later = waits_for(await world.submit(workflow(2)))
    assert later is not None
    assert (later.code, later.since >= noticed) == (wanted, True)  # not since before it was there
    hasty = await world.ask(lambda: world.client.submit(workflow(3), fail_fast=True))
    assert (hasty.status, hasty.error.code if hasty.error else "") == ("failed", "fail_fast")
    assert hasty.error is not None
    assert waits.message in hasty.error.message


async def test_a_tunnel_that_is_down_on_purpose_and_one_behind_others_say_so(world: World) -> None:
    await world.start()
    jobs = [await world.submit(workflow(n, seconds=1.0)) for n in range(4)]
    await world.until(lambda: world.client.job(jobs[3].id), lambda job: code(job) == "queue")
    await world.ask(lambda: world.client.down("default"))
    await world.until(lambda: world.client.job(jobs[3].id), lambda job: code(job) == "down_on_purpose")
    await world.ask(lambda: world.client.up("default"))
    for job in jobs:
        assert (await world.end_of(job)).status == "succeeded"


async def test_a_pause_outlives_kill_9_and_is_ended_from_the_command_line(world: World) -> None:
    await world.start()
    assert (await world.run("queue", "pause"))[1].startswith("paused")
    jobs = [await world.submit(workflow(n)) for n in range(3)]
    await world.ask(lambda: world.client.move(jobs[2].id, to="front"))
    await world.ask(lambda: world.client.prioritise(jobs[0].id, -5))
    await world.kill()
    await world.start()
    _, out, _ = await world.run("queue", "--json")
    assert (json.loads(out)["state"], json.loads(out)["waiting"]) == ("paused", 3)
    assert "comfytunnel queue resume" in (await world.run("status"))[1]
    seen = await world.ask(lambda: world.client.job(jobs[2].id))
    assert (code(seen), seen.queue_position) == ("paused", 0)
    assert (await world.run("queue", "resume"))[1].startswith("open")
    for job in jobs:
        assert (await world.end_of(job)).status == "succeeded"
    assert world.comfyui.executions == [jobs[2].id, jobs[1].id, jobs[0].id]


async def test_a_drain_comes_to_its_end_and_refuses_meanwhile(world: World) -> None:
    await world.start()
    jobs = [await world.submit(workflow(n, seconds=2.0)) for n in range(4)]
    await world.until(world.client.queue, lambda queue: queue.on_server == 2)
    assert (await world.run("queue", "drain"))[1].startswith("draining")
    source = world.base / "w.json"
    source.write_text(json.dumps(workflow(9)))
    exit_code, _, err = await world.run("submit", str(source))
    assert exit_code == 5
    assert "comfytunnel queue resume" in err
    drained = await world.until(world.client.queue, lambda queue: queue.state == "drained")
    assert (drained.waiting, drained.on_server) == (2, 0)
    ends = [await world.ask(lambda job=job: world.client.job(job.id)) for job in jobs]  # type: ignore[misc]  # a bound default
    assert sorted(job.status for job in ends) == ["queued", "queued", "succeeded", "succeeded"]
    await world.run("queue", "resume")
    for job in jobs:
        assert (await world.end_of(job)).status == "succeeded"


async def test_a_retry_from_the_command_line_runs_the_workflow_again(world: World) -> None:
    await world.start()
    job = await world.end_of(await world.submit(workflow(5)))
    exit_code, out, err = await world.run("jobs", "retry", job.id)
    assert exit_code == 0, err
    again = await world.ask(lambda: world.client.job(out.strip()))
    assert again.comfytunnel is not None
    assert again.comfytunnel.retry_of == job.id
    assert (await world.end_of(again)).status == "succeeded"
    source = world.base / "w.json"
    source.write_text(json.dumps(workflow(6)))
    exit_code, out, err = await world.run("submit", "--ttl", "600", "--fail-fast", "--json", str(source))
    assert exit_code == 0, err
    extra = json.loads(out)["comfytunnel"]
    assert (extra["ttl"], extra["fail_fast"]) == (600, True)


async def test_limits_and_retention_of_the_config_are_in_force(world: World) -> None:
    world.write_config()
    with world.config.open("a") as config:
        config.write("time_to_run = 0.5\nmax_waiting = 2\nkeep_jobs_days = 30\n")
    await world.start()
    slow = await world.end_of(await world.submit(workflow(1, seconds=20.0, steps=200)))
    assert (slow.status, slow.error.code if slow.error else "") == ("failed", "ran_too_long")
    assert slow.completed_at is not None
    assert 29 < (slow.expires_at - slow.completed_at).days <= 30
    await world.ask(lambda: world.client.queue("pause"))
    for n in range(2):
        await world.submit(workflow(n))
    source = world.base / "w.json"
    source.write_text(json.dumps(workflow(9)))
    exit_code, _, err = await world.run("submit", str(source))
    assert exit_code != 0
    assert "max_waiting" in err
