"""The JSON of the control API, shared by server and client: the only place where wire names appear.

`/v1` shapes are ours; `/api/v2` shapes (Job, Output, Progress, JobError, Asset, ErrorEnvelope) follow the Comfy API v2 to the
letter, and what that contract has no place for sits under the extra key `comfytunnel`. Times are aware datetimes in UTC,
RFC 3339 on the wire. Sizes are bytes. Decoding is lenient towards unknown keys, so that an older client reads a newer
daemon. Those of jobs and files stand in wirejobs.py, of workflows in wireworkflows.py. Nothing here does I/O.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, get_args

import msgspec

from comfytunnel.wireasked import AssetForm as AssetForm
from comfytunnel.wireasked import DoctorQuery as DoctorQuery
from comfytunnel.wireasked import JobsQuery as JobsQuery
from comfytunnel.wireasked import OutagesQuery as OutagesQuery
from comfytunnel.wireasked import RemoveQuery as RemoveQuery
from comfytunnel.wirecause import Cause as Cause
from comfytunnel.wirejobs import NEVER as NEVER
from comfytunnel.wirejobs import Asset as Asset
from comfytunnel.wirejobs import AssetExtra as AssetExtra
from comfytunnel.wirejobs import FromHash as FromHash
from comfytunnel.wirejobs import Generated as Generated
from comfytunnel.wirejobs import GeneratedRequest as GeneratedRequest
from comfytunnel.wirejobs import Job as Job
from comfytunnel.wirejobs import JobCounts as JobCounts
from comfytunnel.wirejobs import JobError as JobError
from comfytunnel.wirejobs import JobExtra as JobExtra
from comfytunnel.wirejobs import JobList as JobList
from comfytunnel.wirejobs import JobRequest as JobRequest
from comfytunnel.wirejobs import JobRequestExtra as JobRequestExtra
from comfytunnel.wirejobs import JobUrls as JobUrls
from comfytunnel.wirejobs import JobWorkflow as JobWorkflow
from comfytunnel.wirejobs import MoveRequest as MoveRequest
from comfytunnel.wirejobs import NodeTime as NodeTime
from comfytunnel.wirejobs import Output as Output
from comfytunnel.wirejobs import OutputExtra as OutputExtra
from comfytunnel.wirejobs import PreviewEvent as PreviewEvent
from comfytunnel.wirejobs import PriorityRequest as PriorityRequest
from comfytunnel.wirejobs import Progress as Progress
from comfytunnel.wirejobs import Queue as Queue
from comfytunnel.wirejobs import Removed as Removed
from comfytunnel.wirejobs import StatusEvent as StatusEvent
from comfytunnel.wirejobs import StatusExtra as StatusExtra
from comfytunnel.wirejobs import SubmissionExtra as SubmissionExtra
from comfytunnel.wirejobs import WaitsFor as WaitsFor
from comfytunnel.wirejobs import Webhook as Webhook
from comfytunnel.wirejobs import WebhookMessage as WebhookMessage
from comfytunnel.wirejobs import WebhookRequest as WebhookRequest
from comfytunnel.wireworkflows import ConvertedWorkflow as ConvertedWorkflow
from comfytunnel.wireworkflows import ConvertRequest as ConvertRequest
from comfytunnel.wireworkflows import GenerateRequest as GenerateRequest
from comfytunnel.wireworkflows import Parameter as Parameter
from comfytunnel.wireworkflows import ParametersRequest as ParametersRequest
from comfytunnel.wireworkflows import Target as Target
from comfytunnel.wireworkflows import Workflow as Workflow
from comfytunnel.wireworkflows import WorkflowInfo as WorkflowInfo
from comfytunnel.wireworkflows import WorkflowList as WorkflowList
from comfytunnel.words import TERMINAL as TERMINAL
from comfytunnel.words import (
    Action,
    AgentSource,
    ComfyState,
    HostKeyStatus,
    Phase,
    Result,
    Sign,
    Step,
    one_of,
)

SERVER = "comfytunnel/"
"""What the header `Server` of every answer begins with; the daemon's version follows."""


class Next(msgspec.Struct, frozen=True):
    """What the daemon does next by itself and when; `at` null means now or when it is needed."""

    action: Annotated[str, one_of(*Action)]
    at: datetime | None = None


class ComfyUI(msgspec.Struct, frozen=True):
    """`queue`: prompts running and pending there."""

    state: Annotated[str, one_of(*ComfyState)] = "unknown"
    version: str | None = None
    queue: int | None = None
    since: datetime | None = None
    detail: str | None = None


class Ssh(msgspec.Struct, frozen=True):
    """The SSH connection in the words of ssh(1). Null where there was none yet."""

    host: str
    port: int | None = None
    user: str | None = None
    host_key: str | None = None
    server_version: str | None = None
    banner: str | None = None


class Counters(msgspec.Struct, frozen=True):
    """Since the daemon's start, but for `open`, `channels` and `held`, which are now. Bytes are payload of forwarded channels.

    `refused`: callers that the guard turned away. `reconnects`: links that took the place of a lost one, by the cause's code.
    `down_seconds`: all outages together, the present one too.
    """

    links: int = 0
    callers: int = 0
    open: int = 0
    channels: int = 0
    held: int = 0
    lost: int = 0
    refused: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    reconnects: dict[str, int] = {}
    down_seconds: float = 0.0


