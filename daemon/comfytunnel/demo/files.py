"""GET /view and POST /upload/image of the stand-in: what is served, refused and renamed, as measured on 0.33.

The answers to bad names (400, 403, 404) are the real ones, weak spots included; nothing outside of the three folders is
ever read or written.
"""

from __future__ import annotations

import asyncio
import io
import mimetypes
import os
from collections.abc import Callable
from pathlib import Path

from aiohttp import BodyPartReader, web
from PIL import Image

from comfytunnel.demo.faults import Faults
from comfytunnel.demo.folders import Folders

PIECE = 256 * 1024
"""Bytes of an upload that are read at a time."""


class Files:
    """The file half of the HTTP API over one base folder. `uploaded` gets the path, below that folder, of each file that was taken,
    `viewed` the Range of each download ("" if it has none)."""

    def __init__(
        self,
        folders: Folders,
        faults: Faults,
        uploaded: Callable[[str], None],
        viewed: Callable[[str], None],
    ) -> None:
        self._viewed = viewed
        self._folders = folders
        self._faults = faults
        self._uploaded = uploaded

    async def view(self, request: web.Request) -> web.StreamResponse:
        """One file, whole or a range; with `preview` or `channel` encoded anew and whole."""
        query = request.query
        if request.method == "GET":
            self._viewed(request.headers.get("Range", ""))
            if self._faults.take("reject_view_500"):
                return web.Response(status=500)
        if "filename" not in query:
            return web.Response(status=404)
        if self._faults.evil_filename:
            return web.Response(body=b"evil bytes", content_type="image/png")
        name, folder = self._folders.annotated(query["filename"])
        if not name or name.startswith("/") or ".." in name:
            return web.Response(status=400)
        kind = query.get("type", "output")
        folder = folder or self._folders.of(kind)
        if folder is None:
            return web.Response(status=400)
        wanted = Path(os.path.abspath(folder / query.get("subfolder", "")))  # noqa: PTH100 (links stay unresolved)
        if not wanted.is_relative_to(folder):
            return web.Response(status=403)
        path = wanted / Path(name).name
        if (self._faults.missing_output and folder.name == "output") or not _is_file(path):
            return web.Response(status=404)
        if "preview" in query:
            quality = query["preview"].split(";")
            return _reencoded(path, quality[0], int(quality[-1]) if quality[-1].isdigit() else 90)
        if query.get("channel") in ("rgb", "a"):
            return _channel(path, query["channel"])
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        shown = path.name.replace("\\", "\\\\").replace('"', '\\"')
        headers = {"X-Content-Type-Options": "nosniff", "Content-Disposition": f'filename="{shown}"'}
        headers["Content-Type"] = kind
        if request.method == "GET":
            stall = self._faults.take("stall_view")
            if stall or self._faults.take("truncate_view"):
                return await _truncated(request, path, headers, stall=stall)
        return web.FileResponse(path, headers=headers)

    async def upload(self, request: web.Request) -> web.Response:
        """Store a multipart `image`; the answer's name is the one to use from then on."""
        fields, name, body = await self._parts(request)
        if self._faults.take("reject_upload_500"):
            raise OSError("No space left on device")  # the real one, too, answers 500
        if self._faults.slow_upload:
            await asyncio.sleep(self._faults.slow_upload)
        kind = fields.get("type", "input")
        folder = self._folders.of(kind)
        if folder is None:
            raise ValueError(f"no folder for the type {kind!r}")  # the real one, too, answers 500
        if not name:
            return web.Response(status=400)
        subfolder = fields.get("subfolder", "")
        target = Path(os.path.abspath(folder / subfolder / name))  # noqa: PTH100 (as in view)
        if not target.is_relative_to(folder):
            return web.Response(status=400)
        target.parent.mkdir(parents=True, exist_ok=True)
        if fields.get("overwrite") not in ("true", "1"):
            wished, number = target, 1
            while target.exists() and target.read_bytes() != body:
                target = wished.with_name(f"{wished.stem} ({number}){wished.suffix}")
                number += 1
        target.write_bytes(body)
        self._uploaded(target.relative_to(self._folders.base).as_posix())
        if self._faults.late_upload_answer:
            await asyncio.sleep(self._faults.late_upload_answer)
        return web.json_response({"name": target.name, "subfolder": subfolder, "type": kind})

    async def _parts(self, request: web.Request) -> tuple[dict[str, str], str, bytes]:
        """(text fields, name of the `image`, its bytes) of a form; an upload that is cut short raises, one that is too large is 413."""
        fields: dict[str, str] = {}
        name, body = "", bytearray()
        if not request.content_type.startswith("multipart/"):
            return fields, name, b""
        cut = self._faults.take("cut_upload")
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader):
                continue
            if part.name == "image" and part.filename:
                name = part.filename
                while chunk := await part.read_chunk(PIECE):
                    body += chunk
                    if len(body) > request.client_max_size:
                        raise web.HTTPRequestEntityTooLarge(request.client_max_size, len(body))
                    if cut and request.transport is not None:
                        request.transport.abort()
                        raise ConnectionResetError("cut on purpose")
            elif part.name:
                fields[part.name] = await part.text()
        return fields, name, bytes(body)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long or holds a zero byte
        return False


async def _truncated(
    request: web.Request, path: Path, headers: dict[str, str], *, stall: bool
) -> web.StreamResponse:
    """Half of what was asked for under the header of the whole, then the end of the connection, or (`stall`) silence until its end."""
    body = path.read_bytes()
    part = request.http_range
    asked = body[part]
    response = web.StreamResponse(status=200 if asked == body else 206, headers=headers)
    stat = path.stat()
    response.headers["ETag"] = f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'
    response.last_modified = stat.st_mtime
    if response.status == 206:
        start = len(body) - len(asked) if part.start and part.start < 0 else part.start or 0
        response.headers["Content-Range"] = f"bytes {start}-{start + len(asked) - 1}/{len(body)}"
    response.content_length = len(asked)
    await response.prepare(request)
    await response.write(asked[: len(asked) // 2])
    while stall and request.transport and not request.transport.is_closing():  # noqa: ASYNC110 (nothing tells a handler)
        await asyncio.sleep(0.02)
    if request.transport:
        request.transport.close()
    return response


def _reencoded(path: Path, kind: str, quality: int) -> web.Response:
    kind = kind if kind in ("webp", "jpeg") else "webp"
    with Image.open(path) as opened:
        return _picture(opened.convert("RGB") if kind == "jpeg" else opened, kind, path.name, quality)


def _channel(path: Path, channel: str) -> web.Response:
    with Image.open(path) as opened:
        if channel == "rgb":
            return _picture(opened.convert("RGB"), "png", path.name)
        alpha = Image.new("RGBA", opened.size)
        alpha.putalpha(opened.convert("RGBA").getchannel("A"))
        return _picture(alpha, "png", path.name)


def _picture(image: Image.Image, kind: str, name: str, quality: int = 90) -> web.Response:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, quality=quality)
    headers = {"Content-Disposition": f'filename="{name}"'}
    return web.Response(body=buffer.getvalue(), content_type=f"image/{kind}", headers=headers)
