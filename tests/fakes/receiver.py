"""A receiver of webhooks: a web server on loopback or on a Unix socket that keeps what it gets and answers as it is told."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

DEADLINE = 20.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Got:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def is_signed_with(self, secret: str) -> bool:
        """Computed from the words of the specification, not with the sender's code."""
        signed = f"{self.id}.{self.headers['webhook-timestamp']}.{self.body.decode()}".encode()
        key = base64.b64decode(secret.split("_")[1])
        wanted = "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
        return wanted in self.headers["webhook-signature"].split(" ")


class Receiver:
    """`answers`: statuses, or handlers, of the next requests; when they are used up it is 204."""

    def __init__(self) -> None:
        self.url = ""
        self.got: list[Got] = []
        self.answers: list[int | Handler] = []
        self._came = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.got.append(Got(request.path_qs, headers, await request.read()))
        self._came.set()
        answer = self.answers.pop(0) if self.answers else 204
        return web.Response(status=answer) if isinstance(answer, int) else await answer(request)

    async def until(self, number: int) -> list[Got]:
        """Wait for so many requests in all."""
        async with asyncio.timeout(DEADLINE):
            while len(self.got) < number:
                self._came.clear()
                await self._came.wait()
        return self.got


@contextlib.asynccontextmanager
async def receiving(path: Path | None = None, port: int = 0) -> AsyncIterator[Receiver]:
    """A receiver on the Unix socket `path`, or on a port."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", receiver.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.UnixSite(runner, str(path)) if path else web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        receiver.url = f"unix:{path}" if path else f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield receiver
    finally:
        await runner.cleanup()
