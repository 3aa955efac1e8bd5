"""Which connection a download leaves behind: a large one has its own, small ones share."""

from __future__ import annotations

import pytest
from aiohttp import web

from comfytunnel.comfy.client import Client
from comfytunnel.comfy.download import LARGE


@pytest.mark.parametrize(("size", "connections"), [(100, 1), (LARGE, 3)])
async def test_only_the_connection_of_a_small_download_is_used_again(size: int, connections: int) -> None:
    callers = set()

    async def view(request: web.Request) -> web.Response:
        assert request.transport is not None
        callers.add(request.transport.get_extra_info("peername"))
        return web.Response(body=bytes(size))

    app = web.Application()
    app.router.add_get("/view", view)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = Client(f"http://127.0.0.1:{runner.addresses[0][1]}")
    try:
        for _ in range(3):
            async with client.view("a.png", "", "output") as download:
                got = 0
                while part := await download.read(LARGE):
                    got += len(part)
            assert got == size
    finally:
        await client.close()
        await runner.cleanup()
    assert len(callers) == connections
