"""Handlers of what /v1 can do with jobs beyond Comfy API v2: retry, priority and place in line, being forgotten, the queue as a whole.

What may be done is judged by the scheduler; here a request is only read and an answer drawn.
"""

from __future__ import annotations

import msgspec
from aiohttp import web

from comfytunnel import wire
from comfytunnel.api.answers import answer, read_json, read_query
from comfytunnel.api.context import Context, context, origin, over_tcp
from comfytunnel.api.jobs import find, view
from comfytunnel.errors import RefusedError, UsageError
from comfytunnel.jobs.model import Job, Mode
from comfytunnel.jobs.retention import forget
from comfytunnel.words import DRAINED


async def show(request: web.Request) -> web.Response:
    return answer(await state(context(request)))


async def pause(request: web.Request) -> web.Response:
    return await _set(request, Mode.PAUSED)


async def drain(request: web.Request) -> web.Response:
    return await _set(request, Mode.DRAINING)


async def resume(request: web.Request) -> web.Response:
    return await _set(request, Mode.OPEN)


async def _set(request: web.Request, mode: Mode) -> web.Response:
    await context(request).scheduler.set_mode(mode)
    return await show(request)


async def state(its: Context) -> wire.Queue:
    """Return the queue as it is now. `drained` is what a drain comes to, and holds until the queue is resumed."""
    queue, on_server = its.scheduler.queue.value, await its.store.on_server()
    shown = DRAINED if queue.mode is Mode.DRAINING and not on_server else queue.mode.value
    return wire.Queue(state=shown, since=queue.since, waiting=await its.store.in_line(), on_server=on_server)


async def retry(request: web.Request) -> web.Response:
    """201 with the new job. Over TCP nobody is told of its end: who may have the daemon call somebody asks on the socket."""
    its, job_id = context(request), _id(request)
    async with its.assets.again(await its.store.inputs(job_id)) as inputs:
        job = await its.scheduler.retry(job_id, inputs, hooked=not over_tcp(request))
    return await _job(request, job, 201)


async def prioritise(request: web.Request) -> web.Response:
    asked = await read_json(request, wire.PriorityRequest)
    return await _job(request, await context(request).scheduler.prioritise(_id(request), asked.priority))


async def move(request: web.Request) -> web.Response:
    asked = await read_json(request, wire.MoveRequest)
    if [asked.before is not None, asked.to is not None, asked.tunnel is not msgspec.UNSET].count(True) != 1:
        raise UsageError(
            "A job is moved to one place: `before` another job, `to` front or back, or to a `tunnel`.",
            hint='Send {"before": ID}, {"to": "front"} or {"tunnel": NAME}; {"tunnel": null} is any.',
            details={"path": "$"},
        )
    scheduler = context(request).scheduler
    if asked.tunnel is not msgspec.UNSET:
        if over_tcp(request):
            raise RefusedError(
                "To which tunnel a job goes is decided on the control socket only.",
                hint=f"Run: comfytunnel jobs move {_id(request)} --tunnel NAME",
            )
        return await _job(request, await scheduler.move_to(_id(request), asked.tunnel))
    if asked.to == "front":
        return await _job(request, await scheduler.place_first(_id(request)))
    return await _job(request, await scheduler.place_before(_id(request), asked.before))


async def remove(request: web.Request) -> web.Response:
    """Forget an ended job. 200 with what became of its files."""
    its, asked = context(request), read_query(request.query.items(), wire.RemoveQuery)
    job = await find(request)
    found = await its.store.outputs(job.id)
    gone, stay = await forget(its.store, job, found, files=asked.files)
    return answer(wire.Removed(job.id, gone, stay))


def _id(request: web.Request) -> str:
    return request.match_info["id"]


async def _job(request: web.Request, job: Job, status: int = 200) -> web.Response:
    return answer(await view(context(request), job, origin(request)), status)
