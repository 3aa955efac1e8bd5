"""Handlers of /api/v2/jobs, and the picture of a job as Comfy API v2 draws it.

The contract to the letter: absolute URLs from the request's Host, every field present, our own data under `comfytunnel`. What may be
submitted is judged by the scheduler; here a request is only read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec
from aiohttp import web

from comfytunnel import wire
from comfytunnel.api import webhooks
from comfytunnel.api.answers import answer, claim_of, read_json, read_query
from comfytunnel.api.context import Context, context, origin
from comfytunnel.comfy.shapes import PARTNER_KEY
from comfytunnel.errors import NotFoundError, UsageError, WorkflowError
from comfytunnel.jobs.model import Generated, Hook, Job, LiveProgress, NewJob, Output, Status
from comfytunnel.named import check_name

PARTNER_KEY_MOST = 4096  # characters
_LABEL = re.compile(r"metadata\[.*\]")  # as comfy-sdk 0.5 asks for jobs with labels


async def submit(request: web.Request) -> web.Response:
    """201 once the job is on disk, whether or not any tunnel is up. A claim that was used is refused before all else: the body need not
    even be read."""
    its, claim = context(request), claim_of(request)
    if claim is not None:
        await its.store.claimed(claim, datetime.now(UTC))
    asked = await _read_request(request)
    extra = asked.comfytunnel
    webhook = webhooks.read(request, extra.webhook)
    async with its.assets.bound(asked.workflow) as inputs:
        new = NewJob(
            workflow=asked.workflow,
            inputs=inputs,
            tunnel=extra.tunnel,
            label=extra.label,
            priority=extra.priority,
            ttl=extra.ttl,
            time_to_run=extra.time_to_run,
            fail_fast=extra.fail_fast,
            webhook=webhook,
            validate=extra.validate,
            generated=_made_from(extra.generated),
        )
        job = await its.scheduler.submit(new, claim=claim, partner_key=asked.extra_data.get(PARTNER_KEY))
    [shown] = await views(its, [job], origin(request), outputs={})
    return answer(shown, 201)


async def _read_request(request: web.Request) -> wire.JobRequest:
    try:
        asked = await read_json(request, wire.JobRequest)
    except UsageError as error:
        path = error.details.get("path")
        if path == "$.workflow" or (path == "$" and "field `workflow`" in error.message):
            raise WorkflowError(
                "The request holds no workflow: `workflow` must be a JSON object.",
                hint='Send {"workflow": {...}} with the graph that ComfyUI exports as "API format".',
                details=error.details,
            ) from error
        raise
    key = asked.extra_data.get(PARTNER_KEY, "")
    if not isinstance(key, str) or len(key) > PARTNER_KEY_MOST:
        raise UsageError(
            f"extra_data.{PARTNER_KEY} is not a key: it must be a text of at most {PARTNER_KEY_MOST} characters.",
            details={"path": f"$.extra_data.{PARTNER_KEY}"},
            hint="Copy it from the page of your account.",
        )
    for name in asked.extra_data.keys() - {PARTNER_KEY}:
        raise UsageError(
            f"extra_data holds {name!r}, which Comfy API v2 does not allow.",
            hint="Leave it out.",
            details={"path": f"$.extra_data.{name}"},
        )
    return asked


def _made_from(told: wire.GeneratedRequest | None) -> Generated | None:
    """Only its shape is judged: the workflow may have gone or changed since the submitter read it."""
    if told is None:
        return None
    check_name(told.workflow)
    return Generated(**msgspec.structs.asdict(told))


async def listing(request: web.Request) -> web.Response:
    """Newest first. Ours: the contract has no list. `metadata[KEY]=VALUE` asks for labels that no job has: we take none."""
    its = context(request)
    labels = {name for name in request.query if _LABEL.fullmatch(name)}
    plain = [(name, value) for name, value in request.query.items() if name not in labels]
    asked = read_query(plain, wire.JobsQuery)
    if labels:
        return answer(wire.JobList([], None))
    found, following = await its.store.listing(
        status=asked.status,
        prefix=asked.prefix,
        label=asked.label,
        tunnel=asked.tunnel,
        since=asked.since,
        cursor=asked.cursor,
        limit=asked.limit,
    )
    return answer(wire.JobList(await views(its, found, origin(request)), following))


async def show(request: web.Request) -> web.Response:
    """The only answer with the times of the nodes: there may be two hundred."""
    its = context(request)
    job = await find(request)
    shown = await view(its, job, origin(request))
    times = [wire.NodeTime(**msgspec.structs.asdict(time)) for time in await its.store.node_times(job.id)]
    if shown.comfytunnel is not None and times:
        extra = msgspec.structs.replace(shown.comfytunnel, node_times=times)
        shown = msgspec.structs.replace(shown, comfytunnel=extra)
    return answer(shown)


async def workflow(request: web.Request) -> web.Response:
    """The graph as it was submitted, without extra_data: that may hold a secret."""
    found = await context(request).store.workflow((await find(request)).id)
    if found is None:
        raise _unknown(request)
    return answer(wire.JobWorkflow(found))


async def cancel(request: web.Request) -> web.Response:
    """200 with the job as it is now: canceled, canceling, or ended already."""
    its = context(request)
    job = await its.scheduler.cancel((await find(request)).id)
    return answer(await view(its, job, origin(request)))


async def find(request: web.Request) -> Job:
    """Return the job that the path names. NotFoundError when there is none."""
    job = await context(request).store.get(request.match_info["id"])
    if job is None:
        raise _unknown(request)
    return job


def _unknown(request: web.Request) -> NotFoundError:
    return NotFoundError(
        f"There is no job {request.match_info['id']}.",
        hint="`comfytunnel jobs list` shows those that are kept.",
    )


async def view(its: Context, job: Job, base: str) -> wire.Job:
    """Return the job as the contract shows it; `base` is what its URLs start with."""
    return (await views(its, [job], base))[0]


async def views(
    its: Context, jobs: Sequence[Job], base: str, outputs: Mapping[str, list[Output]] | None = None
) -> list[wire.Job]:
    """As `view`, for many at once; `outputs` by job, where they are known."""
    if outputs is None:
        outputs = await its.store.outputs_of(job.id for job in jobs)
    hooked = [job.id for job in jobs if job.webhook]
    hooks = await its.store.hooks_of(hooked) if hooked else {}
    return [draw(its, job, outputs.get(job.id, []), base, hooks.get(job.id)) for job in jobs]


def draw(its: Context, job: Job, outputs: list[Output], base: str, hook: Hook | None = None) -> wire.Job:
    """As `view`, where the outputs are known, and what has become of the webhook."""
    keep = its.scheduler.settings.keep
    its_own = f"{base}/api/v2/jobs/{job.id}"
    return wire.Job(
        id=job.id,
        status=job.status.value,
        created_at=job.created_at,
        started_at=job.started_at,
        completed_at=job.completed_at,
        expires_at=keep.job_until(job.completed_at, bool(outputs)) or wire.NEVER,
        queue_position=its.scheduler.queue_position(job),
        progress=progress_view(its.scheduler.progress(job.id), job),
        outputs=[output_view(output, base, keep.outputs_until(job.completed_at)) for output in outputs],
        error=wire.JobError(**msgspec.structs.asdict(job.error)) if job.error else None,
        urls=wire.JobUrls(self=its_own, events=f"{its_own}/events", cancel=f"{its_own}/cancel"),
        metrics={
            "queue_ms": _milliseconds(job.created_at, job.started_at),
            "execution_ms": _milliseconds(job.started_at, job.completed_at),
        },
        comfytunnel=wire.JobExtra(
            revision=job.revision,
            tunnel=job.place or job.tunnel,
            label=job.label,
            priority=job.priority,
            ttl=job.ttl,
            time_to_run=job.time_to_run,
            fail_fast=job.fail_fast,
            waits_for=_waits_view(its, job),
            executions=job.executions,
            losses=job.losses,
            doubts=job.doubts,
            moves=job.moves,
            retry_of=job.retry_of,
            folder=job.folder,
            note=job.note,
            webhook=webhooks.show(job.ended, hook),
            warnings=list(job.warnings),
            generated=wire.Generated(**msgspec.structs.asdict(job.generated)) if job.generated else None,
        ),
    )


def status_view(its: Context, job: Job) -> wire.StatusEvent:
    waits = _waits_view(its, job)
    return wire.StatusEvent(
        job.status.value, its.scheduler.queue_position(job), wire.StatusExtra(waits) if waits else None
    )


def _waits_view(its: Context, job: Job) -> wire.WaitsFor | None:
    waits = its.scheduler.waits_for(job)
    if waits is None:
        return None
    return wire.WaitsFor(waits.code, waits.message, waits.since or job.created_at, waits.hint)


def progress_view(live: LiveProgress | None, job: Job) -> wire.Progress | None:
    """Return the latest snapshot; all of it for a job that has succeeded, null for one that has not begun."""
    if live is None:
        done = job.status is Status.SUCCEEDED
        return wire.Progress(1.0, job.nodes_total, job.nodes_total) if done else None
    return wire.Progress(
        value=min(max(live.value, 0.0), 1.0),
        nodes_done=live.nodes_done,
        nodes_total=live.nodes_total,
        current_node=live.current_node,
        current_node_class=live.current_node_class,
        step=live.step,
        steps=live.steps,
        message=live.message,
    )


def output_view(output: Output, base: str, until: datetime | None = None) -> wire.Output:
    """`until`: when the file is forgotten, None for never or not known yet."""
    return wire.Output(
        node_id=output.node_id,
        name=output.name,
        type=output.kind,
        content_type=output.content_type,
        size_bytes=output.size,
        id=output.asset_id,
        hash=f"blake3:{output.blake3}",
        url=f"{base}/api/v2/assets/{output.asset_id}/content",
        url_expires_at=until or wire.NEVER,
        job_id=output.job_id,
        comfytunnel=wire.OutputExtra(output.path, output.sha256, output.cached),
    )


def _milliseconds(start: datetime | None, end: datetime | None) -> int | None:
    return None if start is None or end is None else round((end - start).total_seconds() * 1000)
