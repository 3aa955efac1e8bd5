"""Handlers of /api/v2/assets: what is known of a file, and its bytes.

The file came from a node that nobody trusts: no answer here lets a browser run it.
"""

from __future__ import annotations

import asyncio
import stat
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from aiohttp import web

from comfytunnel import wire
from comfytunnel.api.answers import answer
from comfytunnel.api.context import context, origin
from comfytunnel.errors import NotFoundError
from comfytunnel.jobs.model import Output

SHOWABLE = frozenset(
    {"image/png", "image/jpeg", "image/webp", "image/gif", "image/avif", "video/mp4", "video/webm"}
    | {"audio/mpeg", "audio/flac", "audio/ogg", "audio/wav", "audio/x-wav", "audio/mp4"}
)
"""What a browser shows without running any of it; all else is saved, never shown (html, svg, xml, pdf, js run code)."""


async def show(request: web.Request) -> web.Response:
    output, written = await _find(request)
    return answer(
        wire.Asset(
            id=output.asset_id,
            hash=f"blake3:{output.blake3}",
            size_bytes=output.size,
            content_type=output.content_type,
            created_at=written,
            url=f"{origin(request)}/api/v2/assets/{output.asset_id}/content",
            url_expires_at=wire.NEVER,
            file_path=output.name,
            job_id=output.job_id,
            comfytunnel=wire.OutputExtra(output.path, output.sha256, output.cached),
        )
    )


async def content(request: web.Request) -> web.StreamResponse:
    """The bytes, whole or the range that was asked for, and never those of a neighbour: for a reader that takes gzip, aiohttp would
    serve NAME.gz in the place of NAME, which may be another output of an untrusted node."""
    output, _ = await _find(request)
    way = "inline" if output.content_type in SHOWABLE else "attachment"
    headers = {
        "Content-Type": output.content_type if way == "inline" else "application/octet-stream",
        "Content-Disposition": f"{way}; filename*=UTF-8''{quote(output.name, safe='')}",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-cache",
    }
    response = web.FileResponse(Path(output.path), headers=headers)
    plain = {name: value for name, value in request.headers.items() if name.lower() != "accept-encoding"}
    await response.prepare(request.clone(headers=plain))
    return response


async def _find(request: web.Request) -> tuple[Output, datetime]:
    """Return the asset and when its file was written. NotFoundError when it is unknown, or its file has been taken away."""
    asset_id = request.match_info["id"]
    output = await context(request).store.asset(asset_id)
    if output is None:
        raise NotFoundError(
            f"There is no asset {asset_id}.", hint="A job's `outputs` name those it has made."
        )
    try:
        found = await asyncio.to_thread(Path(output.path).lstat)
    except OSError:
        found = None
    if found is None or not stat.S_ISREG(found.st_mode):
        raise NotFoundError(
            f"The file of asset {asset_id} is gone: {output.path}",
            hint="It was moved or deleted after the job had ended.",
        )
    return output, datetime.fromtimestamp(found.st_mtime, UTC)
