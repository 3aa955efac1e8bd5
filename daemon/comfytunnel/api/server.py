"""The control API's server: the route table (routes.py), served on a socket that is given.

How a job or a tunnel behaves is none of this room's business; neither is where the socket comes from (listen.py).
"""

from __future__ import annotations

import asyncio
import socket
from types import TracebackType
from typing import Self

from aiohttp import web

from comfytunnel.api.answers import BODY_LIMIT, errors_to_json, owner_only, sign
from comfytunnel.api.connection import Connection
from comfytunnel.api.context import CONTEXT, Context
from comfytunnel.api.routes import ROUTES

STOP_GRACE = 1.0  # seconds that requests under way get when the daemon stops; it has 2 s in all


class Server:
    """The API on one listening Unix socket, from `async with` to its end. The socket stays the caller's to close."""

    def __init__(self, its: Context, sock: socket.socket) -> None:
        self._context = its
        self._sock = sock
        app = web.Application(client_max_size=BODY_LIMIT, middlewares=[errors_to_json, owner_only])
        app[CONTEXT] = its
        for route in ROUTES:
            app.router.add_route(route.method, route.path, route.handler)
        app.on_response_prepare.append(sign)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_GRACE)

    async def __aenter__(self) -> Self:
        """Answer from now on; callers that came before have waited in the backlog."""
        await self._runner.setup()
        server = self._runner.server
        if server is None:
            raise RuntimeError("the runner has no server after its setup")
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(lambda: Connection(server), sock=self._sock)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take no more callers, end the streams at once, let the rest finish within STOP_GRACE."""
        self._listening.close()
        self._context.closing.set(True)
        await self._runner.cleanup()
