"""One process of the stand-in: engine, websockets, the table of routes and their handlers, the listener.

A Life is begun once and ended once; a restart makes another. The shapes of the answers were measured on 0.33 and are held
against a real server by tests/contract. What ComfyUI knows lives in the Engine; here it is only asked and told.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from comfytunnel.demo import jobview
from comfytunnel.demo.engine import Engine, Item
from comfytunnel.demo.faults import Faults
from comfytunnel.demo.files import Files
from comfytunnel.demo.graph import validate
from comfytunnel.demo.nodes import NODES, REPLACED, Folders, describe
from comfytunnel.demo.sockets import FEATURES, Sockets

UPLOAD_LIMIT = 100 * 1024 * 1024
"""Bytes in one request's body; more is a 413 (measured, 0.33)."""

DYING_SECONDS = 0.05
"""How long a request in progress may go on when the process "dies"; aiohttp takes 0 for "for ever"."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")

LOGIN_PAGE = "<!DOCTYPE html><html><head><title>Login</title></head><body><form>Password</form></body></html>"
FRONT_PAGE = "<!DOCTYPE html><html><head><title>ComfyUI</title></head><body>ComfyUI stand-in</body></html>"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


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
        self._version = version
        self._age = tuple(int(part) for part in version.split(".")[:3])
        self._posted = posted
        self._folders = folders
        self._sockets = Sockets(faults)
        self._files = Files(folders, faults, uploaded, viewed)
        self.engine = Engine(folders, faults, self._sockets, started, changed)
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._ended = False
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self, host: str, port: int) -> int:
        app = web.Application(client_max_size=UPLOAD_LIMIT, middlewares=[self._spoil, _check_origin])
        for method, path, handler in self._routes():
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
            self._server.close()
        await (
            _some_turns()
        )  # aiohttp closes only what it has met: let it meet the connections that are just being accepted
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
            self._server.close()
            if self._runner.server:
                await self._runner.server.shutdown(DYING_SECONDS)

    def _routes(self) -> list[tuple[str, str, Handler]]:
        """The table of contents; every path is served with and without /api in front."""
        routes: list[tuple[str, str, Handler]] = [
            ("GET", "/ws", self._websocket),
            ("GET", "/prompt", self._get_prompt),
            ("POST", "/prompt", self._post_prompt),
            ("GET", "/queue", self._get_queue),
            ("POST", "/queue", self._post_queue),
            ("POST", "/interrupt", self._interrupt),
            ("GET", "/history", self._get_history),
            ("GET", "/history/{prompt_id}", self._get_history),
            ("POST", "/history", self._post_history),
            ("GET", "/object_info", self._object_info),
            ("GET", "/object_info/{node}", self._object_info),
            ("GET", "/node_replacements", self._node_replacements),
            ("GET", "/system_stats", self._system_stats),
            ("GET", "/features", self._features),
            ("GET", "/view", self._files.view),
            ("HEAD", "/view", self._files.view),
            ("POST", "/upload/image", self._files.upload),
        ]
        routes += [(method, "/api" + path, handler) for method, path, handler in routes]
        routes.append(("GET", "/", self._front_page))
        if self._age >= (0, 6):  # measured only at 0.33; "since about 0.6" in our facts
            routes += [("GET", "/api/jobs", self._jobs), ("GET", "/api/jobs/{job_id}", self._job)]
        if self._age >= (0, 26):  # as above, "about 0.26"
            routes.append(("POST", "/api/jobs/{job_id}/cancel", self._cancel))
        return routes

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

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        def resume(client: str) -> str | None:
            return self.engine.last_node if client == self.engine.client else None

        answer: web.StreamResponse = await self._sockets.handle(request, self.engine.info, resume)
        return answer

    async def _get_prompt(self, _: web.Request) -> web.Response:
        return web.json_response(self.engine.info())

    async def _post_prompt(self, request: web.Request) -> web.Response:
        said = await request.json()
        self._posted()
        faults = self._faults
        if faults.take("drop_prompt_request"):
            return _cut(request)
        if faults.take("reject_prompt_500_unqueued"):
            raise RuntimeError("fault: not queued")
        number = (
            float(said["number"])
            if "number" in said
            else self._next_number(front="front" in said and said["front"])
        )
        if "prompt" not in said:
            return _refused("no_prompt", "No prompt provided", "No prompt provided")
        prompt_id = said.get("prompt_id") if self._age >= (0, 3, 45) else None  # the field was ignored before
        if prompt_id is None:
            prompt_id = str(uuid.uuid4())
        elif self._age >= (0, 33) and not _is_canonical(prompt_id):
            details = "give a lower-case UUID with hyphens, or none at all"
            return _refused("invalid_prompt_id", "prompt_id must be a valid UUID", details)
        prompt = said["prompt"]
        verdict = validate(prompt, self._folders)
        extra = said.get("extra_data", {})
        if "client_id" in said:
            extra["client_id"] = said["client_id"]
        if verdict.error is not None:
            return web.json_response({"error": verdict.error, "node_errors": verdict.node_errors}, status=400)
        extra["create_time"] = int(time.time() * 1000)
        item: Item = (number, prompt_id, prompt, extra, verdict.outputs, {})
        self.engine.put(item)
        if faults.take("drop_prompt_response"):
            return _cut(request)
        if faults.take("reject_prompt_500"):
            raise RuntimeError("fault: queued all the same")
        return web.json_response(
            {"prompt_id": prompt_id, "number": number, "node_errors": verdict.node_errors}
        )

    def _next_number(self, *, front: bool) -> int:
        number = self.engine.number
        self.engine.number += 1
        return -number if front else number

    async def _get_queue(self, _: web.Request) -> web.Response:
        pending = [item[:5] for item in self.engine.queue]
        return web.json_response(
            {"queue_running": [item[:5] for item in self.engine.running], "queue_pending": pending}
        )

    async def _post_queue(self, request: web.Request) -> web.Response:
        said = await request.json()
        if said.get("clear"):
            self.engine.clear()
        for prompt_id in said.get("delete", ()):
            self.engine.delete(prompt_id)
        return web.Response()

    async def _interrupt(self, request: web.Request) -> web.Response:
        try:
            said = await request.json()
        except json.JSONDecodeError:
            said = {}
        self.engine.interrupt(said.get("prompt_id") or None)
        return web.Response()

    async def _get_history(self, request: web.Request) -> web.Response:
        history = self.engine.history
        if (prompt_id := request.match_info.get("prompt_id")) is not None:
            return web.json_response({prompt_id: history[prompt_id]} if prompt_id in history else {})
        most = int(request.query.get("max_items", len(history)))
        offset = int(request.query.get("offset", -1))
        first = max(0, len(history) - most) if offset < 0 else offset
        return web.json_response(dict(list(history.items())[first : first + most]))

    async def _post_history(self, request: web.Request) -> web.Response:
        said = await request.json()
        if said.get("clear"):
            self.engine.history.clear()
        for prompt_id in said.get("delete", ()):
            self.engine.history.pop(prompt_id, None)
        return web.Response()

    async def _object_info(self, request: web.Request) -> web.Response:
        one = request.match_info.get("node")
        names = NODES if one is None else [one] if one in NODES else []
        return web.json_response({name: describe(name, self._folders) for name in names})

    async def _node_replacements(self, _: web.Request) -> web.Response:
        return web.json_response(
            {old: [{"old_node_id": old, "new_node_id": new}] for old, new in REPLACED.items()}
        )

    async def _system_stats(self, _: web.Request) -> web.Response:
        memory = 16 * 1024**3
        system = {
            "os": sys.platform,
            "ram_total": memory,
            "ram_free": memory // 2,
            "comfyui_version": self._version,
        }
        system |= {
            "required_frontend_version": "",
            "python_version": sys.version,
            "pytorch_version": "none (stand-in)",
        }
        system |= {"embedded_python": False, "argv": ["main.py"]}
        device = {"name": "cpu", "type": "cpu", "index": None, "vram_total": memory, "vram_free": memory // 2}
        device |= {"torch_vram_total": memory, "torch_vram_free": memory // 2}
        return web.json_response({"system": system, "devices": [device]})

    async def _features(self, _: web.Request) -> web.Response:
        return web.json_response(FEATURES)

    async def _front_page(self, _: web.Request) -> web.Response:
        return web.Response(
            text=FRONT_PAGE, content_type="text/html", headers={"Cache-Control": "no-store, must-revalidate"}
        )

    async def _jobs(self, request: web.Request) -> web.Response:
        jobs = [jobview.queued(item, "in_progress") for item in self.engine.running]
        jobs += [jobview.queued(item, "pending") for item in self.engine.queue]
        jobs += [
            jobview.finished(prompt_id, entry, whole=False)
            for prompt_id, entry in self.engine.history.items()
        ]
        answer, status = jobview.listed(jobs, request.query)
        return web.json_response(answer, status=status)

    async def _job(self, request: web.Request) -> web.Response:
        job_id = request.match_info["job_id"]
        if (entry := self.engine.history.get(job_id)) is not None:
            return web.json_response(jobview.finished(job_id, entry, whole=True))
        for items, status in ((self.engine.running, "in_progress"), (self.engine.queue, "pending")):
            for item in items:
                if item[1] == job_id:
                    return web.json_response(jobview.queued(item, status))
        return web.json_response({"error": "Job not found"}, status=404)

    async def _cancel(self, request: web.Request) -> web.Response:
        job_id = request.match_info["job_id"]
        return web.json_response({"cancelled": self.engine.interrupt(job_id) or self.engine.delete(job_id)})


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


def _is_canonical(prompt_id: Any) -> bool:
    try:
        return isinstance(prompt_id, str) and str(uuid.UUID(prompt_id)) == prompt_id
    except ValueError:
        return False


def _refused(kind: str, message: str, details: str) -> web.Response:
    error = {"type": kind, "message": message, "details": details, "extra_info": {}}
    return web.json_response({"error": error, "node_errors": {}}, status=400)


def _cut(request: web.Request) -> web.Response:
    """Abort the connection, so that the answer goes nowhere."""
    if isinstance(request.transport, asyncio.Transport):
        request.transport.abort()
    return web.Response()
