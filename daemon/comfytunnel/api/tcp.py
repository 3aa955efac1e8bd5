"""The API on a loopback port, for programs that speak no Unix socket and for browsers: a part of the routes, behind a guard.

The law: nothing is served here that the table does not name, nothing to a caller that the guard or the token turns away, and nothing that
a browser could take for something else. Who may pass is decided by the Guard that app.py hands in; where it listens is the app's too.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import socket
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

from aiohttp import web

from comfytunnel.api.answers import BODY_LIMIT, Handler, errors_to_json, refusal, sign
from comfytunnel.api.arriving import SILENCE
from comfytunnel.api.connection import Connection
from comfytunnel.api.context import CONTEXT, TCP, Context
from comfytunnel.api.page import Page
from comfytunnel.api.routes import ROUTES
from comfytunnel.api.server import STOP_GRACE, add_routes
from comfytunnel.errors import Error, RefusedError
from comfytunnel.feed import Feed

OURS = frozenset(
    {
        ("GET", "/v1/status"),
        ("GET", "/v1/events"),
        ("GET", "/v1/outages"),
        ("POST", "/v1/queue/pause"),
        ("POST", "/v1/queue/resume"),
        ("POST", "/v1/queue/drain"),
        ("GET", "/v1/workflows"),
        ("GET", "/v1/workflows/{name}"),
        ("POST", "/v1/workflows/parameters"),
        ("POST", "/v1/jobs/{id}/move"),
        ("POST", "/v1/jobs/{id}/priority"),
        ("POST", "/v1/jobs/{id}/retry"),
        ("POST", "/api/generate"),
    }
)
"""What may be reached besides all of /api/v2 (docs/decisions/0010); never trust, reload, up or down."""

CALLERS_MOST = 1024  # open connections
STRANGER = 2.0  # seconds that a caller of another user has to read why it is turned away

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""On each answer that does not say otherwise itself."""


class Guard(Protocol):
    """Who may pass. Both return what is to be answered instead, None for who may."""

    def stranger(self, sock: socket.socket) -> Error | None:
        """Asked once for each connection."""

    def wrong(
        self, method: str, target: str, minor: int, fields: Mapping[str, Sequence[str]]
    ) -> Error | None:
        """Asked for each request; names of fields in lower case."""


class TcpApi:
    """The API for whoever accepts connections: `async with`, then call it for the protocol of each.

    `token` may be replaced at any time; "" means that everybody whom the guard lets pass is served. `silence`: as in arriving.py.
    """

    def __init__(self, its: Context, guard: Guard, token: str, silence: float = SILENCE) -> None:
        self.token = token
        self.silence = silence
        self.open: set[_Connection] = set()
        self.guard = guard
        self._open_to_all: set[Handler] = set()
        # Streams over TCP end when this listener does, not only with the daemon.
        self._context = dataclasses.replace(its, closing=Feed(False))
        app = web.Application(
            client_max_size=BODY_LIMIT, middlewares=[errors_to_json, self._guarded, self._with_token]
        )
        app[CONTEXT], app[TCP] = self._context, True
        app.on_response_prepare.extend([sign, _harden])
        add_routes(app, (route for route in ROUTES if route.path.startswith("/api/v2/") or route.key in OURS))
        for path, handler in Page().routes():
            app.router.add_get(path, handler)
            self._open_to_all.add(handler)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_GRACE)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the streams at once, let the rest finish within STOP_GRACE."""
        self._context.closing.set(True)
        await self._runner.cleanup()

    def __call__(self) -> asyncio.Protocol:
        server = self._runner.server
        if server is None:
            raise RuntimeError("TcpApi is not entered")
        return _Connection(self, server)

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = request.protocol
        stranger = connection.stranger if isinstance(connection, _Connection) else None
        fields = {name.lower(): request.headers.getall(name) for name in request.headers}
        wrong = stranger or self.guard.wrong(request.method, request.raw_path, request.version.minor, fields)
        return await handler(request) if wrong is None else refusal(wrong)

    @web.middleware
    async def _with_token(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        wanted = self.token and request.match_info.handler not in self._open_to_all
        if wanted and not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
            raise RefusedError(
                "This port wants the token of the config.",
                hint="Send the header `Authorization: Bearer TOKEN`; TOKEN is `[web] token` in the config.",
                code="unauthorized",
            )
        return await handler(request)


async def _harden(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


class _Connection(Connection):
    """One caller, who may be a stranger."""

    __slots__ = ("_api", "stranger")
    beside = HEADERS

    def __init__(self, api: TcpApi, server: web.Server) -> None:
        super().__init__(server, api.silence)
        self._api = api
        self.stranger: Error | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._api.open.add(self)
        sock = transport.get_extra_info("socket")
        self.stranger = self._api.guard.stranger(sock)
        if len(self._api.open) > CALLERS_MOST:
            self.force_close()
        elif self.stranger is not None:
            asyncio.get_running_loop().call_later(STRANGER, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._api.open.discard(self)
        super().connection_lost(exc)
