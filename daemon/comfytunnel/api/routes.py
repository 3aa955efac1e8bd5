"""The route table: all that is served, and of each route what it takes and what it may answer. A new route is a new row here.

One source: the servers route by it, /v1/openapi.json is drawn from it, docs/api.md is held against it, and tests/judge.py judges every answer
by it. What is served over TCP is told in tcp.py.
"""

from __future__ import annotations

import functools
from typing import Any

from aiohttp import web

from comfytunnel import wire
from comfytunnel.api import (
    assets,
    convert,
    doctor,
    generate,
    jobs,
    metrics,
    outages,
    queue,
    stream,
    tunnels,
    workflows,
)
from comfytunnel.api.answers import answer
from comfytunnel.api.route import Events, Form, Media, Route


async def openapi(_request: web.Request) -> web.Response:
    return answer(_document())


@functools.cache
def _document() -> dict[str, Any]:
    from comfytunnel.api.openapi import document  # when it is asked for: a start has no need of it

    return document(ROUTES)


NO_TUNNEL = ("tunnel_not_found",)
NO_JOB = ("not_found",)
SUBMITTING = (
    "invalid_workflow",
    "workflow_format_ui",
    "missing_asset",
    "unknown_tunnel",
    "invalid_webhook",
    "webhook_refused",
    "idempotency_key_reuse",
    "queue_full",
    "queue_draining",
)
JOB_EVENTS = Events(
    {
        "status": wire.StatusEvent,
        "progress": wire.Progress,
        "preview": wire.PreviewEvent,
        "output": wire.Output,
    }
)
DAEMON_EVENTS = Events(
    {"status": wire.Status, "tunnel": wire.TunnelEvent, "job": wire.Job, "outage": wire.Outage}, ids=True
)

