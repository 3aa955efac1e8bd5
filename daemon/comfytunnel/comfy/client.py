"""ComfyUI's HTTP API as typed methods, each with a deadline and a cap on what it reads; no retries, no cookies, no redirects.

It speaks to the door like anybody else: over TCP, or over the door's Unix socket. What fails is a ComfyError (errors.py draws the
tree). Requests that change something go over a fresh connection each, so that none is lost in a connection that has died
unnoticed, and one that fails or is given up is reset: nothing more of it is sent. Reading shares a few.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from comfytunnel.comfy import answers, shapes
from comfytunnel.comfy.download import Download, download
from comfytunnel.comfy.errors import Ambiguous, NotComfyUI, Refused, Unreachable
from comfytunnel.comfy.reset import Kept, Resettable
from comfytunnel.comfy.shapes import History, Queue
from comfytunnel.comfy.upload import upload

T = TypeVar("T")

PROBE_DEADLINE = 10.0
"""Seconds. The server's loop does real work: a preview blocks answers for 1.4 s (measured); less than 10 finds a false "down"."""
READ_DEADLINE = 30.0
"""Seconds for a whole answer of queue, history and the like, which can be megabytes on a thin line."""
SUBMIT_DEADLINE = 60.0
"""Seconds for a POST /prompt: up to 100 MB of workflow, and validation looks at files."""
CONNECT_DEADLINE = 10.0
MAX_ANSWER = 64 * 1024**2
"""Bytes of JSON: /queue and /history carry whole workflows of everybody, and one with pictures in it is tens of megabytes."""
MAX_SMALL = 4 * 1024**2
"""Bytes of any other JSON."""
IN_A_THREAD = 1024**2
"""Bytes of JSON from which on it is read on a thread; it takes some 10 ms a MiB."""
INFO_DEADLINE = 180.0
"""Seconds for all of /object_info: 10 MB on a line of 1 Mbit/s take 80."""
READ_AHEAD = 1024**2
"""Bytes that aiohttp reads ahead of us (twice that, before it stops reading); with its own 64 KiB an output stops and goes at every read."""
MAX_FRAME = 64 * 1024**2
"""Bytes of a websocket message: previews of 8 MB occur (measured)."""
MAX_INFO = 64 * 1024**2
"""Bytes of /object_info."""
MAX_CLASS = 500
"""Characters of a class's name."""
RECENT = 20
"""Entries of history that are searched for a job whose id an old server replaced."""


