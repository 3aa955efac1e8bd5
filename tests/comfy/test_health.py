"""ComfyUI's own state, told from its answers alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comfytunnel.comfy.client import Client
from comfytunnel.comfy.errors import Ambiguous, ComfyError, NotComfyUI, Unreachable
from comfytunnel.comfy.health import STARTING_LIMIT, Health, classify
from comfytunnel.demo.comfyui import ComfyUI
from comfytunnel.feed import Feed
from comfytunnel.words import ComfyState


@pytest.fixture
async def far(tmp_path: Path) -> AsyncIterator[tuple[ComfyUI, Health, Feed[int | None]]]:
    comfyui = ComfyUI(tmp_path)
    await comfyui.start()
    client = Client(comfyui.url)
    link: Feed[int | None] = Feed(None)
    health = Health(client, link)
    running = asyncio.create_task(health.run())
    yield comfyui, health, link
    running.cancel()
    await asyncio.wait([running])
    await client.close()
    await comfyui.stop()


async def until(health: Health, state: ComfyState) -> None:
    async with asyncio.timeout(10):
        await health.state.until(lambda report: report.state is state)


async def test_it_serves_as_soon_as_the_link_is_up_and_is_unknown_without_one(
    far: tuple[ComfyUI, Health, Feed[int | None]],
) -> None:
    _, health, link = far
    assert health.state.value.state is ComfyState.UNKNOWN
    link.set(1)
    await until(health, ComfyState.SERVING)
    assert (health.state.value.version, health.state.value.queue) == ("0.33.0", 0)
    link.set(None)
    await until(health, ComfyState.UNKNOWN)
    assert health.state.value.version is None


async def test_a_closed_port_is_starting_until_it_has_served_and_down_after_that(
    far: tuple[ComfyUI, Health, Feed[int | None]],
) -> None:
    comfyui, health, link = far
    comfyui.faults.starting = True
    link.set(1)
    await until(health, ComfyState.STARTING)
    comfyui.faults.starting = False
    health.poke()
    await until(health, ComfyState.SERVING)
    await comfyui.stop()
    health.poke()
    await until(health, ComfyState.DOWN)
    link.set(2)
    await until(health, ComfyState.STARTING)


@pytest.mark.parametrize("login", ["401", "redirect", "html"])
async def test_a_login_page_is_the_wrong_port(
    far: tuple[ComfyUI, Health, Feed[int | None]], login: str
) -> None:
    comfyui, health, link = far
    comfyui.faults.html_login = login  # type: ignore[assignment]  # parametrize hands out plain strings
    link.set(1)
    await until(health, ComfyState.WRONG_PORT)
    assert health.state.value.detail


@pytest.mark.parametrize(
    ("seen", "served", "waited", "state"),
    [
        (None, False, 0.0, ComfyState.SERVING),
        (Unreachable("x"), False, 0.0, ComfyState.STARTING),
        (Ambiguous("closed"), False, 0.0, ComfyState.STARTING),
        (Ambiguous("closed"), False, STARTING_LIMIT + 1, ComfyState.DOWN),
        (Ambiguous("closed"), True, 0.0, ComfyState.DOWN),
        (Ambiguous("slow", silent=True), False, 0.0, ComfyState.DOWN),
        (Ambiguous("500", status=500), True, 0.0, ComfyState.ERROR),
        (Ambiguous("503", status=503), False, 0.0, ComfyState.STARTING),
        (NotComfyUI("html"), True, 0.0, ComfyState.WRONG_PORT),
        (ComfyError("odd"), True, 0.0, ComfyState.ERROR),
    ],
)
def test_one_answer_is_one_state(
    seen: ComfyError | None, served: bool, waited: float, state: ComfyState
) -> None:
    assert classify(seen, served=served, waited=waited)[0] is state
