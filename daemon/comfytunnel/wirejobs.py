"""The JSON of jobs and files: the shapes of the Comfy API v2, what sits under `comfytunnel` in them, and what may be asked for.

Part of wire.py, which passes every name on: readers import them from there. The contract to the letter; nothing here does I/O.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args

import msgspec

from comfytunnel.words import DRAINED, MESSAGES, HookState, Mode, OutputKind, Status, one_of

NEVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""`expires_at` of what is kept for ever."""

Priority = Annotated[int, msgspec.Meta(ge=-1000, le=1000)]
"""Higher runs earlier."""
Limit = Annotated[float, msgspec.Meta(gt=0, le=31_536_000)]
"""Seconds, a year at most."""
ParamName = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[a-z0-9][a-z0-9_-]*$")]
"""Of a workflow's parameter."""
ParamValue = (
    bool
    | Annotated[int, msgspec.Meta(ge=-(2**53) + 1, le=2**53 - 1)]
    | float
    | Annotated[str, msgspec.Meta(max_length=100_000)]
)
"""What a parameter can be set to: numbers that a browser reads exactly, and texts no longer than a prompt."""


class JobCounts(msgspec.Struct, frozen=True):
    queued: int = 0
    running: int = 0
    canceling: int = 0
    succeeded: int = 0
    failed: int = 0
    canceled: int = 0
    expired: int = 0


class Progress(msgspec.Struct, frozen=True):
    """A complete snapshot. `value` is the overall fraction, 0 to 1; `step` of `steps` within the current node."""

    value: float
    nodes_done: int
    nodes_total: int
    current_node: str | None = None
    current_node_class: str | None = None
    step: int | None = None
    steps: int | None = None
    message: str | None = None


class OutputExtra(msgspec.Struct, frozen=True):
    """`path`: the file on this machine, absolute."""

    path: str
    sha256: str | None = None
    cached: bool = False


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """`id` is an asset's."""

    node_id: str
    name: str
    type: Annotated[str, one_of(*get_args(OutputKind))]
    content_type: str
    size_bytes: int
    id: str
    hash: str | None
    url: str
    url_expires_at: datetime
    job_id: str | None = None
    comfytunnel: OutputExtra | None = None


class AssetExtra(msgspec.Struct, frozen=True):
    """`path`: the file on this machine, absolute; null for an upload, whose bytes lie in the daemon's own folder."""

    path: str | None = None
    sha256: str | None = None
    cached: bool = False
    tags: list[str] = []


class Asset(msgspec.Struct, frozen=True, kw_only=True):
    """A file that we keep. `expires_at` null: kept until it is deleted. `created_new` stands in the answer to an upload only: whether its bytes
    were not here yet. `job_id`: the job that made it, absent in an upload."""

    id: str
    hash: str | None
    size_bytes: int
    content_type: str
    created_at: datetime
    url: str
    url_expires_at: datetime
    file_path: str | None = None
    created_new: bool | msgspec.UnsetType = msgspec.UNSET
    expires_at: datetime | None = None
    job_id: str | msgspec.UnsetType | None = msgspec.UNSET
    comfytunnel: AssetExtra | None = None


class FromHash(msgspec.Struct, frozen=True, kw_only=True):
    """The body of POST /api/v2/assets/from-hash."""

    hash: str
    file_path: str | None = None
    tags: list[str] = []
    expires_in: int | None = None


class JobError(msgspec.Struct, frozen=True):
    code: str
    message: str
    node_id: str | None = None
    class_type: str | None = None
    traceback: str | None = None


class JobUrls(msgspec.Struct, frozen=True):
    self: str
    events: str
    cancel: str


class WaitsFor(msgspec.Struct, frozen=True):
    """What a job that is not running waits for, since when."""

    code: str
    message: str
    since: datetime
    hint: str = ""


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """What has become of a job's webhook. `target`: where it goes, without path and query. `state`: `waiting` is for the job's end, `failed` is given up. `last_error`: what the last attempt that failed came to; `next_at`: when it is tried again."""

    target: str
    state: Annotated[str, one_of(*get_args(HookState))]
    attempts: int = 0
    delivered_at: datetime | None = None
    last_error: str | None = None
    next_at: datetime | None = None


class Generated(msgspec.Struct, frozen=True):
    """What a job was made from. `workflow`: the name, null for a graph that was sent to POST /api/generate; `params`: what was asked for, by parameter,
    with the seeds that were drawn and the ids of the assets that its images became. `changed`: its graph is another one than that workflow makes of these."""

    workflow: str | None
    params: dict[str, Any] = {}
    changed: bool = False


class NodeTime(msgspec.Struct, frozen=True):
    """How long one node of a job took, in `seconds` as they were heard over the websocket; `whole` false: its beginning or its end was not. `steps`: of a
    sampler and its like. `cached`: it need not run."""

    node_id: str
    class_type: str
    title: str
    seconds: float
    steps: int | None = None
    cached: bool = False
    whole: bool = True


