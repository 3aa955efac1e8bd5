"""POST /api/generate: a workflow, values for its parameters, pictures; back comes the finished job, or the job and where to ask for it.

It makes an ordinary job in the ordinary way: what it waits for, what becomes of it and how it is cancelled is the same as of any other. A caller that
leaves while it waits cancels nothing.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import secrets
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from comfytunnel import wire
from comfytunnel.api import webhooks, workflows
from comfytunnel.api.answers import answer, claim_of, read_json
from comfytunnel.api.context import Context, context, origin
from comfytunnel.api.jobs import view
from comfytunnel.errors import UsageError
from comfytunnel.jobs.about import about
from comfytunnel.jobs.disk import on_thread
from comfytunnel.jobs.model import Generated, Job, NewJob
from comfytunnel.jobs.references import TYPE
from comfytunnel.workflow.values import Applied, apply_values, named

LOOK = 0.5  # seconds between two looks whether the caller is still there, and the daemon is not stopping: neither rings
MAX_WAITING = 64  # callers that are kept waiting; further ones get their 202 at once
IMAGE_KEPT = (
    604_800  # seconds that the record of a picture out of a data: URL stays: it can be named again so long
)
IMAGES_MOST = 64  # pictures of one request

_DATA = re.compile(r"data:(image/[a-z0-9.+-]{1,40});base64,", re.IGNORECASE)
_ASSET = re.compile(r"[0-9a-f-]{32,36}")


async def generate(request: web.Request) -> web.Response:
    """200 with a job that has ended, 202 with one that has not (yet)."""
    its, claim = context(request), claim_of(request)
    if claim is not None:
        await its.store.claimed(claim, datetime.now(UTC))
    asked = await read_json(request, wire.GenerateRequest)
    extra = asked.comfytunnel
    webhook = webhooks.read(request, extra.webhook)
    chosen = await workflows.meant(its, asked.workflow, extra.tunnel)
    filled = await _filled(its, chosen, asked)
    async with its.assets.bound(filled.workflow) as inputs:
        new = NewJob(
            workflow=filled.workflow,
            inputs=inputs,
            tunnel=extra.tunnel,
            label=extra.label,
            priority=extra.priority,
            ttl=extra.ttl,
            time_to_run=extra.time_to_run,
            fail_fast=extra.fail_fast,
            webhook=webhook,
            validate=extra.validate,
            generated=Generated(chosen.name or None, filled.params),
        )
        job = await its.scheduler.submit(new, claim=claim)
    job = await _ended(request, job, asked.wait)
    shown = await view(its, job, origin(request))
    return answer(shown, 200) if job.ended else answer(shown, 202, {"Location": shown.urls.self})


async def _filled(its: Context, chosen: wire.Workflow, asked: wire.GenerateRequest) -> Applied:
    """The graph with all that was asked for in it. Every value is judged before any picture is kept."""
    there = {parameter.name: parameter for parameter in chosen.parameters}
    pictures: dict[str, str] = {}
    for field, given in (("images", asked.images), ("params", asked.params)):
        for name, value in given.items():
            parameter = named(there, name, f"$.{field}")
            if parameter.kind == "image" and value is not None and value != parameter.default:
                pictures[name] = _picture(f"$.{field}.{name}", value, twice=name in pictures)
            elif field == "images" and parameter.kind != "image":
                raise _unfit(f"$.images.{name}", f"{name} is no picture", "Send it in `params`.")
    if len(pictures) > IMAGES_MOST:
        raise _unfit("$.images", f"there are more than {IMAGES_MOST}", "Leave some out.")
    values = {name: value for name, value in asked.params.items() if name not in pictures}
    graph = chosen.workflow or {}
    filled = await on_thread(lambda: apply_values(graph, chosen.parameters, values, _draw))
    if not pictures:
        return filled
    ids = {name: await _kept(its, name, value) for name, value in pictures.items()}
    references = {name: {"__type": TYPE, "info": {"id": asset_id}} for name, asset_id in ids.items()}
    with_pictures = apply_values(filled.workflow, [there[name] for name in ids], references, _draw)
    return Applied(with_pictures.workflow, filled.params | ids)


def _draw(low: int, high: int) -> int:
    return low + secrets.randbelow(high - low + 1)


def _picture(path: str, value: Any, *, twice: bool) -> str:
    if twice:
        raise _unfit(path, "the same picture stands in `images` too", "Send it once.")
    if not isinstance(value, str) or not (_ASSET.fullmatch(value) or _DATA.match(value[:64])):
        raise _unfit(
            path,
            "it is neither the id of an asset nor a data: URL",
            "Upload the picture (POST /api/v2/assets) and send its id, or send data:image/png;base64,...",
        )
    return value


async def _kept(its: Context, name: str, value: str) -> str:
    """The id of the asset that the picture is, or becomes."""
    found = _DATA.match(value[:64])
    if found is None:
        return value
    try:
        data = await on_thread(lambda: base64.b64decode(value[found.end() :], validate=True))
    except (binascii.Error, ValueError) as error:
        raise _unfit(
            f"$.images.{name}", f"its base64 cannot be read ({error})", "Upload it instead."
        ) from error
    # Without a name: workflows mean uploads by theirs, and nobody has given this one any.
    told = about(found[1], None, (), IMAGE_KEPT, its.assets.now())
    async with its.assets.incoming() as coming:
        await coming.write(data)
        asset, _ = await its.assets.keep(coming, told)
    return asset.id


def _unfit(path: str, why: str, hint: str) -> UsageError:
    return UsageError(
        f"The request does not fit: {why}, at {path[:200]}.", hint=hint, details={"path": path[:200]}
    )


async def _ended(request: web.Request, job: Job, seconds: float) -> Job:
    """The job when it has ended, or as it is when the time is over, the daemon stops, or too many wait already."""
    its, me = context(request), object()
    if len(its.waiting) >= MAX_WAITING:
        return job
    its.waiting.add(me)
    try:
        async with asyncio.timeout(seconds):
            while not job.ended and not its.closing.value:
                if request.transport is None:
                    raise ConnectionResetError("the caller left while it waited for its job")
                seen = its.store.revision.value
                latest = await its.store.get(job.id)
                if latest is None:  # forgotten meanwhile, by the config's wish: what is known is told
                    return job
                job = latest
                if not job.ended:
                    await _revised(its, seen)
    except TimeoutError:
        pass
    finally:
        its.waiting.discard(me)
    return job


async def _revised(its: Context, seen: int) -> None:
    """Return when any job has changed since, or after LOOK."""
    try:
        async with asyncio.timeout(LOOK):
            await its.store.revision.until(lambda revision: revision != seen)
    except TimeoutError:
        pass
