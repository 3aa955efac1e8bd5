"""Handlers of /api/v2/assets: files come in, are described, handed out and deleted. To the letter of Comfy API v2.

What jobs have made and what was uploaded answer under the same routes. A file may be a node's, which nobody trusts: no answer here lets a
browser run it. An upload is streamed, never whole in memory (upload.py reads the form).
"""

from __future__ import annotations

import asyncio
import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import msgspec
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from comfytunnel import wire
from comfytunnel.api.answers import answer, claim_of, read_json
from comfytunnel.api.context import context, origin
from comfytunnel.api.upload import read_form
from comfytunnel.errors import NotFoundError, RefusedError, UsageError
from comfytunnel.jobs.about import about, digest_of
from comfytunnel.jobs.model import Asset, Output

SHOWABLE = frozenset(
    {"image/png", "image/jpeg", "image/webp", "image/gif", "image/avif", "video/mp4", "video/webm"}
    | {"audio/mpeg", "audio/flac", "audio/ogg", "audio/wav", "audio/x-wav", "audio/mp4"}
)
"""What a browser shows without running any of it; all else is saved, never shown (html, svg, xml, pdf, js run code)."""


@dataclass(frozen=True, slots=True)
class _Found:
    asset: Asset | Output
    path: Path
    stat: os.stat_result

    @property
    def name(self) -> str:
        return (self.asset.file_path or self.asset.id) if isinstance(self.asset, Asset) else self.asset.name


async def upload(request: web.Request) -> web.Response:
    """201 with new bytes, 200 with bytes that were here; a record of its own in both cases."""
    its, claim = context(request).assets, claim_of(request)
    if claim is not None:
        await context(request).store.claimed(claim, its.now())
    async with its.incoming() as coming:
        form = await read_form(request, coming)
        told = about(form.content_type, form.file_path, form.tags, form.expires_in, its.now())
        asset, new = await its.keep(coming, told, expected=form.expected, claim=claim)
    return answer(_view(request, asset, created_new=new), 201 if new else 200)


async def from_hash(request: web.Request) -> web.Response:
    """201 with a new record of bytes that are here, 200 with one that says the same already."""
    its = context(request).assets
    try:
        asked = await read_json(request, wire.FromHash)
        told = about(None, asked.file_path, tuple(asked.tags), asked.expires_in, its.now())
    except UsageError as error:  # the contract knows no 422 here: what does not fit finds nothing
        raise NotFoundError(
            error.message, hint=error.hint, code="blob_not_found", details=error.details
        ) from error
    asset, new = await its.from_hash(digest_of(asked.hash), told)
    return answer(_view(request, asset, created_new=False), 201 if new else 200)


async def by_hash(request: web.Request) -> web.Response:
    """200 or 404: would from-hash find these bytes?"""
    if not await context(request).assets.has(digest_of(request.match_info["hash"])):
        raise NotFoundError("There are no bytes of that hash.", code="blob_not_found")
    return web.Response()


async def show(request: web.Request) -> web.Response:
    found, its = await _find(request), context(request)
    until = None
    if isinstance(found.asset, Output):
        job = await its.store.get(found.asset.job_id)
        until = its.scheduler.settings.keep.outputs_until(job.completed_at if job else None)
    written = datetime.fromtimestamp(found.stat.st_mtime, UTC)
    return answer(_view(request, found.asset, written=written, until=until))


async def content(request: web.Request) -> web.StreamResponse:
    """The bytes, whole or the range that was asked for."""
    found = await _find(request)
    kind = found.asset.content_type
    way = "inline" if kind in SHOWABLE else "attachment"
    headers = {
        "Content-Type": kind if way == "inline" else "application/octet-stream",
        "Content-Disposition": f"{way}; filename*=UTF-8''{quote(found.name, safe='')}",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-cache",
    }
    return _File(found, headers)


