"""GET /v1/outages and the `outage` event, over hand-made outages."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from comfytunnel import wire
from comfytunnel.client import Client
from tests.api.conftest import Api, an_outage
from tests.api.test_stream import listen


async def test_they_come_newest_first_and_the_one_that_goes_on_leads(api: Api) -> None:
    api.outages.add(an_outage(seconds=1.0))
    api.outages.add(an_outage(seconds=2.0))
    api.tunnels.outages["default"] = an_outage(ended=None, recover_seconds=None, seconds=3.0)
    status, body = await api.ask("GET", "/v1/outages")
    assert status == 200
    assert [found["seconds"] for found in body["outages"]] == [3.0, 2.0, 1.0]
    assert [found["ended"] is None for found in body["outages"]] == [True, False, False]
    assert body["outages"][1] == msgspec.to_builtins(an_outage(seconds=2.0))


async def test_a_limit_and_a_tunnel_choose(api: Api) -> None:
    for seconds, name in enumerate(("default", "old", "default", "old", "default")):
        api.outages.add(an_outage(tunnel=name, seconds=float(seconds)))
    _, body = await api.ask("GET", "/v1/outages?tunnel=default&limit=2")
    assert [found["seconds"] for found in body["outages"]] == [4.0, 2.0]
    _, body = await api.ask("GET", "/v1/outages?tunnel=old")
    assert len(body["outages"]) == 2, "a tunnel that is gone still has its past"


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "limit=%C2%B2", "since=1"])
async def test_a_question_that_does_not_fit_is_422(api: Api, query: str) -> None:
    assert (await api.ask("GET", f"/v1/outages?{query}"))[0] == 422


async def test_a_tunnel_that_nobody_knows_is_404_and_one_without_outages_is_not(api: Api) -> None:
    assert (await api.ask("GET", "/v1/outages?tunnel=default")) == (200, {"outages": []})
    status, body = await api.ask("GET", "/v1/outages?tunnel=nope")
    assert (status, body["error"]["code"]) == (404, "tunnel_not_found")


async def test_the_daemon_stream_tells_each_outage_that_ends_and_none_from_before(api: Api) -> None:
    api.outages.add(an_outage(seconds=1.0))
    events = await listen(api, "/v1/events")
    await events.take(1)
    api.outages.add(an_outage(seconds=2.0))
    api.outages.add(an_outage(seconds=3.0))
    found = await events.take(2)
    assert [(name, body["seconds"], number) for name, body, number in found] == [
        ("outage", 2.0, None),
        ("outage", 3.0, None),
    ]


async def test_an_outage_that_ends_meanwhile_does_not_disturb_who_waits_for_the_tunnel(api: Api) -> None:
    api.tunnels.set("default", phase="connecting")
    waiting = asyncio.create_task(asyncio.to_thread(Client(api.path).wait, timeout=10.0))
    while not api.context.streams:  # noqa: ASYNC110 - the one that listens lives in a thread
        await asyncio.sleep(0.005)
    events = await listen(api, "/v1/events")
    await events.take(1)
    api.outages.add(an_outage())
    assert [name for name, _, _ in await events.take(1)] == ["outage"]
    api.tunnels.set("default", phase="up")
    assert (await waiting).tunnels["default"].phase == "up"


async def test_comfyuis_own_changes_are_events_while_the_link_stays_up(api: Api) -> None:
    events = await listen(api, "/v1/events")
    await events.take(1)
    for state in ("starting", "serving", "wrong_port", "down", "error"):
        api.tunnels.set("default", comfyui=wire.ComfyUI(state))
        [(name, body, _)] = await events.take(1)
        told = body["tunnel"]
        assert (name, told["phase"], told["comfyui"]["state"]) == ("tunnel", "up", state)
