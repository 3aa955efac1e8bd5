"""Webhooks at the edge: who may ask for one, what is refused, what a job shows of it, and what its receiver is told."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from comfytunnel.api.message import messages
from comfytunnel.jobs.model import Hook, Stage, Webhook
from tests.api.conftest import WORKFLOW, Api
from tests.api.contract import check, check_schema
from tests.api.test_tcp import Web
from tests.api.test_tcp import web as web
from tests.fakes.receiver import receiving

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)


def asking(**webhook: Any) -> dict[str, Any]:
    return {"workflow": WORKFLOW, "comfytunnel": {"webhook": webhook}}


async def test_a_job_shows_that_it_has_a_webhook_and_not_what_may_be_secret_in_it(api: Api) -> None:
    given = asking(url="https://hooks.example.org/T0/token?key=k", secret=SECRET)
    status, job = await api.ask("POST", "/api/v2/jobs", json=given)
    check("POST", "/api/v2/jobs", status, job)
    assert job["comfytunnel"]["webhook"] == {
        "target": "https://hooks.example.org",
        "state": "waiting",
        "attempts": 0,
        "delivered_at": None,
        "last_error": None,
        "next_at": None,
    }
    assert SECRET not in json.dumps(job)
    assert "token" not in json.dumps(job)
    assert (await api.store.hooks_of([job["id"]]))[job["id"]].webhook == Webhook(
        url="https://hooks.example.org/T0/token?key=k", secret=SECRET, base="http://localhost"
    )


async def test_a_job_without_a_webhook_shows_null(api: Api) -> None:
    _, job = await api.ask("GET", f"/api/v2/jobs/{await api.submit()}")
    assert job["comfytunnel"]["webhook"] is None


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, {"state": "pending", "attempts": 0}),
        (
            {"attempts": 2, "error": "HTTP status 500", "due": NOW + timedelta(minutes=1)},
            {"state": "pending", "last_error": "HTTP status 500", "next_at": "2026-05-06T07:09:09Z"},
        ),
        (
            {"attempts": 3, "delivered_at": NOW},
            {"state": "delivered", "delivered_at": "2026-05-06T07:08:09Z"},
        ),
        (
            {"attempts": 9, "error": "HTTP status 410", "gave_up_at": NOW},
            {"state": "failed", "attempts": 9, "last_error": "HTTP status 410", "next_at": None},
        ),
    ],
)
async def test_what_becomes_of_it_is_seen_in_the_job_the_list_and_the_stream(
    api: Api, changes: dict[str, Any], shown: dict[str, Any]
) -> None:
    _, job = await api.ask("POST", "/api/v2/jobs", json=asking(url="http://127.0.0.1:9"))
    await api.scheduler.move(job["id"], Stage.ENDED, status="canceled", completed_at=NOW)
    hook = Hook(job_id=job["id"], webhook=Webhook(url="http://127.0.0.1:9"), **changes)
    await api.store.put_hook(hook)
    _, one = await api.ask("GET", f"/api/v2/jobs/{job['id']}")
    _, listed = await api.ask("GET", "/api/v2/jobs")
    assert listed["jobs"][0] == one
    assert shown.items() <= one["comfytunnel"]["webhook"].items()


@pytest.mark.parametrize(
    ("webhook", "code", "path"),
    [
        ({"url": "ftp://x"}, "invalid_webhook", "$.comfytunnel.webhook.url"),
        ({"url": "http://h", "secret": "abc"}, "invalid_webhook", "$.comfytunnel.webhook.secret"),
        ({"url": "unix:/nonexistent/x.sock"}, "invalid_webhook", "$.comfytunnel.webhook.url"),
        ({"url": "unix:/dev/null"}, "invalid_webhook", "$.comfytunnel.webhook.url"),
        ({"url": 7}, "invalid_request", "$.comfytunnel.webhook.url"),
        ({"url": "http://h/" + "x" * 2048}, "invalid_request", "$.comfytunnel.webhook.url"),
        ({}, "invalid_request", "$.comfytunnel.webhook"),
        ({"url": "http://h", "events": []}, "invalid_request", "$.comfytunnel.webhook"),
    ],
)
async def test_a_webhook_that_cannot_be_used_is_refused_with_the_submission(
    api: Api, webhook: dict[str, Any], code: str, path: str
) -> None:
    status, refused = await api.ask("POST", "/api/v2/jobs", json=asking(**webhook))
    check("POST", "/api/v2/jobs", status, refused)
    assert (status, refused["error"]["code"], refused["error"]["details"]["path"]) == (422, code, path)
    assert await api.store.since(0) == []


async def test_a_unix_socket_that_is_there_and_ours_is_taken(api: Api, short: Path) -> None:
    async with receiving(short / "me.sock") as receiver:
        status, job = await api.ask("POST", "/api/v2/jobs", json=asking(url=receiver.url))
    assert (status, job["comfytunnel"]["webhook"]["target"]) == (201, f"unix:{short}/me.sock")


async def test_over_tcp_no_webhook_is_taken(web: Web) -> None:
    status, refused, _ = await web.ask("POST", "/api/v2/jobs", json=asking(url="http://127.0.0.1:9"))
    check("POST", "/api/v2/jobs", status, refused)
    assert (status, refused["error"]["code"]) == (403, "webhook_refused")
    assert await web.api.store.since(0) == []
    assert (await web.ask("POST", "/api/v2/jobs", json={"workflow": WORKFLOW}))[0] == 201


async def test_the_message_is_the_job_as_get_shows_it(api: Api, tmp_path: Path) -> None:
    given = asking(url="http://127.0.0.1:9")
    _, job = await api.ask("POST", "/api/v2/jobs", json=given, headers={"Host": "me:81"})
    (tmp_path / "a.png").write_bytes(b"x")
    await api.scheduler.start(job["id"])
    await api.scheduler.output(job["id"], tmp_path / "a.png")
    await api.scheduler.succeed(job["id"])
    ended = await api.store.get(job["id"])
    assert ended is not None
    hook = (await api.store.hooks_of([ended.id]))[ended.id]
    body = await messages(api.context)(ended, hook.webhook)
    told = json.loads(body)
    _, shown = await api.ask("GET", f"/api/v2/jobs/{job['id']}", headers={"Host": "me:81"})
    shown["comfytunnel"]["webhook"] = None
    assert told == {"type": "job.succeeded", "timestamp": shown["completed_at"], "data": shown}
    check_schema("Job", told["data"])
    await api.store.put_hook(Hook(job_id=ended.id, webhook=hook.webhook, attempts=3, error="x"))
    assert await messages(api.context)(ended, hook.webhook) == body