NOT_DELIVERED = "X-Comfytunnel-Cause"
"""Our own door's 503 carries it: there was no link, nothing has reached ComfyUI."""


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
        self.base_url = base_url.rstrip("/")
        self._unix_socket = unix_socket
        self._shared: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        for session in (self._shared, self._fresh):
            if session is not None:
                await session.close()
        self._shared = self._fresh = None

    async def version(self) -> str | None:
        """The probe: /system_stats must be ComfyUI's JSON. The version, None for servers that don't say."""
        return shapes.read_version(await self._json("GET", "/system_stats", PROBE_DEADLINE, cap=1024**2))

    async def remaining(self) -> int | None:
        """How many prompts run or wait there; the cheapest question (1 ms)."""
        return shapes.read_remaining(await self._json("GET", "/prompt", PROBE_DEADLINE, cap=1024**2))

    async def object_info(self, class_type: str | None = None) -> bytes:
        """What the nodes take and give: JSON as it came, some MB for all classes (0.75 bare, 10 with many nodes). With a class: of that one
        alone, `{}` if there is none of that name."""
        path, deadline = "/object_info", INFO_DEADLINE
        if class_type is not None:
            path, deadline = f"{path}/{quote(class_type, safe='')}", PROBE_DEADLINE
        return await self._answer("GET", path, deadline, MAX_INFO)

    async def replaced_classes(self) -> list[str]:
        """Classes that are gone, and that ComfyUI itself puts others in the place of (since about 0.6: an older one has none)."""
        try:
            answer = await self._json("GET", "/node_replacements", PROBE_DEADLINE)
        except NotComfyUI:
            return []
        return [key for key in answer if len(key) <= MAX_CLASS] if isinstance(answer, dict) else []

    async def queue(self) -> Queue:
        return await self._long("/queue", lambda raw: shapes.read_queue(answers.queue(raw)))

    async def history(self, prompt_id: str) -> History | None:
        def read(raw: bytes) -> History | None:
            return shapes.read_history(answers.history(raw, only=prompt_id)).get(prompt_id)

        return await self._long(f"/history/{prompt_id}", read)

    async def recent(self) -> list[History]:
        """The last entries of the history, oldest first."""

        def read(raw: bytes) -> list[History]:
            return list(shapes.read_history(answers.history(raw, last=RECENT)).values())

        return await self._long("/history", read, params={"max_items": str(RECENT)})

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
        answer = await self._json("POST", "/prompt", SUBMIT_DEADLINE, data=body)
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
        await self._send("POST", "/queue", PROBE_DEADLINE, data=msgspec.json.encode({"delete": [prompt_id]}))

    async def interrupt(self, prompt_id: str) -> None:
        """Interrupt this prompt if it runs. Servers before 0.3.5x ignore the id and stop whoever runs: call it only for
        one that has just been seen running."""
        await self._send(
            "POST", "/interrupt", PROBE_DEADLINE, data=msgspec.json.encode({"prompt_id": prompt_id})
        )

    async def upload_temp(self, name: str, data: bytes) -> str:
        """Leave a small file in temp/, which a starting ComfyUI wipes. Returns the name that it was given."""
        form = aiohttp.FormData()
        form.add_field("image", data, filename=name, content_type="application/octet-stream")
        form.add_field("type", "temp")
        answer = await self._json("POST", "/upload/image", PROBE_DEADLINE, data=form)
        given = answer.get("name") if isinstance(answer, dict) else None
        if not isinstance(given, str) or not given:
            raise NotComfyUI("the answer to an upload is not ComfyUI's")
        return shapes.written(given[:400])

    async def has_temp(self, name: str) -> bool:
        """Whether that file is still there: the same process as then."""
        try:
            await self._send("HEAD", "/view", PROBE_DEADLINE, params={"filename": name, "type": "temp"})
        except Refused as error:
            if error.status == 404:
                return False
            raise
        return True

    async def size_of_input(self, name: str, subfolder: str) -> int | None:
        """Bytes of that file in input/, None if it is not there, -1 if it does not say."""
        place = {"filename": name, "subfolder": subfolder, "type": "input"}
        try:
            async with self._request("HEAD", "/view", _within(PROBE_DEADLINE), params=place) as answer:
                length = answer.headers.get("Content-Length", "")
                return int(length) if length.isascii() and length.isdigit() else -1
        except Refused:
            return None

    async def upload_input(
        self, read: Callable[[], Awaitable[bytes]], size: int, name: str, subfolder: str, *, overwrite: bool
    ) -> str:
        """Send a file of `size` bytes, as `read` gives it piece by piece, into input/. Returns what a node calls it: ComfyUI may have given
        another name. Without `overwrite` a file of that name and other bytes stays. Refused with 413: larger than it takes."""
        return await upload(self._request, read, size, name, subfolder, overwrite=overwrite)

    def view(
        self, filename: str, subfolder: str, kind: str, *, start: int = 0, tag: str | None = None
    ) -> AbstractAsyncContextManager[Download]:
        """Download one output; with the `tag` of an earlier Download, from byte `start` on if it is still that file. Refused with status
        404: it is gone; 412 or 416: it has changed. The deadline is on silence, not on the whole."""
        return download(self._request, filename, subfolder, kind, start, tag)

    async def websocket(self, client_id: str) -> aiohttp.ClientWebSocketResponse[bool]:
        """Open /ws. The caller reads it all the time, because the server has no time-out towards a stalled client."""
        session = self._session(fresh=True)
        try:
            async with asyncio.timeout(CONNECT_DEADLINE):
                return await session.ws_connect(
                    f"{self.base_url}/ws",
                    params={"clientId": client_id},
                    max_msg_size=MAX_FRAME,
                    heartbeat=20.0,
                    timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
                )
        except aiohttp.WSServerHandshakeError as error:
            raise NotComfyUI(f"/ws answered {error.status}", status=error.status) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _lost(error) from error

    def _session(self, *, fresh: bool) -> aiohttp.ClientSession:
        kept = self._fresh if fresh else self._shared
        if kept is None:
            connector: aiohttp.BaseConnector
            if self._unix_socket is not None:
                connector = aiohttp.UnixConnector(self._unix_socket, force_close=fresh, limit=16)
            else:
                connector = aiohttp.TCPConnector(force_close=fresh, limit=16)
            kept = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                request_class=Resettable,
                read_bufsize=READ_AHEAD,
                auto_decompress=False,  # we ask for identity; what is compressed all the same is garbage, not a bomb
                headers={"Accept-Encoding": "identity", "User-Agent": "comfytunnel"},
            )
            if fresh:
                self._fresh = kept
            else:
                self._shared = kept
        return kept

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, timeout: aiohttp.ClientTimeout, **given: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request; yields a 2xx answer and raises a ComfyError for all else. A POST that is not answered so is reset."""
        session = self._session(fresh=method == "POST")
        kept = Kept()
        if isinstance(given.get("data"), bytes):
            # As a file, which aiohttp sends piece by piece: bytes go to the transport whole, and copying 100 MB holds up the loop.
            given |= {"data": io.BytesIO(given["data"]), "headers": {"Content-Type": "application/json"}}
        url = f"{self.base_url}{path}"
        try:
            try:
                answer = await session.request(
                    method, url, timeout=timeout, allow_redirects=False, middlewares=(kept,), **given
                )
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise _lost(error) from error
            async with (
                answer
            ):  # outside the inner try: what the caller raises while it reads is not the road's
                if not 200 <= answer.status < 300:
                    raise await _rejection(answer, method, path)
                yield answer
        except BaseException:
            if method == "POST":
                kept.reset()
            raise

    async def _send(self, method: str, path: str, deadline: float, **given: Any) -> None:
        async with self._request(method, path, _within(deadline), **given) as answer:
            await _bounded(answer, 1024**2)

    async def _json(
        self, method: str, path: str, deadline: float, *, cap: int = MAX_SMALL, **given: Any
    ) -> Any:
        with _read(path):
            return answers.any_json(await self._answer(method, path, deadline, cap, **given))

    async def _long(self, path: str, read: Callable[[bytes], T], **given: Any) -> T:
        """GET what may be megabytes."""
        raw = await self._answer("GET", path, READ_DEADLINE, MAX_ANSWER, **given)
        with _read(path):
            return await asyncio.to_thread(read, raw) if len(raw) > IN_A_THREAD else read(raw)

    async def _answer(self, method: str, path: str, deadline: float, cap: int, **given: Any) -> bytes:
        async with self._request(method, path, _within(deadline), **given) as answer:
            raw = await _bounded(answer, cap)
            if answer.content_type == "text/html":
                raise NotComfyUI(f"a web page answers {path} instead of ComfyUI", status=answer.status)
            return raw


@contextmanager
def _read(path: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise NotComfyUI(f"{path} was answered with something that is not the JSON of ComfyUI") from error


def _within(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds, sock_connect=min(CONNECT_DEADLINE, seconds))


async def _bounded(answer: aiohttp.ClientResponse, cap: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    try:
        async for chunk in answer.content.iter_any():
            size += len(chunk)
            if size > cap:
                raise NotComfyUI(f"an answer is longer than {cap // 1024**2} MiB", status=answer.status)
            parts.append(chunk)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise _lost(error) from error
    return b"".join(parts)


async def _rejection(answer: aiohttp.ClientResponse, method: str, path: str) -> Exception:
    """The error for an answer that is not 2xx."""
    status = answer.status
    if status == 503 and NOT_DELIVERED in answer.headers:
        return Unreachable(f"the door did not deliver it ({shapes.plain(answer.headers[NOT_DELIVERED], 80)})")
    if status >= 500:
        return Ambiguous(f"{method} {path} was answered {status}", status=status)
    page = answer.content_type == "text/html"
    if status < 400 or status in (401, 407) or page or (status in (403, 404, 405) and path != "/view"):
        return NotComfyUI(f"{method} {path} was answered {status}: this is not ComfyUI itself", status=status)
    try:
        body = answers.any_json(await _bounded(answer, MAX_SMALL))
    except (NotComfyUI, ValueError, RecursionError):
        body = None  # no, too much or something else: the status alone says no
    return Refused(f"{method} {path} was answered {status}", status=status, body=body)


def _lost(error: BaseException) -> Unreachable | Ambiguous:
    """What an exception of aiohttp says about the request: only a failed connect proves that nothing was sent."""
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)):
        return Unreachable(f"no connection ({_brief(error)})")
    if isinstance(error, TimeoutError):
        return Ambiguous("no answer within the deadline", silent=True)
    return Ambiguous(f"the connection was closed without a whole answer ({_brief(error)})")


def _brief(error: BaseException) -> str:
    """What the system said, without aiohttp's words around it."""
    if isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error
    said = error.strerror if isinstance(error, OSError) else str(error)
    return shapes.plain(said, 200) or type(error).__name__