class Outage(msgspec.Struct, frozen=True, kw_only=True):
    """A time without a link that was wanted. `ended` null: it goes on.

    `detect_seconds`: from the last sign of life until we
    knew; `recover_seconds`: from there until the next link, null if it ended otherwise or goes on; `seconds`: all of it. They are
    seconds in which the machine was awake. `held`, `lost`: callers that had to wait, and that lost their connection.
    """

    tunnel: str
    began: datetime
    ended: datetime | None
    cause: Cause
    last_failure: Cause | None = None
    detected_by: Annotated[str, one_of(*Sign)]
    detect_seconds: float
    recover_seconds: float | None
    seconds: float
    attempts: int
    held: int
    lost: int


class OutageList(msgspec.Struct, frozen=True):
    outages: list[Outage]


class Tunnel(msgspec.Struct, frozen=True, kw_only=True):
    phase: Annotated[str, one_of(*Phase)]
    since: datetime
    cause: Cause | None
    next: Next | None
    comfyui: ComfyUI
    rtt_ms: float | None
    listen: list[str]
    remote: str
    ssh: Ssh
    counters: Counters


class Web(msgspec.Struct, frozen=True):
    """The API on a loopback port: where it listens, and what keeps it from that (`port_in_use`)."""

    listen: list[str]
    cause: Cause | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """`cause` is the daemon's own trouble (a broken config, a broken database); tunnels carry theirs, and so does `web` (null: off)."""

    version: str
    pid: int
    started_at: datetime
    config: str
    cause: Cause | None = None
    tunnels: dict[str, Tunnel] = {}
    jobs: JobCounts = JobCounts()
    queue: Queue | None = None
    web: Web | None = None


class Health(msgspec.Struct, frozen=True):
    status: str
    version: str
    pid: int


class Ready(msgspec.Struct, frozen=True):
    """`ready`: at least one tunnel's link is up, its port is ours and its ComfyUI serves; `why` says what is missing."""

    ready: bool
    why: dict[str, str] = {}


class Reloaded(msgspec.Struct, frozen=True):
    """`reloaded`: the config's path. Tunnels by name; `sections`: the other parts of the file that changed; `read_only`:
    folders of the config that the daemon may not write to."""

    reloaded: str
    added: list[str]
    removed: list[str]
    changed: list[str]
    sections: list[str]
    read_only: list[str] = []


class HostKey(msgspec.Struct, frozen=True):
    """A host's public key, as `ssh-keygen -l` shows it: SHA256:..., ssh-ed25519."""

    fingerprint: str
    algorithm: str


class TrustRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The key that a person has seen; without it nothing is asked but what there is to see."""

    fingerprint: Annotated[str, msgspec.Meta(pattern="^SHA256:[A-Za-z0-9+/]{43}$", max_length=50)] | None = (
        None
    )


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """`host` is the name in `known_hosts`, `known` what that file held for it before. `status` of the offered key. `backup`: the file as it was, if lines were taken out of it."""

    host: str
    known_hosts: str
    status: Annotated[str, one_of(*get_args(HostKeyStatus))]
    known: list[HostKey]
    offered: HostKey
    replaced: bool = False
    backup: str | None = None
    notes: list[str] = []


class TunnelEvent(msgspec.Struct, frozen=True):
    """SSE `tunnel` under /v1/events."""

    name: str
    tunnel: Tunnel


class Check(msgspec.Struct, frozen=True):
    """One step of the road. `hint`: the next step for a person, also of a pass that is not all well."""

    step: Annotated[str, one_of(*get_args(Step))]
    result: Annotated[str, one_of(*get_args(Result))]
    seconds: float
    detail: str = ""
    hint: str = ""


class Agent(msgspec.Struct, frozen=True):
    """The SSH agent as the daemon sees it. `socket` null: none. `source`: who named it.
    `keys` null: it could not be asked."""

    socket: str | None = None
    source: Annotated[str, one_of(*get_args(AgentSource))] = ""
    keys: int | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The road of one tunnel, from the config to the disk; `tunnel` and `phase` null where no config could be loaded. `broken`: the
    first step that fails. `banner`: what the host said last before authentication."""

    tunnel: str | None = None
    phase: Annotated[str, one_of(*Phase)] | None = None
    broken: Annotated[str, one_of(*get_args(Step))] | None = None
    steps: list[Check] = []
    server_version: str | None = None
    banner: str | None = None
    agent: Agent | None = None


class Doctor(msgspec.Struct, frozen=True):
    """`remarks`: what a client found out on its own side, in sentences; the daemon sends none."""

    config: str
    reports: list[Report]
    remarks: list[str] = []


class ErrorBody(msgspec.Struct, frozen=True):
    code: str
    message: str
    details: dict[str, Any] | None = None


class ErrorEnvelope(msgspec.Struct, frozen=True):
    """Every answer that is not 2xx. The next step is `details.hint`."""

    error: ErrorBody
