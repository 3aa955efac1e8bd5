"""The stand-in's HTTP API but for the files: the table of routes and their handlers.

The shapes of the answers were measured on 0.33 and are held against a real server by tests/contract. What ComfyUI knows lives in the
Engine; here it is only asked and told.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from comfytunnel.demo import jobview
from comfytunnel.demo.engine import Engine, Item
from comfytunnel.demo.faults import Faults
from comfytunnel.demo.files import Files
from comfytunnel.demo.folders import Folders
from comfytunnel.demo.graph import validate
from comfytunnel.demo.nodes import NODES, REPLACED, describe
from comfytunnel.demo.sockets import FEATURES, Sockets

FRONT_PAGE = "<!DOCTYPE html><html><head><title>ComfyUI</title></head><body>ComfyUI stand-in</body></html>"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Routes:
    """The handlers of one process. `posted` is called for each POST /prompt."""

    def __init__(
        self,
        engine: Engine,
        sockets: Sockets,
        files: Files,
        folders: Folders,
        faults: Faults,
        *,
        version: str,
        posted: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._sockets = sockets
        self._files = files
        self._folders = folders
        self._faults = faults
        self._version = version
        self._age = tuple(int(part) for part in version.split(".")[:3])
        self._posted = posted

    def table(self) -> list[tuple[str, str, Handler]]:
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

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        def resume(client: str) -> str | None:
            return self._engine.last_node if client == self._engine.client else None

        answer: web.StreamResponse = await self._sockets.handle(request, self._engine.info, resume)
        return answer

    async def _get_prompt(self, _: web.Request) -> web.Response:
        return web.json_response(self._engine.info())

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
        self._engine.put(item)
        if faults.take("drop_prompt_response"):
            return _cut(request)
        if faults.take("reject_prompt_500"):
            raise RuntimeError("fault: queued all the same")
        return web.json_response(
            {"prompt_id": prompt_id, "number": number, "node_errors": verdict.node_errors}
        )

    def _next_number(self, *, front: bool) -> int:
        number = self._engine.number
        self._engine.number += 1
        return -number if front else number

    async def _get_queue(self, _: web.Request) -> web.Response:
        pending = [item[:5] for item in self._engine.queue]
        return web.json_response(
            {"queue_running": [item[:5] for item in self._engine.running], "queue_pending": pending}
        )

    async def _post_queue(self, request: web.Request) -> web.Response:
        said = await request.json()
        if said.get("clear"):
            self._engine.clear()
        for prompt_id in said.get("delete", ()):
            self._engine.delete(prompt_id)
        return web.Response()

    async def _interrupt(self, request: web.Request) -> web.Response:
        try:
            said = await request.json()
        except json.JSONDecodeError:
            said = {}
        self._engine.interrupt(said.get("prompt_id") or None)
        return web.Response()

    async def _get_history(self, request: web.Request) -> web.Response:
        history = self._engine.history
        if (prompt_id := request.match_info.get("prompt_id")) is not None:
            return web.json_response({prompt_id: history[prompt_id]} if prompt_id in history else {})
        most = int(request.query.get("max_items", len(history)))
        offset = int(request.query.get("offset", -1))
        first = max(0, len(history) - most) if offset < 0 else offset
        return web.json_response(dict(list(history.items())[first : first + most]))

    async def _post_history(self, request: web.Request) -> web.Response:
        said = await request.json()
        if said.get("clear"):
            self._engine.history.clear()
        for prompt_id in said.get("delete", ()):
            self._engine.history.pop(prompt_id, None)
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
        jobs = [jobview.queued(item, "in_progress") for item in self._engine.running]
        jobs += [jobview.queued(item, "pending") for item in self._engine.queue]
        jobs += [
            jobview.finished(prompt_id, entry, whole=False)
            for prompt_id, entry in self._engine.history.items()
        ]
        answer, status = jobview.listed(jobs, request.query)
        return web.json_response(answer, status=status)

    async def _job(self, request: web.Request) -> web.Response:
        job_id = request.match_info["job_id"]
        if (entry := self._engine.history.get(job_id)) is not None:
            return web.json_response(jobview.finished(job_id, entry, whole=True))
        for items, status in ((self._engine.running, "in_progress"), (self._engine.queue, "pending")):
            for item in items:
                if item[1] == job_id:
                    return web.json_response(jobview.queued(item, status))
        return web.json_response({"error": "Job not found"}, status=404)

    async def _cancel(self, request: web.Request) -> web.Response:
        job_id = request.match_info["job_id"]
        return web.json_response({"cancelled": self._engine.interrupt(job_id) or self._engine.delete(job_id)})


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
