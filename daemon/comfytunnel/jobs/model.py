"""What a job is, what belongs to it (inputs, outputs, its webhook) and what is told of it while it runs. Values only: no I/O, no clock, no asyncio.

`status` is what users see (the words of Comfy API v2); `stage` is where the job stands in the submission protocol, and it
is on disk before each act. How it gets from one to the next is transitions.py's.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from comfytunnel.words import Mode as Mode
from comfytunnel.words import Status as Status

MAX_LOSSES = 2
"""A job that ComfyUI has provably lost this often is queued again each time; the next loss fails it, because a workflow
that takes the server down would do so for ever."""

MAX_REFUSALS = 3
"""POSTs answered 500 that left nothing behind: a bug of the server or of the workflow, not of the road."""


class Queue(msgspec.Struct, frozen=True):
    """The queue's mode, since when."""

    mode: Mode
    since: datetime


class Stage(StrEnum):
    """`submitting`: a POST may have been sent. `on_server`: ComfyUI has it. `fetching`: it ran, outputs come home."""

    WAITING = "waiting"
    SUBMITTING = "submitting"
    ON_SERVER = "on_server"
    FETCHING = "fetching"
    ENDED = "ended"


ACTIVE = frozenset({Stage.SUBMITTING, Stage.ON_SERVER, Stage.FETCHING})
"""The stages in which a job belongs to a place and somebody must carry it."""


class Failure(msgspec.Struct, frozen=True):
    """Why a job failed. `traceback` is the node's, without terminal escapes and capped."""

    code: str
    message: str
    node_id: str | None = None
    class_type: str | None = None
    traceback: str | None = None


class Waits(msgspec.Struct, frozen=True):
    """What a job waits for, in a stable code, a sentence and the next step ("" if there is none), since when."""

    code: str
    message: str
    hint: str = ""
    since: datetime | None = None


class Wanted(msgspec.Struct, frozen=True):
    """One output as ComfyUI names it, not trusted: a file for /view (`type` output, temp or input), or `text` itself."""

    node_id: str
    kind: str
    filename: str
    subfolder: str = ""
    type: str = "output"
    text: str | None = None
    cached: bool = False


class Generated(msgspec.Struct, frozen=True):
    """What a job was made from: the name of a workflow, None for a graph that was sent, and what was asked for, by parameter. `changed`: its graph is another
    one than they make."""

    workflow: str | None
    params: dict[str, Any] = {}
    changed: bool = False


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted workflow. All times are aware and UTC.

    `id`: lower-case UUID, and ComfyUI's prompt_id; `given_as` what it is given in its stead since the job was moved away from another (which may
    have it under the former), `remote_id` where an old ComfyUI insisted on its own. `moves`: how often it was moved away from a place that may have run it. `tunnel`: the one that was asked for,
    null for any; `place`: the one it was given to. `executions`: how often ComfyUI is known to have been given the prompt;
    `losses`: how often it has provably lost it. `doubts`: POSTs that were given up unheard
    after the settle time; a slow network may deliver them yet (doubles.py). `attempts`: POSTs since the last loss; `refusals`: those of them that were answered 500 and left nothing behind.
    `wanted`: what comes home, while it does (none in an ended job). `finished`: when it had last run to its end, in seconds since the epoch by ComfyUI's
    clock, None if that did not say. `server`: the temp marker of the ComfyUI process that got it.
    `rank`: where it stands among those of its priority (see line.py), None: by age. `ttl`: seconds after `created_at` in which it must have begun to
    run, `time_to_run`: seconds that it may run; None: no limit. `because`: why it is being stopped, if it was not the user who asked for it.
    `partner_key`: it came with a key for partner nodes, which is in memory only. `webhook`: it has one.
    `warnings`: what its submitter was told of the workflow.
    What a job waits for is not stored but asked of the scheduler, because it changes for all of them at once.
    """

    id: str
    seq: int
    revision: int
    status: Status
    stage: Stage
    tunnel: str | None = None
    place: str | None = None
    label: str | None = None
    priority: int = 0
    rank: str | None = None
    ttl: float | None = None
    time_to_run: float | None = None
    fail_fast: bool = False
    partner_key: bool = False
    webhook: bool = False
    created_at: datetime
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    executions: int = 0
    losses: int = 0
    attempts: int = 0
    refusals: int = 0
    nodes_total: int = 0
    cancel_requested: bool = False
    because: Failure | None = None
    error: Failure | None = None
    note: str | None = None
    retry_of: str | None = None
    warnings: tuple[str, ...] = ()
    generated: Generated | None = None
    folder: str | None = None
    server: str | None = None
    given_as: str | None = None
    remote_id: str | None = None
    moves: int = 0
    doubts: int = 0
    wanted: tuple[Wanted, ...] = ()
    finished: float | None = None

    @property
    def prompt_id(self) -> str:
        """The id under which ComfyUI knows the job."""
        return self.remote_id or self.given_id

    @property
    def given_id(self) -> str:
        """The id that ComfyUI is asked to know it under."""
        return self.given_as or self.id

    @property
    def ended(self) -> bool:
        return self.stage is Stage.ENDED


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a job on this machine. `kind`: an OutputKind. `size` in bytes, hashes in
    lower-case hex, `path` absolute, `cached`: ComfyUI did not compute it again for this job, `ord`: which of the job's outputs."""

    asset_id: str
    job_id: str
    node_id: str
    name: str
    kind: str
    content_type: str
    size: int
    blake3: str
    sha256: str
    path: str
    cached: bool = False
    ord: int = 0


