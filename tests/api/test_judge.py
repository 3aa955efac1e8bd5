"""The judge of every answer can say no, wherever it looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import web

from comfytunnel import wire
from comfytunnel.api import answers, jobs, stream, tunnels
from comfytunnel.api.routes import ROUTES
from comfytunnel.client import Client
from comfytunnel.errors import RemoteError
from tests import judge
from tests.api.conftest import Api
from tests.api.contract import allows, knows


@pytest.fixture
async def wrongs() -> AsyncIterator[list[str]]:
    """What the judge has found; it shall not fail this test."""
    yield judge.wrongs
    judge.wrongs.clear()


def test_what_is_under_api_v2_is_judged_by_the_contract_but_for_the_list_of_jobs() -> None:
    ours = [route.key for route in ROUTES if route.path.startswith("/api/v2/") and not knows(*route.key)]
    assert ours == [("GET", "/api/v2/jobs")]


def test_the_contract_allows_each_status_that_the_table_tells() -> None:
    """But for those at the door: 403 stands before every route, and the contract names it where it needs it."""
    for route in ROUTES:
        if knows(*route.key):
            told = {*route.answers, *route.refusals} - judge.CONDITIONAL - {403}
            assert [status for status in told if not allows(*route.key, status)] == [], route.key


async def test_an_answer_that_breaks_the_contract_is_found(
    api: Api, wrongs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await api.submit()
    assert not wrongs
    monkeypatch.setattr(wire, "NEVER", "never")
    await api.ask("GET", f"/api/v2/jobs/{job_id}")
    assert "date-time" in wrongs[0]


@pytest.mark.parametrize(
    "changed",
    [{"status": "asleep"}, {"id": None}, {"ours": 1}, {"urls": {}}, {"outputs": [{}]}],
    ids=str,
)
async def test_a_job_with_something_else_in_it_is_found(
    api: Api, wrongs: list[str], monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    job_id = await api.submit()
    usual = answers.answer

    def other(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
        return usual(msgspec.to_builtins(body) | changed, status, headers)

    monkeypatch.setattr(jobs, "answer", other)
    await api.ask("GET", f"/api/v2/jobs/{job_id}")
    assert len(wrongs) == 1


async def test_a_status_that_the_contract_does_not_know_is_found(
    api: Api, wrongs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(answers.STATUS, "not_found", 410)
    await api.ask("GET", "/api/v2/jobs/unknown")
    assert "may not answer 410" in wrongs[0]


async def test_an_answer_of_ours_that_is_not_of_its_type_is_found(
    api: Api, wrongs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnels, "all_tunnels", lambda _: {"default": {"phase": "up"}})
    await api.ask("GET", "/v1/tunnels")
    assert "since" in wrongs[0]


async def test_a_wrong_event_is_found_in_both_streams(
    api: Api, wrongs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await api.submit()
    monkeypatch.setattr(stream, "status_view", lambda *_: {"status": "asleep"})
    async with api.http.get(f"http://localhost/api/v2/jobs/{job_id}/events") as answer:
        await answer.content.readuntil(b"\n\n")
    assert "asleep" in wrongs.pop(0)

    async def nothing(_: object) -> dict[str, str]:
        return {}

    monkeypatch.setattr(stream, "snapshot", nothing)
    async with api.http.get("http://localhost/v1/events") as answer:
        await answer.content.readuntil(b"\n\n")
    assert "event status of /v1/events" in wrongs[0]


async def test_what_our_client_reads_is_judged_too(
    api: Api, wrongs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it must be where the daemon is a process of its own; here both sides see it."""
    monkeypatch.setattr(tunnels, "all_tunnels", lambda _: {"default": {"phase": "up"}})
    with pytest.raises(RemoteError):
        await asyncio.to_thread(Client(api.path).tunnels)
    assert len(wrongs) == 2
