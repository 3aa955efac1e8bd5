"""The control API's server: one route table, served on a socket that is given.

The table is the contents of docs/api.md, and a test compares the two. How a job or a tunnel behaves is none of this room's business;
neither is where the socket comes from (listen.py).
"""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self

from aiohttp import web

from comfytunnel.api import (
    assets,
    doctor,
    generate,
    jobs,
    metrics,
    outages,
    queue,
    stream,
    tunnels,
    workflows,
)
from comfytunnel.api.answers import BODY_LIMIT, Handler, errors_to_json, owner_only, sign
from comfytunnel.api.context import CONTEXT, Context

ROUTES: list[tuple[str, str, Handler]] = [
    ("GET", "/v1/status", tunnels.status),
    ("GET", "/v1/tunnels", tunnels.listing),
    ("GET", "/v1/tunnels/{name}", tunnels.show),
    ("POST", "/v1/tunnels/{name}/up", tunnels.up),
    ("POST", "/v1/tunnels/{name}/down", tunnels.down),
    ("POST", "/v1/tunnels/{name}/reconnect", tunnels.reconnect),
    ("POST", "/v1/tunnels/{name}/trust", tunnels.trust),
    ("GET", "/v1/health", tunnels.health),
    ("GET", "/v1/ready", tunnels.ready),
    ("GET", "/v1/metrics", metrics.show),
    ("GET", "/v1/outages", outages.listing),
    ("GET", "/v1/doctor", doctor.doctor),
    ("GET", "/v1/events", stream.daemon_events),
    ("POST", "/v1/reload", tunnels.reload),
    ("GET", "/v1/queue", queue.show),
    ("POST", "/v1/queue/pause", queue.pause),
    ("POST", "/v1/queue/drain", queue.drain),
    ("POST", "/v1/queue/resume", queue.resume),
    ("POST", "/v1/jobs/{id}/retry", queue.retry),
    ("POST", "/v1/jobs/{id}/priority", queue.prioritise),
    ("POST", "/v1/jobs/{id}/move", queue.move),
    ("DELETE", "/v1/jobs/{id}", queue.remove),
    ("GET", "/v1/workflows", workflows.listing),
    ("GET", "/v1/workflows/{name}", workflows.show),
    ("POST", "/api/generate", generate.generate),
    ("GET", "/api/v2/jobs", jobs.listing),
    ("POST", "/api/v2/jobs", jobs.submit),
    ("GET", "/api/v2/jobs/{id}", jobs.show),
    ("GET", "/api/v2/jobs/{id}/workflow", jobs.workflow),
    ("GET", "/api/v2/jobs/{id}/events", stream.job_events),
    ("POST", "/api/v2/jobs/{id}/cancel", jobs.cancel),
    ("POST", "/api/v2/assets", assets.upload),
    ("POST", "/api/v2/assets/from-hash", assets.from_hash),
    ("HEAD", "/api/v2/assets/by-hash/{hash}", assets.by_hash),
    ("GET", "/api/v2/assets/{id}", assets.show),
    ("GET", "/api/v2/assets/{id}/content", assets.content),
    ("DELETE", "/api/v2/assets/{id}", assets.delete),
]

STOP_GRACE = 1.0  # seconds that requests under way get when the daemon stops; it has 2 s in all


class Server:
    """The API on one listening Unix socket, from `async with` to its end. The socket stays the caller's to close."""

    def __init__(self, its: Context, sock: socket.socket) -> None:
        self._context = its
        self._sock = sock
        app = web.Application(client_max_size=BODY_LIMIT, middlewares=[errors_to_json, owner_only])
        app[CONTEXT] = its
        for method, path, handler in ROUTES:
            app.router.add_route(method, path, handler)
        app.on_response_prepare.append(sign)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_GRACE)

    async def __aenter__(self) -> Self:
        """Answer from now on; callers that came before have waited in the backlog."""
        await self._runner.setup()
        await web.SockSite(self._runner, self._sock).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take no more callers, end the streams at once, let the rest finish within STOP_GRACE."""
        self._context.closing.set(True)
        await self._runner.cleanup()
