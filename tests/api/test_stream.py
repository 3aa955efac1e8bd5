"""The two event streams: what comes first, what comes next, how they resume and how they end."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from comfytunnel import wire
from comfytunnel.api import stream
from comfytunnel.errors import StateError
from comfytunnel.jobs.model import Job, LiveProgress, Preview, Stage, Status, Waits
from tests.api.conftest import Api, a_tunnel
from tests.api.contract import check_schema

SCHEMAS = {"status": "StatusEvent", "progress": "Progress", "preview": "PreviewEvent", "output": "Output"}


Event = tuple[str, Any, str | None]


class Events:
    """The reading end, straight from the bytes: (name, data, id)."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def one(self) -> Event | None:
        """Return the next event; None at the end of the stream."""
        fields: dict[str, str] = {}
        while raw := await self._response.content.readline():
            line = raw.decode().rstrip("\n")
            if line.startswith(":"):
                return "comment", line, None
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields:
                return fields["event"], json.loads(fields["data"]), fields.get("id")
        return None

    async def take(self, count: int) -> list[Event]:
        found = [await self.one() for _ in range(count)]
        assert None not in found, found
        return [event for event in found if event is not None]

    async def rest(self) -> list[Event]:
        found = []
        while (event := await self.one()) is not None:
            found.append(event)
        return found


async def listen(api: Api, path: str, **headers: str) -> Events:
    response = await api.http.get(f"http://localhost{path}", headers=headers)
    api.opened.append(response)
    assert response.status == 200, await response.text()
    assert response.headers["Content-Type"] == "text/event-stream"
    return Events(response)


async def test_the_daemon_stream_begins_with_the_state_and_goes_on_with_changes(api: Api) -> None:
    events = await listen(api, "/v1/events")
    [(name, status, number)] = await events.take(1)
    assert (name, status["tunnels"]["default"]["phase"], number) == ("status", "up", "0")
    api.tunnels.set("default", phase="doubtful")
    [(name, body, _)] = await events.take(1)
    assert (name, body["name"], body["tunnel"]["phase"]) == ("tunnel", "default", "doubtful")
    job_id = await api.submit()
    [(name, job, number)] = await events.take(1)
    assert (name, job["id"], number) == ("job", job_id, "1")


async def test_bytes_that_flow_are_no_event(api: Api) -> None:
    """Counters and round trip move all the time; only what a person would call a change is sent."""
    events = await listen(api, "/v1/events")
    await events.take(1)
    api.tunnels.set("default", counters=wire.Counters(bytes_in=9), rtt_ms=99.0)
    await api.submit()
    assert [name for name, _, _ in await events.take(1)] == [
        "job"
    ]  # the stream has looked at the tunnels meanwhile
    api.tunnels.set("default", phase="down")
    [(_, body, _)] = await events.take(1)
    assert (body["tunnel"]["phase"], body["tunnel"]["counters"]["bytes_in"]) == ("down", 9)


async def test_a_tunnel_that_comes_or_trouble_of_the_daemon_is_a_new_state(api: Api) -> None:
    events = await listen(api, "/v1/events")
    await events.take(1)
    api.tunnels.known["second"] = a_tunnel(phase="down")
    api.tunnels.poke()
    [(name, status, _)] = await events.take(1)
    assert (name, set(status["tunnels"])) == ("status", {"default", "second"})
    api.tunnels.trouble = wire.Cause("config_error", "broken", "mend it")
    api.tunnels.poke()
    [(name, status, _)] = await events.take(1)
    assert (name, status["cause"]["code"]) == ("status", "config_error")


async def test_a_stream_resumes_after_the_last_event_that_was_seen(api: Api) -> None:
    """Jobs changed since then come, each once, in the order of their latest change; the state leads with the old id."""
    first, second = await api.submit(), await api.submit()
    await api.scheduler.cancel(first)
    events = await listen(api, "/v1/events", **{"Last-Event-ID": "1"})
    found = await events.take(3)
    assert [(name, number) for name, _, number in found] == [("status", "1"), ("job", "2"), ("job", "3")]
    assert [found[1][1]["id"], found[2][1]["id"]] == [second, first]


async def test_an_id_of_another_store_starts_from_the_beginning(api: Api) -> None:
    job_id = await api.submit()
    events = await listen(api, "/v1/events", **{"Last-Event-ID": "999"})
    found = await events.take(2)
    assert [name for name, _, _ in found] == ["status", "job"]
    assert found[1][1]["id"] == job_id


async def test_an_id_that_is_no_number_is_422(api: Api) -> None:
    assert (await api.ask("GET", "/v1/events", headers={"Last-Event-ID": "x"}))[0] == 422


