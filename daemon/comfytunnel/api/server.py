"""The control API's server: the route table (routes.py), served on a socket that is given.

How a job or a tunnel behaves is none of this room's business; neither is where the socket comes from (listen.py).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection, Iterable
from types import TracebackType
from typing import Self

from aiohttp import hdrs, web

from comfytunnel.api.answers import BODY_LIMIT, Handler, errors_to_json, owner_only, sign
from comfytunnel.api.arriving import SILENCE
from comfytunnel.api.connection import Connection
from comfytunnel.api.context import CONTEXT, Context
from comfytunnel.api.route import Route
from comfytunnel.api.routes import ROUTES
from comfytunnel.ending import end_accepting

STOP_GRACE = 1.0  # seconds that requests under way get when the daemon stops; it has 2 s in all


def add_routes(app: web.Application, routes: Iterable[Route]) -> None:
    """Serve each path with its own methods, and let it refuse all others itself: `Allow` then tells nothing of another path that would fit as well
    (`from-hash` stands where an id might). The more literal path is the one that is meant, as in OpenAPI."""
    paths: dict[str, dict[str, Handler]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method] = route.handler
    for path, handlers in paths.items():
        resource = app.router.add_resource(path)
        for method, handler in handlers.items():
            resource.add_route(method, handler)
        resource.add_route(hdrs.METH_ANY, _refusing_all_but(handlers))


def _refusing_all_but(methods: Collection[str]) -> Handler:
    async def refuse(request: web.Request) -> web.StreamResponse:
        raise web.HTTPMethodNotAllowed(request.method, methods)

    return refuse


class Server:
    """The API on one listening Unix socket, from `async with` to its end. The socket stays the caller's to close. `silence`: as in arriving.py."""

    def __init__(self, its: Context, sock: socket.socket, silence: float = SILENCE) -> None:
        self._silence = silence
        self._context = its
        self._sock = sock
        app = web.Application(client_max_size=BODY_LIMIT, middlewares=[errors_to_json, owner_only])
        app[CONTEXT] = its
        add_routes(app, ROUTES)
        app.on_response_prepare.append(sign)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_GRACE)

    async def __aenter__(self) -> Self:
        """Answer from now on; callers that came before have waited in the backlog."""
        await self._runner.setup()
        server = self._runner.server
        if server is None:
            raise RuntimeError("the runner has no server after its setup")
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(lambda: Connection(server, self._silence), sock=self._sock)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take no more callers, end the streams at once, let the rest finish within STOP_GRACE."""
        await end_accepting(self._listening)
        self._context.closing.set(True)
        await self._runner.cleanup()