class JobExtra(msgspec.Struct, frozen=True, kw_only=True):
    """`executions`: how often ComfyUI is known to have been given the prompt, `losses`: how often it has provably lost it, `doubts`: submissions that
    were given up unheard and may come late, `moves`: how often the job was
    moved away from one that may have run it. `folder`: where the outputs are. `ttl`, `time_to_run`:
    seconds from the submission in which it must begin to run, and that it may run; null: no limit. `warnings`: what may be wrong with the workflow. `node_times`: of a job that
    has run, in the order of their beginnings, at most 200; null in lists and streams. `generated` null: it was submitted as a graph of no name."""

    revision: int
    tunnel: str | None = None
    label: str | None = None
    priority: int = 0
    ttl: float | None = None
    time_to_run: float | None = None
    fail_fast: bool = False
    waits_for: WaitsFor | None = None
    executions: int = 0
    losses: int = 0
    doubts: int = 0
    moves: int = 0
    retry_of: str | None = None
    folder: str | None = None
    note: str | None = None
    webhook: Webhook | None = None
    warnings: list[str] = []
    node_times: list[NodeTime] | None = None
    generated: Generated | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    status: Annotated[str, one_of(*Status)]
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    expires_at: datetime
    queue_position: int | None
    progress: Progress | None
    outputs: list[Output]
    error: JobError | None
    urls: JobUrls
    metrics: dict[str, int | None] = {}
    comfytunnel: JobExtra | None = None


class JobList(msgspec.Struct, frozen=True):
    jobs: list[Job]
    next_cursor: str | None = None


class Removed(msgspec.Struct, frozen=True):
    """A job that was forgotten: the paths of its files that are deleted, and of those that stay."""

    id: str
    deleted: list[str]
    kept: list[str]


class JobWorkflow(msgspec.Struct, frozen=True):
    workflow: dict[str, Any]
    format: str = "api"


class StatusExtra(msgspec.Struct, frozen=True):
    waits_for: WaitsFor | None = None


class StatusEvent(msgspec.Struct, frozen=True):
    """SSE `status` under /api/v2."""

    status: Annotated[str, one_of(*Status)]
    queue_position: int | None = None
    comfytunnel: StatusExtra | None = None


class PreviewEvent(msgspec.Struct, frozen=True):
    """SSE `preview` under /api/v2: base64, the latest only."""

    node_id: str
    content_type: str
    data_base64: str


class WebhookMessage(msgspec.Struct, frozen=True):
    """What the receiver of a webhook gets. `timestamp`: the job's end."""

    type: Annotated[str, one_of(*MESSAGES)]
    timestamp: datetime | None
    data: Job


class WebhookRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom to tell of the job's end. `url`: http, https, or unix:/PATH; `secret`: whsec_ and base64, null: the daemon's own."""

    url: Annotated[str, msgspec.Meta(max_length=2048)]
    secret: Annotated[str, msgspec.Meta(max_length=128)] | None = None


class JobRequestExtra(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a submitter may ask of us. `tunnel`: a name, or null for any. Higher `priority` runs earlier. `ttl`, `time_to_run`: as in
    JobExtra; null: what the config says. `fail_fast`: fail where it would have to wait for more than the jobs before it. `validate` false: accept what ComfyUI would seem to refuse."""

    tunnel: str | None = None
    label: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    priority: Priority = 0
    ttl: Limit | None = None
    time_to_run: Limit | None = None
    fail_fast: bool = False
    webhook: WebhookRequest | None = None
    validate: bool = True


class GeneratedRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the submitter has made the graph from, as in Generated: told with the job, and obeyed by nobody. At most 128 `params`."""

    workflow: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    params: Annotated[dict[ParamName, ParamValue], msgspec.Meta(max_length=128)] = {}
    changed: bool = False


class SubmissionExtra(JobRequestExtra, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`generated`: for a graph that was made from a workflow with a name, so that the job can tell it."""

    generated: GeneratedRequest | None = None


class JobRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    workflow: dict[str, Any]
    extra_data: dict[str, Any] = {}
    comfytunnel: SubmissionExtra = SubmissionExtra()


class PriorityRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    priority: Priority


class MoveRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a waiting job is to stand: right before another one (`before`, an id), or at an end of the line (`to`); or where any job is to run:
    on the ComfyUI of a `tunnel`, null for any. One of the three."""

    before: str | None = None
    to: Literal["front", "back"] | None = None
    tunnel: str | msgspec.UnsetType | None = msgspec.UNSET


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """`waiting`: jobs in line; `on_server`: jobs that a ComfyUI has, or whose outputs come home."""

    state: Annotated[str, one_of(*Mode, DRAINED)]
    since: datetime
    waiting: int
    on_server: int
