"""The queue over HTTP, with the real scheduler behind it and no ComfyUI: orders, refusals, limits; every answer held against the contract."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from comfytunnel.comfy.client import Client
from comfytunnel.feed import Feed
from comfytunnel.jobs.model import Waits
from comfytunnel.jobs.place import JobsSettings, Keep
from comfytunnel.jobs.scheduler import Gate, Place, Scheduler
from tests.api.conftest import WORKFLOW, Api, serving
from tests.api.contract import check

JOBS = "/api/v2/jobs"


@contextlib.asynccontextmanager
async def a_queue(folder: Path, **settings: Any) -> AsyncIterator[Api]:
    """The API over a scheduler that runs and whose one tunnel is down."""
    async with serving(folder) as api:
        gate = Feed(
            Gate(
                None, False, Waits("no_route", "This machine has no route to the host.", "Is the network on?")
            )
        )
        place = Place("default", Client("http://127.0.0.1:9"), gate)
        scheduler = Scheduler(api.store, {"default": place}, JobsSettings(output_dir=folder, **settings))
        object.__setattr__(api.context, "scheduler", scheduler)  # it is frozen for everybody else
        running = asyncio.create_task(scheduler.run())
        yield api
        running.cancel()
        await asyncio.wait([running])
        await place.client.close()


@pytest.fixture
async def queue(short: Path) -> AsyncIterator[Api]:
    async with asyncio.timeout(25), a_queue(short) as api:
        yield api


async def refused(api: Api, code: str, path: str = JOBS, **options: Any) -> Any:
    """POST, see it refused with this code, and return the details."""
    options = options or {"json": {"workflow": WORKFLOW}}
    async with api.http.post(f"http://localhost{path}", **options) as response:
        body = await response.json()
        assert body["error"]["code"] == code, body
        assert ("Retry-After" in response.headers) == (response.status == 429)
        if path.startswith("/api/v2"):
            check("POST", path, response.status, body)
        return body["error"]["details"]


async def test_a_waiting_job_says_what_it_waits_for(queue: Api) -> None:
    job_id = await queue.submit()
    _, job = await queue.ask("GET", f"{JOBS}/{job_id}")
    waits = job["comfytunnel"]["waits_for"]
    assert (waits["code"], waits["hint"]) == ("no_route", "Is the network on?")
    assert waits["since"] >= job["created_at"]


async def test_an_idempotency_key_makes_one_job_whatever_is_sent_with_it(queue: Api) -> None:
    headers = {"Idempotency-Key": "6f0c"}
    status, job = await queue.ask("POST", JOBS, json={"workflow": WORKFLOW}, headers=headers)
    check("POST", JOBS, status, job)
    bodies: list[dict[str, Any]] = [{"workflow": WORKFLOW}, {"workflow": {}}, {"nonsense": 1}]
    for body in bodies:
        details = await refused(queue, "idempotency_key_reuse", json=body, headers=headers)
        assert details["job_id"] == job["id"]
    assert len((await queue.ask("GET", JOBS))[1]["jobs"]) == 1


async def test_a_refused_submission_leaves_its_key_free(queue: Api) -> None:
    headers = {"Idempotency-Key": "k"}
    await refused(queue, "invalid_workflow", json={"workflow": {}}, headers=headers)
    await queue.ask("POST", "/v1/queue/drain")
    await refused(queue, "queue_draining", json={"workflow": WORKFLOW}, headers=headers)
    await queue.ask("POST", "/v1/queue/resume")
    status, _ = await queue.ask("POST", JOBS, json={"workflow": WORKFLOW}, headers=headers)
    assert status == 201


@pytest.mark.parametrize("key", ["", "x" * 256, "\u00e9"])
async def test_a_key_that_is_none_is_refused(queue: Api, key: str) -> None:
    await refused(queue, "invalid_request", json={"workflow": WORKFLOW}, headers={"Idempotency-Key": key})


async def test_a_full_queue_is_429_and_takes_more_when_there_is_room(short: Path) -> None:
    async with a_queue(short, max_waiting=2) as api:
        first, _ = await api.submit(), await api.submit()
        await refused(api, "queue_full")
        await api.ask("POST", f"{JOBS}/{first}/cancel")
        await api.submit()


async def test_the_queue_is_paused_drained_and_resumed(queue: Api) -> None:
    await queue.submit()
    for order, state in (("pause", "paused"), ("drain", "drained"), ("resume", "open")):
        status, body = await queue.ask("POST", f"/v1/queue/{order}")
        assert (status, body["state"], body["waiting"], body["on_server"]) == (200, state, 1, 0)
        assert (await queue.ask("GET", "/v1/queue"))[1] == body
        assert (await queue.ask("GET", "/v1/status"))[1]["queue"] == body


async def test_a_drain_is_done_when_nothing_is_on_a_server(api: Api) -> None:
    job_id = await api.submit()
    await api.scheduler.start(job_id)
    assert (await api.ask("POST", "/v1/queue/drain"))[1]["state"] == "draining"
    await api.scheduler.succeed(job_id)
    assert (await api.ask("GET", "/v1/queue"))[1]["state"] == "drained"


async def test_jobs_are_moved_and_their_positions_follow(queue: Api) -> None:
    ids = [await queue.submit() for _ in range(4)]

    async def order() -> list[int]:
        _, listed = await queue.ask("GET", JOBS)
        return [ids.index(job["id"]) for job in sorted(listed["jobs"], key=lambda job: job["queue_position"])]

    moves: list[tuple[str, dict[str, Any], list[int]]] = [
        (f"{ids[3]}/move", {"to": "front"}, [3, 0, 1, 2]),
        (f"{ids[3]}/move", {"to": "front"}, [3, 0, 1, 2]),
        (f"{ids[0]}/move", {"to": "back"}, [3, 1, 2, 0]),
        (f"{ids[2]}/move", {"before": ids[1]}, [3, 2, 1, 0]),
        (f"{ids[1]}/priority", {"priority": 9}, [1, 3, 2, 0]),
    ]
    for path, body, wanted in moves:
        status, job = await queue.ask("POST", f"/v1/jobs/{path}", json=body)
        assert (status, job["status"]) == (200, "queued")
        assert await order() == wanted


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("{}/move", {}, "invalid_request"),
        ("{}/move", {"to": "front", "before": "x"}, "invalid_request"),
        ("{}/move", {"to": "middle"}, "invalid_request"),
        ("{}/move", {"before": "nobody"}, "not_found"),
        ("{}/move", {"to": "front", "tunnel": None}, "invalid_request"),
        ("{}/move", {"tunnel": "defualt"}, "unknown_tunnel"),
        ("nobody/move", {"tunnel": None}, "not_found"),
        ("nobody/move", {"to": "back"}, "not_found"),
        ("{}/priority", {"priority": 1001}, "invalid_request"),
        ("{}/priority", {}, "invalid_request"),
        ("{}/retry", None, "job_not_ended"),
    ],
)
async def test_an_order_that_makes_no_sense_is_refused(queue: Api, path: str, body: Any, code: str) -> None:
    job_id = await queue.submit()
    await refused(queue, code, f"/v1/jobs/{path.format(job_id)}", json=body)


async def test_a_waiting_job_is_given_another_tunnel_or_any(queue: Api) -> None:
    job_id = await queue.submit()
    for tunnel in ("default", None):
        status, job = await queue.ask("POST", f"/v1/jobs/{job_id}/move", json={"tunnel": tunnel})
        assert (status, job["comfytunnel"]["tunnel"], job["comfytunnel"]["moves"]) == (200, tunnel, 0)


async def test_a_retry_is_a_new_job_and_an_ended_one_cannot_be_moved(queue: Api) -> None:
    job_id = await queue.submit(comfytunnel={"label": "x", "priority": 2, "ttl": 600})
    await queue.ask("POST", f"{JOBS}/{job_id}/cancel")
    await refused(queue, "job_not_waiting", f"/v1/jobs/{job_id}/priority", json={"priority": 1})
    await refused(queue, "job_not_movable", f"/v1/jobs/{job_id}/move", json={"tunnel": "default"})
    status, job = await queue.ask("POST", f"/v1/jobs/{job_id}/retry")
    check("POST", JOBS, status, job)
    assert status == 201
    extra = job["comfytunnel"]
    assert (extra["retry_of"], extra["label"], extra["priority"], extra["ttl"]) == (job_id, "x", 2, 600)


async def test_a_job_that_fails_fast_is_accepted_and_has_failed(queue: Api) -> None:
    body = {"workflow": WORKFLOW, "comfytunnel": {"fail_fast": True}}
    status, job = await queue.ask("POST", JOBS, json=body)
    check("POST", JOBS, status, job)
    assert (status, job["status"], job["error"]["code"]) == (201, "failed", "fail_fast")


async def test_a_job_that_does_not_begin_in_time_expires(queue: Api) -> None:
    job_id = await queue.submit(comfytunnel={"ttl": 0.05})
    async for _ in queue.store.revision.changes():
        status, job = await queue.ask("GET", f"{JOBS}/{job_id}")
        if job["status"] != "queued":
            break
    check("GET", f"{JOBS}/{{id}}", status, job)
    assert (job["status"], job["error"]["code"]) == ("expired", "not_started_in_time")


@pytest.mark.parametrize(
    "limits", [{"ttl": 0}, {"ttl": -1}, {"time_to_run": 0}, {"ttl": 1e9}, {"fail_fast": 1}]
)
async def test_a_limit_that_is_none_is_refused(queue: Api, limits: dict[str, Any]) -> None:
    await refused(queue, "invalid_request", json={"workflow": WORKFLOW, "comfytunnel": limits})


@pytest.mark.parametrize("key", [7, None, ["x"], "x" * 5000])
async def test_a_partner_key_that_is_none_is_refused(queue: Api, key: Any) -> None:
    await refused(
        queue, "invalid_request", json={"workflow": WORKFLOW, "extra_data": {"api_key_comfy_org": key}}
    )


async def test_a_partner_key_is_taken_where_the_config_allows_it_and_never_shown(short: Path) -> None:
    async with a_queue(short, forward_partner_key=True) as api:
        extra = {"extra_data": {"api_key_comfy_org": "sk-secret"}}
        job_id = await api.submit(**extra)
        for path in (f"{JOBS}/{job_id}", f"{JOBS}/{job_id}/workflow", JOBS, "/v1/status"):
            async with api.http.get(f"http://localhost{path}") as response:
                assert b"sk-secret" not in await response.read()
        await api.ask("POST", f"{JOBS}/{job_id}/cancel")
        await refused(api, "credential_gone", f"/v1/jobs/{job_id}/retry", json=None)


async def test_an_ended_job_says_when_its_record_will_go(queue: Api) -> None:
    job_id = await queue.submit()
    await queue.ask("POST", f"{JOBS}/{job_id}/cancel")
    settings = queue.context.scheduler.settings
    for age, expiry in ((None, "9999-12-31T23:59:59Z"), (3600.0, None)):
        queue.context.scheduler.apply(replace(settings, keep=Keep(jobs_age=age)))
        status, job = await queue.ask("GET", f"{JOBS}/{job_id}")
        check("GET", f"{JOBS}/{{id}}", status, job)
        assert job["expires_at"] == expiry or (expiry is None and job["expires_at"] < "9999")


async def test_a_retry_has_the_files_of_the_old_job_while_they_are_here(queue: Api) -> None:
    """Not those that were uploaded under the same name since."""
    form = {"content_type": "image/png", "file_path": "photo.png"}
    graph = {**WORKFLOW, "3": {"class_type": "LoadImage", "inputs": {"image": "photo.png"}}}
    assets = []
    for data in (b"first", b"second"):
        body = aiohttp.FormData(form)
        body.add_field("file", data, filename="photo.png")
        _, asset = await queue.ask("POST", "/api/v2/assets", data=body)
        assets.append(asset["id"])
        if data == b"first":
            _, job = await queue.ask("POST", JOBS, json={"workflow": graph})
    await queue.ask("POST", f"{JOBS}/{job['id']}/cancel")
    _, again = await queue.ask("POST", f"/v1/jobs/{job['id']}/retry")
    assert await queue.store.inputs(again["id"]) == await queue.store.inputs(job["id"]) != []
    await queue.ask("POST", f"{JOBS}/{again['id']}/cancel")
    async with queue.http.delete(f"http://localhost/api/v2/assets/{assets[0]}") as response:
        assert response.status == 204
    await refused(queue, "missing_asset", f"/v1/jobs/{again['id']}/retry", json=None)


async def test_the_event_stream_tells_when_the_queue_is_held_and_when_a_drain_is_done(api: Api) -> None:
    job_id = await api.submit()
    await api.scheduler.start(job_id)
    events = await api.http.get("http://localhost/v1/events")
    api.opened.append(events)

    async def state() -> str:
        name = b""
        while line := await events.content.readline():
            name = line[7:].strip() if line.startswith(b"event: ") else name
            if line.startswith(b"data: ") and name == b"status":
                return str(json.loads(line[6:])["queue"]["state"])
        raise AssertionError

    assert await state() == "open"
    await api.ask("POST", "/v1/queue/pause")
    assert await state() == "paused"
    await api.ask("POST", "/v1/queue/drain")
    assert await state() == "draining"
    await api.scheduler.succeed(job_id)
    assert await state() == "drained"


async def test_the_list_and_the_event_stream_show_the_outputs_too(api: Api, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    job_id = await api.submit()
    await api.scheduler.start(job_id)
    await api.scheduler.output(job_id, tmp_path / "a.png")
    await api.submit()
    _, job = await api.ask("GET", f"{JOBS}/{job_id}")
    _, listed = await api.ask("GET", JOBS)
    assert listed["jobs"][1] == job
    assert [output["name"] for output in job["outputs"]] == ["a.png"]
    events = await api.http.get("http://localhost/v1/events", headers={"Last-Event-ID": "0"})
    api.opened.append(events)
    while line := await events.content.readline():
        if line.startswith(b"data: ") and json.loads(line[6:]).get("id") == job_id:
            break
    assert json.loads(line[6:]) == job
