"""A ComfyUI to hold to its contract: the stand-in, or the real one at COMFYTUNNEL_TEST_COMFYUI (http://127.0.0.1:8188).

Far is what the tests speak through: plain HTTP and websockets, nothing of our own client. A real server keeps its state from
test to test, so every test uses names and colours of its own, and leaves the queue empty.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from comfytunnel.demo.comfyui import ComfyUI

REAL = os.environ.get("COMFYTUNNEL_TEST_COMFYUI", "").rstrip("/")
DEADLINE = 20.0
"""Seconds that a wait for the far side may take."""

Graph = dict[str, Any]


async def looks() -> AsyncIterator[None]:
    """Look again and again until the deadline: HTTP has no bell to wait for."""
    async with asyncio.timeout(DEADLINE):
        while True:
            yield
            await asyncio.sleep(0.01)


class Ear:
    """One websocket: `heard` is everything so far, `until` reads on."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.heard: list[dict[str, Any]] = []

    async def next(self) -> dict[str, Any]:
        """The next text frame; binary ones are kept out."""
        async with asyncio.timeout(DEADLINE):
            while (message := await self.socket.receive()).type is aiohttp.WSMsgType.BINARY:
                pass
        assert message.type is aiohttp.WSMsgType.TEXT, message
        said: dict[str, Any] = json.loads(message.data)
        self.heard.append(said)
        return said

    async def until(self, kind: str, prompt_id: str | None = None) -> dict[str, Any]:
        """The next event of a kind, of this prompt if one is named."""
        while True:
            said = await self.next()
            if said["type"] == kind and (prompt_id is None or said["data"].get("prompt_id") == prompt_id):
                data: dict[str, Any] = said["data"]
                return data

    async def until_over(self, prompt_id: str) -> None:
        """Until `executing` with node null: the history entry is there from then on."""
        while (await self.until("executing", prompt_id))["node"] is not None:
            pass


class Far:
    """A ComfyUI at `url`. `server` is the stand-in itself, None for a real one."""

    def __init__(self, url: str, session: aiohttp.ClientSession, server: ComfyUI | None) -> None:
        self.url = url
        self.session = session
        self.server = server
        self.client = uuid.uuid4().hex
        self.nonce = uuid.uuid4().hex[:12]
        self.color = random.randrange(0x1000000)

    async def get(self, path: str, **more: Any) -> Any:
        """The JSON answer of a GET that must be 200."""
        async with self.session.get(self.url + path, **more) as answer:
            assert answer.status == 200, (path, answer.status, await answer.text())
            return await answer.json()

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        """(status, JSON answer or text) of a POST with a JSON body."""
        async with self.session.post(self.url + path, json=body) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if answer.content_type == "application/json" else text

    async def submit(self, graph: Graph, **more: Any) -> str:
        """Queue a workflow under a new id, unless one is given, and return the id."""
        body = {"prompt": graph, "client_id": self.client, "prompt_id": str(uuid.uuid4())} | more
        status, answer = await self.post("/prompt", body)
        assert status == 200, answer
        prompt_id: str = answer["prompt_id"]
        return prompt_id

    async def finished(self, prompt_id: str) -> dict[str, Any]:
        """The history entry, once it is there."""
        async for _ in looks():
            if entry := (await self.get(f"/history/{prompt_id}")).get(prompt_id):
                found: dict[str, Any] = entry
                return found
        raise AssertionError

    async def running(self, prompt_id: str) -> None:
        """Wait until this one runs."""
        async for _ in looks():
            if [item for item in (await self.get("/queue"))["queue_running"] if item[1] == prompt_id]:
                return

    async def run(self, graph: Graph, **more: Any) -> dict[str, Any]:
        """Submit and wait for the history entry."""
        return await self.finished(await self.submit(graph, **more))

    async def idle(self) -> None:
        """Empty the queue and stop what runs."""
        async for _ in looks():
            await self.post("/queue", {"clear": True})
            await self.post("/interrupt", {})
            if (await self.get("/prompt"))["exec_info"]["queue_remaining"] == 0:
                return

    @asynccontextmanager
    async def listen(self, client: str | None = None, *, autoping: bool = True) -> AsyncIterator[Ear]:
        """A websocket, after its first message."""
        url = f"{self.url}/ws?clientId={client or self.client}"
        async with self.session.ws_connect(url, autoping=autoping) as socket:
            ear = Ear(socket)
            await ear.until("status")
            yield ear

    def picture(self, *, width: int = 8, height: int = 4, color: int | None = None, name: str = "p") -> Graph:
        """A quick workflow of this test's own: EmptyImage "1" -> SaveImage "2"; another colour each time."""
        self.color = (self.color + 1) % 0x1000000
        color = self.color if color is None else color
        size = {"width": width, "height": height}
        return {
            "1": {"class_type": "EmptyImage", "inputs": {**size, "batch_size": 1, "color": color}},
            "2": save("1", f"contract/{self.nonce}/{name}"),
        }

    def slow(self, nodes: int = 60) -> Graph:
        """A workflow of real nodes that runs for seconds and can be interrupted between two of them."""
        graph = {"1": self.picture(width=2000, height=2000)["1"]}
        for number in range(nodes):
            inputs = {"image": ["1", 0], "upscale_method": "lanczos", "width": 16, "height": 16 + number}
            graph[f"s{number}"] = {"class_type": "ImageScale", "inputs": {**inputs, "crop": "disabled"}}
            graph[f"p{number}"] = {"class_type": "PreviewImage", "inputs": {"images": [f"s{number}", 0]}}
        return graph


def save(source: str, prefix: str) -> dict[str, Any]:
    return {"class_type": "SaveImage", "inputs": {"images": [source, 0], "filename_prefix": prefix}}


@pytest.fixture
async def far(tmp_path: Path) -> AsyncIterator[Far]:
    async with aiohttp.ClientSession() as session:
        if REAL:
            far = Far(REAL, session, None)
            await far.idle()
            yield far
            await far.idle()
        else:
            async with ComfyUI(tmp_path) as server:
                yield Far(server.url, session, server)


@pytest.fixture
def server(far: Far) -> ComfyUI:
    """The stand-in, for what one cannot do to a real server from outside: restart it, take away its files."""
    if far.server is None:
        pytest.skip("needs the stand-in: a real server cannot be restarted or looked into from here")
    return far.server