class Asset(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was uploaded; its bytes lie under their hash and may be shared. `size` in bytes, `blake3` in lower-case hex.
    `file_path` is the name that its owner gave it, never a path of ours. `expires_at` None: kept until it is deleted."""

    id: str
    blake3: str
    size: int
    content_type: str
    file_path: str | None = None
    tags: tuple[str, ...] = ()
    created_at: datetime
    expires_at: datetime | None = None


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """A place in a job's graph that means a file of ours, fixed when the job was accepted. `at`: node id, input, and the keys below
    it down to the value; `name` for people, `suffix` for nodes that look at it (".png", or "")."""

    at: tuple[str | int, ...]
    blake3: str
    size: int
    name: str
    suffix: str = ""


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """Who is told when the job has ended. `url`: http, https, or unix:PATH; `secret`: what it is signed with, None: the daemon's own;
    `base`: what URLs in the message start with."""

    url: str
    secret: str | None = None
    base: str = "http://localhost"


class Hook(msgspec.Struct, frozen=True, kw_only=True):
    """What has become of a job's webhook. `due`: when it is tried next, None before the job's end and when nothing more is sent.
    `error`: what the last of `attempts` came to; after `expires_at` there is one more, and then it is given up."""

    job_id: str
    webhook: Webhook
    attempts: int = 0
    due: datetime | None = None
    expires_at: datetime | None = None
    delivered_at: datetime | None = None
    gave_up_at: datetime | None = None
    error: str | None = None


class NodeTime(msgspec.Struct, frozen=True, kw_only=True):
    """How long a node of a job took, in seconds as they were heard; `whole` False: its beginning or its end was not. `steps`: of a sampler and its like."""

    node_id: str
    class_type: str
    title: str
    seconds: float
    steps: int | None = None
    cached: bool = False
    whole: bool = True


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """What a submitter asks for. `tunnel` null: any. Higher `priority` runs earlier, -1000 to 1000. `inputs`: what of the graph is a file
    of ours. `fail_fast`: fail where it would have to wait for more than the jobs before it. `validate`: refuse what ComfyUI surely would. The
    rest as in Job."""

    workflow: dict[str, Any]
    inputs: tuple[Input, ...] = ()
    tunnel: str | None = None
    label: str | None = None
    priority: int = 0
    ttl: float | None = None
    time_to_run: float | None = None
    fail_fast: bool = False
    partner_key: bool = False
    webhook: Webhook | None = None
    validate: bool = True
    warnings: tuple[str, ...] = ()
    generated: Generated | None = None
    retry_of: str | None = None


class LiveProgress(msgspec.Struct, frozen=True):
    """A complete snapshot of a running job, in memory only. `value`: overall fraction, 0 to 1; `step` of `steps` in the current node."""

    value: float
    nodes_done: int
    nodes_total: int
    current_node: str | None = None
    current_node_class: str | None = None
    current_node_title: str | None = None
    step: int | None = None
    steps: int | None = None
    message: str | None = None


class Preview(msgspec.Struct, frozen=True):
    """The latest preview picture of a running job; never on disk."""

    node_id: str
    content_type: str
    data: bytes
