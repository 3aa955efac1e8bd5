"""POST /upload/image with a file of any size: read while it is sent, never whole in memory, under a deadline on silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp

from comfytunnel.comfy import answers, shapes
from comfytunnel.comfy.errors import Ambiguous, NotComfyUI
from comfytunnel.multipart import envelope

SILENCE = 300.0
"""Seconds in which nothing is taken or, once all is taken, no answer comes. What the road holds (megabytes in buffers and windows) needs
minutes on a thin line; whether the road is alive is the tunnel's to know."""
CONNECT_DEADLINE = 10.0
MAX_ANSWER = 64 * 1024
MAX_NAME = 400
"""Characters of a name that comes back."""

Request = Callable[..., AbstractAsyncContextManager[aiohttp.ClientResponse]]


async def upload(
    request: Request,
    read: Callable[[], Awaitable[bytes]],
    size: int,
    name: str,
    subfolder: str,
    *,
    overwrite: bool,
) -> str:
    """See Client.upload_input; `request` is that client's."""
    fields = [("type", "input"), ("subfolder", subfolder), *([("overwrite", "true")] if overwrite else [])]
    form = envelope(fields, "image", name, size)
    loop = asyncio.get_running_loop()

    async def body() -> AsyncIterator[bytes]:
        yield form.before
        while chunk := await read():
            yield chunk
            deadline.reschedule(loop.time() + SILENCE)
        yield form.after

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_DEADLINE)
    try:
        async with asyncio.timeout(SILENCE) as deadline:
            async with request("POST", "/upload/image", timeout, data=body(), headers=form.headers) as answer:
                return _told(await _read(answer), name, subfolder)
    except TimeoutError as error:
        raise Ambiguous("the upload made no progress", silent=True) from error


async def _read(answer: aiohttp.ClientResponse) -> Any:
    raw = bytearray()
    try:
        async for chunk in answer.content.iter_any():
            raw += chunk
            if len(raw) > MAX_ANSWER:
                raise NotComfyUI("the answer to an upload is longer than ComfyUI's", status=answer.status)
        return answers.any_json(bytes(raw))
    except (aiohttp.ClientError, OSError) as error:
        raise Ambiguous("the answer to an upload was cut") from error
    except (ValueError, RecursionError) as error:
        raise NotComfyUI("the answer to an upload is not ComfyUI's", status=answer.status) from error


def _told(answer: Any, name: str, subfolder: str) -> str:
    """What a node calls the file. Whatever the server says goes back to that server only."""
    told = answer.get("name") if isinstance(answer, dict) else None
    folder = answer.get("subfolder", subfolder) if isinstance(answer, dict) else None
    if not isinstance(told, str) or not 0 < len(told) <= MAX_NAME or not isinstance(folder, str):
        raise NotComfyUI("the answer to an upload is not ComfyUI's", status=200)
    where = shapes.written(folder[:MAX_NAME]).strip("/")
    return f"{where}/{shapes.written(told)}" if where else shapes.written(told)
