"""The websocket is open while it is wanted, closed properly when not, and replaced when it is deaf."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from comfytunnel.comfy.client import Client
from comfytunnel.comfy.progress import Event, QueueChanged
from comfytunnel.feed import Feed
from comfytunnel.jobs import listener as module
from comfytunnel.jobs.listener import Listener
from comfytunnel.jobs.place import Gate, Place


class Far:
    """A /ws that says `status` once and then nothing; counts open sockets and clean closes."""

    def __init__(self) -> None:
        self.open = Feed(0)
        self.opened = 0
        self.closed_cleanly = 0

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.opened += 1
        self.open.set(self.open.value + 1)
        try:
            await socket.send_json(
                {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}}}
            )
            async for _ in socket:
                pass
            self.closed_cleanly += socket.close_code == 1000
        finally:
            self.open.set(self.open.value - 1)
        return socket


@pytest.fixture
async def far() -> AsyncIterator[tuple[Far, Listener, Feed[Gate], list[Event]]]:
    made = Far()
    app = web.Application()
    app.router.add_get("/ws", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = Client(f"http://127.0.0.1:{runner.addresses[0][1]}")
    gate = Feed(Gate(1, True))
    heard: list[Event] = []
    listener = Listener(Place("p", client, gate), "id", heard.append)
    running = asyncio.create_task(listener.run())
    yield made, listener, gate, heard
    running.cancel()
    await asyncio.wait([running])
    await client.close()
    await runner.cleanup()


async def test_it_is_open_only_while_it_is_wanted(
    far: tuple[Far, Listener, Feed[Gate], list[Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, listener, _, heard = far
    monkeypatch.setattr(module, "LINGER", 0.05)
    async with asyncio.timeout(5):
        listener.wanted.set(True)
        await made.open.until(lambda n: n == 1)
        listener.wanted.set(False)
        await made.open.until(lambda n: n == 0)
    assert made.closed_cleanly == 1
    assert heard == [QueueChanged(0)]


async def test_another_link_gets_another_socket_after_the_old_one_is_closed(
    far: tuple[Far, Listener, Feed[Gate], list[Event]],
) -> None:
    made, listener, gate, _ = far
    async with asyncio.timeout(5):
        listener.wanted.set(True)
        await made.open.until(lambda n: n == 1)
        gate.set(Gate(2, True))
        await made.open.until(lambda n: n == 0)
        await made.open.until(lambda n: n == 1)
    assert made.opened == 2


async def test_a_socket_that_does_not_hear_what_polls_see_is_replaced(
    far: tuple[Far, Listener, Feed[Gate], list[Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, listener, _, _ = far
    monkeypatch.setattr(module, "DEAF", 0.1)
    async with asyncio.timeout(5):
        listener.wanted.set(True)
        await made.open.until(lambda n: n == 1)
        while made.opened == 1:
            listener.polled(3, 0.01)
            await asyncio.sleep(0.02)  # polls come at intervals
        listener.polled(0, 0.01)
    assert made.opened == 2