ROUTES: list[Route] = [
    Route("GET", "/v1/status", tunnels.status, "The whole state of the daemon.", {200: wire.Status}),
    Route("GET", "/v1/tunnels", tunnels.listing, "All tunnels, by name.", {200: dict[str, wire.Tunnel]}),
    Route("GET", "/v1/tunnels/{name}", tunnels.show, "One tunnel.", {200: wire.Tunnel}, errors=NO_TUNNEL),
    Route(
        "POST",
        "/v1/tunnels/{name}/up",
        tunnels.up,
        "Want the tunnel from now on.",
        {200: wire.Tunnel},
        errors=NO_TUNNEL,
    ),
    Route(
        "POST",
        "/v1/tunnels/{name}/down",
        tunnels.down,
        "Close the link and keep it closed until it is wanted again.",
        {200: wire.Tunnel},
        errors=NO_TUNNEL,
    ),
    Route(
        "POST",
        "/v1/tunnels/{name}/reconnect",
        tunnels.reconnect,
        "Try at once, with a new link.",
        {200: wire.Tunnel},
        errors=(*NO_TUNNEL, "tunnel_down"),
    ),
    Route(
        "POST",
        "/v1/tunnels/{name}/trust",
        tunnels.trust,
        "Look at the host's key; with a fingerprint, trust that key from now on.",
        {200: wire.Trust},
        takes=wire.TrustRequest,
        optional=True,
        errors=(*NO_TUNNEL, "host_key_mismatch", "host_key_revoked", "host_unreachable", "not_ready"),
    ),
    Route("GET", "/v1/health", tunnels.health, "Whether the daemon lives.", {200: wire.Health}),
    Route(
        "GET",
        "/v1/ready",
        tunnels.ready,
        "Whether work could be done now: a link is up and its ComfyUI serves.",
        {200: wire.Ready},
        errors=("not_ready",),
    ),
    Route(
        "GET",
        "/v1/metrics",
        metrics.show,
        "The status as numbers, for Prometheus.",
        {200: Media(metrics.CONTENT_TYPE)},
    ),
    Route(
        "GET",
        "/v1/outages",
        outages.listing,
        "The times without a link that was wanted, newest first.",
        {200: wire.OutageList},
        query=wire.OutagesQuery,
        errors=("invalid_request", *NO_TUNNEL),
    ),
    Route(
        "GET",
        "/v1/doctor",
        doctor.doctor,
        "The road of each tunnel, examined step by step; takes 45 s at most.",
        {200: wire.Doctor},
        query=wire.DoctorQuery,
        errors=("invalid_request", *NO_TUNNEL, "not_ready"),
    ),
    Route(
        "GET",
        "/v1/events",
        stream.daemon_events,
        "What happens in the daemon, as it happens.",
        {200: DAEMON_EVENTS},
        errors=("invalid_request", "too_many_streams"),
    ),
    Route("GET", "/v1/openapi.json", openapi, "This document.", {200: dict[str, Any]}),
    Route(
        "POST",
        "/v1/reload",
        tunnels.reload,
        "Read the config again and say what changed.",
        {200: wire.Reloaded},
        errors=("config_error",),
    ),
    Route("GET", "/v1/queue", queue.show, "The queue as a whole.", {200: wire.Queue}),
    Route("POST", "/v1/queue/pause", queue.pause, "Give ComfyUI nothing more.", {200: wire.Queue}),
    Route(
        "POST",
        "/v1/queue/drain",
        queue.drain,
        "Give ComfyUI nothing more, and take no new job either.",
        {200: wire.Queue},
    ),
    Route("POST", "/v1/queue/resume", queue.resume, "Go on after a pause or a drain.", {200: wire.Queue}),
    Route(
        "POST",
        "/v1/jobs/{id}/retry",
        queue.retry,
        "A new job like the ended one.",
        {201: wire.Job},
        errors=(
            *NO_JOB,
            "job_not_ended",
            "credential_gone",
            "missing_asset",
            "unknown_tunnel",
            "queue_full",
            "queue_draining",
        ),
    ),
    Route(
        "POST",
        "/v1/jobs/{id}/priority",
        queue.prioritise,
        "Another priority for a waiting job.",
        {200: wire.Job},
        takes=wire.PriorityRequest,
        errors=(*NO_JOB, "job_not_waiting"),
    ),
    Route(
        "POST",
        "/v1/jobs/{id}/move",
        queue.move,
        "Another place in line for a waiting job, or another tunnel for any.",
        {200: wire.Job},
        takes=wire.MoveRequest,
        errors=(*NO_JOB, "job_not_waiting", "job_not_movable", "unknown_tunnel"),
    ),
    Route(
        "DELETE",
        "/v1/jobs/{id}",
        queue.remove,
        "Forget a job that has ended.",
        {200: wire.Removed},
        query=wire.RemoveQuery,
        errors=("invalid_request", *NO_JOB, "job_not_ended", "webhook_pending"),
    ),
    Route(
        "GET",
        "/v1/workflows",
        workflows.listing,
        "The workflows that have a name, and what may be set in each.",
        {200: wire.WorkflowList},
    ),
    Route(
        "GET",
        "/v1/workflows/{name}",
        workflows.show,
        "One of them, with its graph.",
        {200: wire.Workflow},
        errors=("workflow_not_found",),
    ),
    Route(
        "POST",
        "/v1/workflows/convert",
        convert.convert,
        "A workflow as ComfyUI's page saves it, in API format.",
        {200: wire.ConvertedWorkflow},
        takes=wire.ConvertRequest,
        errors=("workflow_format_ui", "unknown_tunnel"),
    ),
    Route(
        "POST",
        "/v1/workflows/parameters",
        workflows.parameters,
        "What may be set in a workflow without a name.",
        {200: wire.Workflow},
        takes=wire.ParametersRequest,
        errors=("invalid_workflow", "workflow_format_ui", "unknown_tunnel"),
    ),
    Route(
        "POST",
        "/api/generate",
        generate.generate,
        "Fill in a workflow and make a job of it: 200 if that has ended, 202 if not.",
        {200: wire.Job, 202: wire.Job},
        takes=wire.GenerateRequest,
        headers=("Idempotency-Key",),
        errors=(*SUBMITTING, "workflow_not_found", "config_error", "file_too_large"),
    ),
    Route(
        "GET",
        "/api/v2/jobs",
        jobs.listing,
        "The jobs that are kept, newest first.",
        {200: wire.JobList},
        query=wire.JobsQuery,
        errors=("invalid_request",),
    ),
    Route(
        "POST",
        "/api/v2/jobs",
        jobs.submit,
        "Submit a workflow. Accepted means on disk.",
        {201: wire.Job},
        takes=wire.JobRequest,
        headers=("Idempotency-Key",),
        errors=SUBMITTING,
    ),
    Route("GET", "/api/v2/jobs/{id}", jobs.show, "One job.", {200: wire.Job}, errors=NO_JOB),
    Route(
        "GET",
        "/api/v2/jobs/{id}/workflow",
        jobs.workflow,
        "The workflow as it was submitted.",
        {200: wire.JobWorkflow},
        errors=NO_JOB,
    ),
    Route(
        "GET",
        "/api/v2/jobs/{id}/events",
        stream.job_events,
        "What happens to the job, until it has ended.",
        {200: JOB_EVENTS},
        errors=(*NO_JOB, "too_many_streams"),
    ),
    Route(
        "POST",
        "/api/v2/jobs/{id}/cancel",
        jobs.cancel,
        "Cancel the job; one that has ended stays as it is.",
        {200: wire.Job},
        errors=NO_JOB,
    ),
    Route(
        "POST",
        "/api/v2/assets",
        assets.upload,
        "Upload a file: 201 with new bytes, 200 with bytes that were here.",
        {200: wire.Asset, 201: wire.Asset},
        takes=Form(fields=wire.AssetForm),
        headers=("Idempotency-Key",),
        errors=("invalid_request", "file_too_large", "hash_mismatch", "idempotency_key_reuse"),
    ),
    Route(
        "POST",
        "/api/v2/assets/from-hash",
        assets.from_hash,
        "A new asset of bytes that are here.",
        {200: wire.Asset, 201: wire.Asset},
        takes=wire.FromHash,
        errors=("blob_not_found",),
        unfit=(),  # the contract knows no 422 here
    ),
    Route(
        "HEAD",
        "/api/v2/assets/by-hash/{hash}",
        assets.by_hash,
        "Whether bytes of that hash are here.",
        {200: None},
        errors=("blob_not_found",),
    ),
    Route("GET", "/api/v2/assets/{id}", assets.show, "One file.", {200: wire.Asset}, errors=NO_JOB),
    Route(
        "GET",
        "/api/v2/assets/{id}/content",
        assets.content,
        "The bytes of a file, whole or in part.",
        {200: Media("*/*"), 206: Media("*/*"), 304: None, 412: None, 416: None},
        headers=("Range", "If-Range", "If-Match", "If-None-Match"),
        errors=("not_found",),
    ),
    Route(
        "DELETE",
        "/api/v2/assets/{id}",
        assets.delete,
        "Forget an upload.",
        {204: None},
        errors=("not_found", "asset_in_use"),
    ),
]