async def test_a_quiet_stream_is_kept_alive(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "KEEPALIVE", 0.01)
    events = await listen(api, "/v1/events")
    assert [name for name, _, _ in await events.take(2)] == ["status", "comment"]


async def test_a_job_stream_tells_the_whole_life_and_ends(api: Api, tmp_path: Path) -> None:
    """Outputs come before the terminal status, no event has an id, and every payload fits the contract."""
    job_id = await api.submit()
    events = await listen(api, f"/api/v2/jobs/{job_id}/events")
    told = await events.take(1)
    await api.scheduler.start(job_id)
    told += await events.take(1)
    api.scheduler.now[job_id] = LiveProgress(0.5, 1, 2, "1", "EmptyImage")
    api.scheduler.pictures[job_id] = Preview("1", "image/jpeg", b"jpeg")
    api.scheduler.poke()
    told += await events.take(2)
    (tmp_path / "a.png").write_bytes(b"x")
    output = await api.scheduler.output(job_id, tmp_path / "a.png")
    told += await events.take(1)
    await api.scheduler.succeed(job_id)
    told += await events.rest()
    names = [name for name, _, _ in told]
    assert names[:5] == ["status", "status", "progress", "preview", "output"]
    assert names[-1] == "status"
    assert [body["status"] for name, body, _ in told if name == "status"] == [
        "queued",
        "running",
        "succeeded",
    ]
    assert base64.b64decode(told[3][1]["data_base64"]) == b"jpeg"
    assert told[4][1]["id"] == output.asset_id
    for name, body, number in told:
        check_schema(SCHEMAS[name], body)
        assert number is None


async def test_the_stream_of_an_ended_job_ends_at_once_with_its_status_last(api: Api, tmp_path: Path) -> None:
    job_id = await api.submit()
    (tmp_path / "a.png").write_bytes(b"x")
    await api.scheduler.start(job_id)
    await api.scheduler.output(job_id, tmp_path / "a.png")
    await api.scheduler.succeed(job_id)
    told = await (await listen(api, f"/api/v2/jobs/{job_id}/events")).rest()
    assert [name for name, _, _ in told] == ["progress", "output", "status"]
    assert told[-1][1]["status"] == "succeeded"


async def test_a_waiting_job_says_when_its_reason_changes(api: Api) -> None:
    job_id = await api.submit()
    events = await listen(api, f"/api/v2/jobs/{job_id}/events")
    await events.take(1)
    api.scheduler.waits = Waits("comfyui_down", "ComfyUI is down", "")
    api.scheduler.poke()
    [(_, body, _)] = await events.take(1)
    assert body["comfytunnel"]["waits_for"]["message"] == "ComfyUI is down"


async def test_progress_that_comes_too_often_is_thinned_and_the_last_one_arrives(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LIVE_PAUSE", 0.2)
    job_id = await api.submit()
    await api.scheduler.start(job_id)
    events = await listen(api, f"/api/v2/jobs/{job_id}/events")
    await events.take(1)
    for step in range(1, 51):
        api.scheduler.now[job_id] = LiveProgress(step / 50, 0, 2, step=step, steps=50)
        api.scheduler.poke()
        await asyncio.sleep(0)
    steps: list[int] = []
    while 50 not in steps:
        [(name, body, _)] = await events.take(1)
        assert name == "progress"
        steps.append(body["step"])
    assert len(steps) <= 5


async def test_too_many_streams_are_refused_and_a_closed_one_makes_room(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_STREAMS", 1)
    monkeypatch.setattr(stream, "KEEPALIVE", 0.01)
    async with api.http.get("http://localhost/v1/events") as response:
        await response.content.readline()
        async with api.http.get("http://localhost/v1/events") as second:
            assert second.status == 429
            assert second.headers["Retry-After"]
            assert (await second.json())["error"]["code"] == "too_many_streams"
    while api.context.streams:  # noqa: ASYNC110 - nothing rings at the end of a stream; the fixture holds the deadline
        await asyncio.sleep(0.01)


async def test_a_job_that_ends_while_nobody_polls_is_told_from_the_store(api: Api) -> None:
    """The bell of the store's revision is enough; the scheduler's live feed need not ring."""
    job_id = await api.submit()
    events = await listen(api, f"/api/v2/jobs/{job_id}/events")
    await events.take(1)
    job: Job = await api.scheduler.move(job_id, Stage.ENDED, status=Status.CANCELED)
    assert job.ended
    assert [body["status"] for _, body, _ in await events.rest()] == ["canceled"]


async def test_an_error_behind_the_head_ends_the_stream_and_answers_nothing_into_it(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = await listen(api, "/v1/events")
    await events.take(1)

    async def full(*_: object) -> list[object]:
        raise StateError("the disk is full")

    monkeypatch.setattr(api.store, "told_since", full)
    await api.submit()
    assert await events.one() is None