class _File(web.FileResponse):
    """Never a neighbour's bytes: for a reader that takes gzip, aiohttp would serve NAME.gz in the place of NAME, which may be another output
    of an untrusted node."""

    def __init__(self, found: _Found, headers: dict[str, str]) -> None:
        super().__init__(found.path, headers=headers)
        self._found = found

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        dropped = {"accept-encoding"}
        if _changed(request.headers.get("If-Range"), self._found.stat):
            dropped |= {"range", "if-range"}  # the whole: a range would be of other bytes than the caller has
        plain = {name: value for name, value in request.headers.items() if name.lower() not in dropped}
        return await super().prepare(request.clone(headers=plain))


def _changed(if_range: str | None, found: os.stat_result) -> bool:
    """Whether an entity tag in If-Range is not that of the file; aiohttp looks at dates only, and takes a tag for none (3.14).
    The tag is the one that it sends."""
    return (
        if_range is not None
        and if_range.strip().startswith(('"', "W/"))
        and (if_range.strip() != f'"{found.st_mtime_ns:x}-{found.st_size:x}"')
    )


async def delete(request: web.Request) -> web.Response:
    """204. What a job has made belongs to the job: 409."""
    asset_id = request.match_info["id"]
    if await context(request).assets.delete(asset_id):
        return web.Response(status=204)
    if await context(request).store.asset(asset_id) is not None:
        raise RefusedError(
            f"The asset {asset_id} cannot be deleted: it is still in use.",
            hint="A job's outputs go with the job; the files in your folder are yours to delete.",
            code="asset_in_use",
        )
    raise _unknown(asset_id)


async def _find(request: web.Request) -> _Found:
    """Return the asset and its file. NotFoundError when it is unknown, or its file has been taken away."""
    asset_id, its = request.match_info["id"], context(request)
    asset: Asset | Output | None = await its.assets.get(asset_id) or await its.store.asset(asset_id)
    if asset is None:
        raise _unknown(asset_id)
    path = its.assets.path(asset.blake3) if isinstance(asset, Asset) else Path(asset.path)
    try:
        found = await asyncio.to_thread(path.lstat)
    except OSError:
        found = None
    if found is None or not stat.S_ISREG(found.st_mode):
        raise NotFoundError(
            f"The file of asset {asset_id} is gone: {path}",
            hint="It was moved or deleted after the job had ended."
            if isinstance(asset, Output)
            else "Somebody took it out of comfytunnel's folder: upload it again.",
        )
    return _Found(asset, path, found)


def _unknown(asset_id: str) -> NotFoundError:
    return NotFoundError(
        f"There is no asset {asset_id}.",
        hint="A job's `outputs` name those it has made; an upload's answer names the one that it made.",
    )


def _view(
    request: web.Request,
    asset: Asset | Output,
    *,
    written: datetime | None = None,
    until: datetime | None = None,
    created_new: bool | msgspec.UnsetType = msgspec.UNSET,
) -> wire.Asset:
    """`written`, `until`: when the file of an output was, and when it is forgotten."""
    if isinstance(asset, Asset):
        asset_id, created, named, until = asset.id, asset.created_at, asset.file_path, asset.expires_at
        made_by: str | msgspec.UnsetType = msgspec.UNSET
        extra = wire.AssetExtra(tags=list(asset.tags))
    else:
        asset_id, created, named = asset.asset_id, written or datetime.now(UTC), asset.name
        made_by = asset.job_id
        extra = wire.AssetExtra(asset.path, asset.sha256, asset.cached)
    return wire.Asset(
        id=asset_id,
        hash=f"blake3:{asset.blake3}",
        size_bytes=asset.size,
        content_type=asset.content_type,
        created_at=created,
        url=f"{origin(request)}/api/v2/assets/{asset_id}/content",
        url_expires_at=until or wire.NEVER,
        file_path=named,
        created_new=created_new,
        expires_at=until,
        job_id=made_by,
        comfytunnel=extra,
    )
