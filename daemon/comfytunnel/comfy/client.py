"""ComfyUI's HTTP API as typed methods, each with a deadline and a cap on what it reads; no retries.

It speaks to the door like anybody else: over TCP, or over the door's Unix socket. What fails is a ComfyError (errors.py draws the
tree). How a request is sent and its answer read is exchange.py's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec

from comfytunnel.comfy import answers, shapes
from comfytunnel.comfy.download import Download, download
from comfytunnel.comfy.errors import NotComfyUI, Refused
from comfytunnel.comfy.exchange import Exchanges, within
from comfytunnel.comfy.shapes import History, Queue
from comfytunnel.comfy.upload import upload

PROBE_DEADLINE = 10.0
"""Seconds. The server's loop does real work: a preview blocks answers for 1.4 s (measured); less than 10 finds a false "down"."""
SUBMIT_DEADLINE = 60.0
"""Seconds for a POST /prompt: up to 100 MB of workflow, and validation looks at files."""
INFO_DEADLINE = 180.0
"""Seconds for all of /object_info: 10 MB on a line of 1 Mbit/s take 80."""
MAX_INFO = 64 * 1024**2
"""Bytes of /object_info."""
MAX_CLASS = 500
"""Characters of a class's name."""
RECENT = 20
"""Entries of history that are searched for a job whose id an old server replaced."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """ComfyUI's answer to a prompt that it took. `prompt_id` is the server's, None if it said none that can be one (look it up); `skipped`: outputs
    that it will leave out, and why."""

    prompt_id: str | None
    number: float | None
    skipped: list[str]


class Client:
    """One ComfyUI. Use it in one event loop; `close()` when done."""

    def __init__(self, base_url: str, *, unix_socket: str | None = None) -> None:
        self._http = Exchanges(base_url.rstrip("/"), unix_socket)

    async def close(self) -> None:
        await self._http.close()

    async def version(self) -> str | None:
        """The probe: /system_stats must be ComfyUI's JSON. The version, None for servers that don't say."""
        return shapes.read_version(await self._http.json("GET", "/system_stats", PROBE_DEADLINE, cap=1024**2))

    async def remaining(self) -> int | None:
        """How many prompts run or wait there; the cheapest question (1 ms)."""
        return shapes.read_remaining(await self._http.json("GET", "/prompt", PROBE_DEADLINE, cap=1024**2))

    async def object_info(self, class_type: str | None = None) -> bytes:
        """What the nodes take and give: JSON as it came, some MB for all classes (0.75 bare, 10 with many nodes). With a class: of that one
        alone, `{}` if there is none of that name."""
        path, deadline = "/object_info", INFO_DEADLINE
        if class_type is not None:
            path, deadline = f"{path}/{quote(class_type, safe='')}", PROBE_DEADLINE
        return await self._http.answer("GET", path, deadline, MAX_INFO)

    async def replaced_classes(self) -> list[str]:
        """Classes that are gone, and that ComfyUI itself puts others in the place of (since about 0.6: an older one has none)."""
        try:
            answer = await self._http.json("GET", "/node_replacements", PROBE_DEADLINE)
        except NotComfyUI:
            return []
        return [key for key in answer if len(key) <= MAX_CLASS] if isinstance(answer, dict) else []

    async def queue(self) -> Queue:
        return await self._http.long("/queue", lambda raw: shapes.read_queue(answers.queue(raw)))

    async def history(self, prompt_id: str) -> History | None:
        def read(raw: bytes) -> History | None:
            return shapes.read_history(answers.history(raw, only=prompt_id)).get(prompt_id)

        return await self._http.long(f"/history/{prompt_id}", read)

    async def recent(self) -> list[History]:
        """The last entries of the history, oldest first."""

        def read(raw: bytes) -> list[History]:
            return list(shapes.read_history(answers.history(raw, last=RECENT)).values())

        return await self._http.long("/history", read, params={"max_items": str(RECENT)})

    async def submit(
        self, graph: Mapping[str, Any], job_id: str, client_id: str, *, partner_key: str | None = None
    ) -> Submitted:
        """POST /prompt. Ambiguous means: it may run. Refused (400, 413, 422) means: it will not. `partner_key` is put where
        ComfyUI's partner nodes look for it."""
        secret = {} if partner_key is None else {shapes.PARTNER_KEY: partner_key}
        body = msgspec.json.encode(
            {
                "prompt": graph,
                "prompt_id": job_id,
                "client_id": client_id,  # a string, always: else cached nodes' outputs stay out of history
                "extra_data": {shapes.JOB_KEY: job_id, **secret},
            }
        )
        answer = await self._http.json("POST", "/prompt", SUBMIT_DEADLINE, data=body)
        if not isinstance(answer, dict) or "prompt_id" not in answer:
            raise NotComfyUI("the answer to POST /prompt is not ComfyUI's", status=200)
        number = answer.get("number")
        return Submitted(
            shapes.prompt_id(answer["prompt_id"]),
            number if type(number) in (int, float) else None,
            shapes.skipped_outputs(answer.get("node_errors")),
        )

    async def delete_pending(self, prompt_id: str) -> None:
        """Take a waiting prompt out of the queue; without effect on one that runs."""
        await self._http.send(
            "POST", "/queue", PROBE_DEADLINE, data=msgspec.json.encode({"delete": [prompt_id]})
        )

    async def interrupt(self, prompt_id: str) -> None:
        """Interrupt this prompt if it runs. Servers before 0.3.5x ignore the id and stop whoever runs: call it only for
        one that has just been seen running."""
        await self._http.send(
            "POST", "/interrupt", PROBE_DEADLINE, data=msgspec.json.encode({"prompt_id": prompt_id})
        )

    async def upload_temp(self, name: str, data: bytes) -> str:
        """Leave a small file in temp/, which a starting ComfyUI wipes. Returns the name that it was given."""
        form = aiohttp.FormData()
        form.add_field("image", data, filename=name, content_type="application/octet-stream")
        form.add_field("type", "temp")
        answer = await self._http.json("POST", "/upload/image", PROBE_DEADLINE, data=form)
        given = answer.get("name") if isinstance(answer, dict) else None
        if not isinstance(given, str) or not given:
            raise NotComfyUI("the answer to an upload is not ComfyUI's")
        return shapes.written(given[:400])

    async def has_temp(self, name: str) -> bool:
        """Whether that file is still there: the same process as then."""
        try:
            await self._http.send("HEAD", "/view", PROBE_DEADLINE, params={"filename": name, "type": "temp"})
        except Refused as error:
            if error.status == 404:
                return False
            raise
        return True

    async def size_of_input(self, name: str, subfolder: str) -> int | None:
        """Bytes of that file in input/, None if it is not there, -1 if it does not say."""
        place = {"filename": name, "subfolder": subfolder, "type": "input"}
        try:
            async with self._http.request("HEAD", "/view", within(PROBE_DEADLINE), params=place) as answer:
                length = answer.headers.get("Content-Length", "")
                return int(length) if length.isascii() and length.isdigit() else -1
        except Refused:
            return None

    async def upload_input(
        self, read: Callable[[], Awaitable[bytes]], size: int, name: str, subfolder: str, *, overwrite: bool
    ) -> str:
        """Send a file of `size` bytes, as `read` gives it piece by piece, into input/. Returns what a node calls it: ComfyUI may have given
        another name. Without `overwrite` a file of that name and other bytes stays. Refused with 413: larger than it takes."""
        return await upload(self._http.request, read, size, name, subfolder, overwrite=overwrite)

    def view(
        self, filename: str, subfolder: str, kind: str, *, start: int = 0, tag: str | None = None
    ) -> AbstractAsyncContextManager[Download]:
        """Download one output; with the `tag` of an earlier Download, from byte `start` on if it is still that file. Refused with status
        404: it is gone; 412 or 416: it has changed. The deadline is on silence, not on the whole."""
        return download(self._http.request, filename, subfolder, kind, start, tag)

    async def websocket(self, client_id: str) -> aiohttp.ClientWebSocketResponse[bool]:
        """Open /ws. The caller reads it all the time, because the server has no time-out towards a stalled client."""
        return await self._http.websocket("/ws", {"clientId": client_id})
