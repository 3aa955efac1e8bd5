"""Every call of the control API, written once: a function takes what is asked and returns the Call; both shells carry it.

A new route gets its function here, and one line in blocking.py and in asynchronous.py. Nothing here waits, opens or sends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict, Unpack
from urllib.parse import quote, urlencode

import msgspec

from comfytunnel import wire
from comfytunnel.errors import RemoteError
from comfytunnel.protocol import Call

PAGE = 100  # jobs that the daemon sends at once, at the most
LOOK_PATIENCE = 30.0  # seconds for an answer that begins with a look at the host, and may write a file
UPLOAD_PATIENCE = 60.0  # seconds for the next bytes to be taken, or the answer: the daemon's disk may be slow
DOCTOR_PATIENCE = 60.0  # seconds; the daemon gives itself 45


class Asked(TypedDict, total=False):
    """What may be asked for a job, in `submit`, `run` and `generate`.

    tunnel: the name of the one whose ComfyUI is to run it; None: any. label: at most 200 characters, for people. priority: -1000 to 1000,
    higher runs earlier. ttl: seconds in which it must begin to run, else it expires. time_to_run: seconds that it may run. fail_fast: it fails
    where it would have to wait for more than the jobs before it. validate: False accepts what ComfyUI would seem to refuse. webhook: who is
    told of its end (http://, https:// or unix:/PATH), signed with `webhook_secret` (whsec_...) or the daemon's own secret.
    """

    tunnel: str | None
    label: str | None
    priority: int
    ttl: float | None
    time_to_run: float | None
    fail_fast: bool
    validate: bool
    webhook: str | None
    webhook_secret: str | None


def status() -> Call[wire.Status]:
    return Call("GET", "/v1/status", wire.Status)


def health() -> Call[wire.Health]:
    return Call("GET", "/v1/health", wire.Health)


class _Ready(Call[wire.Ready]):
    """Not to be ready is an answer too."""

    def read(self, status: int, body: bytes) -> wire.Ready:
        try:
            return super().read(status, body)
        except RemoteError as error:
            if error.code_on_wire != "not_ready":
                raise
            return wire.Ready(False, error.details.get("why") or {"": error.message})


def ready() -> Call[wire.Ready]:
    return _Ready("GET", "/v1/ready", wire.Ready)


def metrics() -> Call[bytes]:
    return Call("GET", "/v1/metrics", bytes)


def tunnels() -> Call[dict[str, wire.Tunnel]]:
    return Call("GET", "/v1/tunnels", dict[str, wire.Tunnel])


def tunnel(name: str) -> Call[wire.Tunnel]:
    return Call("GET", f"/v1/tunnels/{_part(name)}", wire.Tunnel)


def order(name: str, what: Literal["up", "down", "reconnect"]) -> Call[wire.Tunnel]:
    return Call("POST", f"/v1/tunnels/{_part(name)}/{what}", wire.Tunnel)


def trust(name: str, fingerprint: str | None) -> Call[wire.Trust]:
    body = msgspec.json.encode(wire.TrustRequest(fingerprint))
    return Call("POST", f"/v1/tunnels/{_part(name)}/trust", wire.Trust, body, patience=LOOK_PATIENCE)


def outages(name: str | None, limit: int | None) -> Call[wire.OutageList]:
    return Call("GET", f"/v1/outages{_query(tunnel=name, limit=limit)}", wire.OutageList)


def doctor(name: str | None) -> Call[wire.Doctor]:
    return Call("GET", f"/v1/doctor{_query(tunnel=name)}", wire.Doctor, patience=DOCTOR_PATIENCE)


def reload() -> Call[dict[str, Any]]:
    return Call("POST", "/v1/reload", dict[str, Any])


def submit(
    workflow: dict[str, Any],
    asked: Asked,
    key: str | None = None,
    generated: wire.GeneratedRequest | None = None,
) -> Call[wire.Job]:
    """`generated`: what the graph was made from, if that has a name. `key`: an Idempotency-Key; a second submission with it is answered with the error `idempotency_key_reuse`."""
    extra = wire.SubmissionExtra(**_extra(asked), generated=generated)
    body = msgspec.json.encode(wire.JobRequest(workflow=workflow, comfytunnel=extra))
    headers = {} if key is None else {"Idempotency-Key": key}
    return Call("POST", "/api/v2/jobs", wire.Job, body, headers)


def generate(
    workflow: str | dict[str, Any],
    params: Mapping[str, Any] | None,
    images: Mapping[str, str],
    asked: Asked,
    key: str,
) -> Call[wire.Job]:
    """`images`: ids of assets. The answer does not wait for the job: a client follows it, which outlives a restart of the daemon."""
    request = wire.GenerateRequest(
        workflow=workflow,
        params=dict(params or {}),
        images=dict(images),
        comfytunnel=wire.JobRequestExtra(**_extra(asked)),
    )
    headers = {"Idempotency-Key": key}
    return Call("POST", "/api/generate", wire.Job, msgspec.json.encode(request), headers)


def workflows() -> Call[wire.WorkflowList]:
    return Call("GET", "/v1/workflows", wire.WorkflowList)


def workflow(name: str) -> Call[wire.Workflow]:
    return Call("GET", f"/v1/workflows/{_part(name)}", wire.Workflow)


def convert(graph: dict[str, Any], tunnel: str | None) -> Call[wire.ConvertedWorkflow]:
    body = msgspec.json.encode(wire.ConvertRequest(workflow=graph, tunnel=tunnel))
    return Call("POST", "/v1/workflows/convert", wire.ConvertedWorkflow, body)


def job(job_id: str) -> Call[wire.Job]:
    return Call("GET", f"/api/v2/jobs/{_part(job_id)}", wire.Job)


def workflow_of(job_id: str) -> Call[wire.JobWorkflow]:
    return Call("GET", f"/api/v2/jobs/{_part(job_id)}/workflow", wire.JobWorkflow)


class Filters(TypedDict, total=False):
    """Which jobs are listed. `prefix`: what the id begins with, at least 4 characters; `label`: what stands in its label, whatever the case; `tunnel`: that it
    was given to, else asks for; `since`: RFC 3339, the earliest submission."""

    status: str | None
    prefix: str | None
    label: str | None
    tunnel: str | None
    since: str | None


def jobs(*, cursor: str | None, limit: int | None, **filters: Unpack[Filters]) -> Call[wire.JobList]:
    query = _query(**filters, cursor=cursor, limit=limit)
    return Call("GET", f"/api/v2/jobs{query}", wire.JobList)


def cancel(job_id: str) -> Call[wire.Job]:
    return Call("POST", f"/api/v2/jobs/{_part(job_id)}/cancel", wire.Job)


def retry(job_id: str) -> Call[wire.Job]:
    return Call("POST", f"/v1/jobs/{_part(job_id)}/retry", wire.Job)


def remove(job_id: str, *, files: bool) -> Call[wire.Removed]:
    query = _query(files="true") if files else ""
    return Call("DELETE", f"/v1/jobs/{_part(job_id)}{query}", wire.Removed)


def prioritise(job_id: str, priority: int) -> Call[wire.Job]:
    body = msgspec.json.encode(wire.PriorityRequest(priority))
    return Call("POST", f"/v1/jobs/{_part(job_id)}/priority", wire.Job, body)


def move(job_id: str, request: wire.MoveRequest) -> Call[wire.Job]:
    return Call("POST", f"/v1/jobs/{_part(job_id)}/move", wire.Job, msgspec.json.encode(request))


def queue(what: Literal["pause", "drain", "resume"] | None) -> Call[wire.Queue]:
    if what is None:
        return Call("GET", "/v1/queue", wire.Queue)
    return Call("POST", f"/v1/queue/{what}", wire.Queue)


def upload(headers: Mapping[str, str]) -> Call[wire.Asset]:
    """The headers and the body come from uploads.py."""
    return Call("POST", "/api/v2/assets", wire.Asset, headers=headers, patience=UPLOAD_PATIENCE)


def delete_asset(asset_id: str) -> Call[bytes]:
    return Call("DELETE", f"/api/v2/assets/{_part(asset_id)}", bytes)


def content(asset_id: str) -> Call[bytes]:
    return Call("GET", f"/api/v2/assets/{_part(asset_id)}/content", bytes)


def events(last_event_id: str | None) -> Call[bytes]:
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    return Call("GET", "/v1/events", bytes, headers=headers)


def job_events(job_id: str) -> Call[bytes]:
    return Call("GET", f"/api/v2/jobs/{_part(job_id)}/events", bytes)


def _extra(asked: Asked) -> dict[str, Any]:
    rest: dict[str, Any] = {**asked}
    url, secret = rest.pop("webhook", None), rest.pop("webhook_secret", None)
    hook = None if url is None else wire.WebhookRequest(url=url, secret=secret)
    return {**rest, "webhook": hook}


def _query(**asked: object) -> str:
    given = {name: value for name, value in asked.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""


def _part(name: str) -> str:
    return quote(name, safe="")
