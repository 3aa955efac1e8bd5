"""The control socket of a daemon whose own files cannot be used (a database of a newer version, a folder that others may write): it says so,
and does nothing else.

For a daemon under a service manager: one that ends instead is started again without end, by the manager and by each caller of its
socket. Not a mode of server.py: there is no store, no scheduler and no tunnel that its routes could ask.
"""

from __future__ import annotations

import asyncio
import os
import socket
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from aiohttp import web

from comfytunnel import __version__, wire
from comfytunnel.api.answers import answer, errors_to_json, owner_only, sign
from comfytunnel.api.connection import Connection
from comfytunnel.ending import end_accepting
from comfytunnel.errors import Error

LET_IN = 0.1  # seconds in which callers who were let in say what they want; who comes later waits for the successor


class Troubled:
    """Answers on a duplicate of the listening socket, from `async with` to its end: the socket is as before then."""

    def __init__(self, error: Error, config: str, sock: socket.socket) -> None:
        self.error = error
        self._config = config
        self._sock = sock.dup()
        self._began = datetime.now(UTC)
        app = web.Application(middlewares=[errors_to_json, owner_only])
        app.router.add_get("/v1/health", self._health)
        app.router.add_get("/v1/status", self._status)
        app.router.add_route("*", "/{path:.*}", self._refuse)
        app.on_response_prepare.append(sign)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)

    async def __aenter__(self) -> Self:
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
        await end_accepting(self._listening)
        await asyncio.sleep(LET_IN)  # cleanup drops whoever has not asked yet
        await self._runner.cleanup()
        self._sock.close()

    async def _health(self, _: web.Request) -> web.Response:
        return answer(wire.Health("ok", __version__, os.getpid()))

    async def _status(self, _: web.Request) -> web.Response:
        return answer(
            wire.Status(
                version=__version__,
                pid=os.getpid(),
                started_at=self._began,
                config=self._config,
                cause=wire.Cause(self.error.code_on_wire, self.error.message, self.error.hint),
            )
        )

    async def _refuse(self, _: web.Request) -> web.Response:
        raise self.error
