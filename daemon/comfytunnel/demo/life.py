"""One process of the stand-in: engine, websockets, routes, the listener, and what befalls every request whatever it asks.

A Life is begun once and ended once; a restart makes another. What a route answers is said in routes.py and files.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

from aiohttp import web

from comfytunnel.demo.engine import Engine
from comfytunnel.demo.faults import Faults
from comfytunnel.demo.files import Files
from comfytunnel.demo.folders import Folders
from comfytunnel.demo.routes import Handler, Routes
from comfytunnel.demo.sockets import Sockets
from comfytunnel.ending import end_accepting

UPLOAD_LIMIT = 100 * 1024 * 1024
"""Bytes in one request's body; more is a 413 (measured, 0.33)."""

DYING_SECONDS = 0.05
"""How long a request in progress may go on when the process "dies"; aiohttp takes 0 for "for ever"."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")

LOGIN_PAGE = "<!DOCTYPE html><html><head><title>Login</title></head><body><form>Password</form></body></html>"


async def _some_turns() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


class _Slam(asyncio.Protocol):
    """A connection that is closed as soon as it is made (the fault `starting`)."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class Life:
    """One process: engine, websockets, routes, listener, and the two tasks that end with it."""

    def __init__(
        self,
        folders: Folders,
        faults: Faults,
        *,
        version: str,
        started: Callable[[str], None],
        posted: Callable[[], None],
        uploaded: Callable[[str], None],
        viewed: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        """`started` gets each prompt id as its execution starts, `posted` is called for each POST /prompt, `uploaded` gets each file
        that was uploaded, `viewed` the Range of each GET /view, `changed` is called at each change of queue and history."""
        self._faults = faults
        self._sockets = Sockets(faults)
        self.engine = Engine(folders, faults, self._sockets, started, changed)
        files = Files(folders, faults, uploaded, viewed)
        self._routes = Routes(
            self.engine, self._sockets, files, folders, faults, version=version, posted=posted
        )
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._ended = False
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self, host: str, port: int) -> int:
        app = web.Application(client_max_size=UPLOAD_LIMIT, middlewares=[self._spoil, _check_origin])
        for method, path, handler in self._routes.table():
            app.router.add_route(method, path, handler)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=DYING_SECONDS, keepalive_timeout=3630.0
        )
        await self._runner.setup()
        http = self._runner.server
        assert http is not None
        make = lambda: _Slam() if self._faults.starting or self._ended else http()  # noqa: E731 (the two share no base)
        self._server = await asyncio.get_running_loop().create_server(make, host, port)
        self._tasks = [
            asyncio.create_task(self.engine.work(), name="stand-in worker"),
            asyncio.create_task(self._publish(), name="stand-in publisher"),
        ]
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def end(self) -> None:
        self._ended = True
        if self._server:
            await end_accepting(self._server)  # aiohttp closes only what it has met
        for task in self._tasks:
            task.cancel()
        # A worker that died of a re-used id with a number, or a publisher of a clientId that is a list, is part of the game.
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._runner:
            await self._runner.cleanup()
        await _some_turns()  # asyncio closes the sockets of closed transports a turn later

    async def _publish(self) -> None:
        """The publisher's death is the server's (measured: client_id as a list)."""
        try:
            await self._sockets.publish()
        except TypeError:
            assert self._server is not None
            assert self._runner is not None
            await end_accepting(self._server)
            if self._runner.server:
                await self._runner.server.shutdown(DYING_SECONDS)

    @web.middleware
    async def _spoil(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The faults that concern every request."""
        if self._faults.slow_answers:
            await asyncio.sleep(self._faults.slow_answers)
        match self._faults.html_login:
            case "401":
                return web.Response(status=401, text=LOGIN_PAGE, content_type="text/html")
            case "redirect":
                return web.Response(status=302, headers={"Location": "/login"})
            case "html":
                return web.Response(text=LOGIN_PAGE, content_type="text/html")
        return await handler(request)


@web.middleware
async def _check_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse other sites' pages, as 0.33 does without --enable-cors-header: only for a loopback Host."""
    host = urlsplit("//" + request.headers.get("Host", "").lower())
    origin = urlsplit(request.headers.get("Origin", "").lower())
    ours, theirs = host.netloc, origin.netloc
    if origin.port is None:
        ours = host.hostname or ""
    if host.port is None:
        theirs = origin.hostname or ""
    foreign = host.hostname in LOOPBACK and bool(ours and theirs) and ours != theirs
    if foreign or request.headers.get("Sec-Fetch-Site") == "cross-site":
        return web.Response(status=403)
    return web.Response() if request.method == "OPTIONS" else await handler(request)
