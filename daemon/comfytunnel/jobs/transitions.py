"""The moves that a job may make, from stage to stage and from status to status, and how one is applied. Pure.

    waiting ──> submitting ──> on_server ──> fetching ──> ended
       ^            │              │             │          ^
       └── not there┴─ proven lost ┴─ proven lost┘          │      every stage may end: failed, canceled, expired
       └────────────────────────────────────────────────────┘

A job that somebody moves to another place waits again, too, from wherever it is (moving.py).

What queue, history and the temp marker say about a job is judged in verdict.py and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TypedDict

import msgspec

from comfytunnel.jobs.model import Failure, Job, Stage, Wanted
from comfytunnel.words import TERMINAL, Status

MOVES: Mapping[Stage, frozenset[Stage]] = {
    Stage.WAITING: frozenset({Stage.SUBMITTING, Stage.ENDED}),
    Stage.SUBMITTING: frozenset({Stage.WAITING, Stage.ON_SERVER, Stage.ENDED}),
    Stage.ON_SERVER: frozenset({Stage.WAITING, Stage.FETCHING, Stage.ENDED}),
    Stage.FETCHING: frozenset({Stage.WAITING, Stage.ENDED}),
    Stage.ENDED: frozenset(),
}
"""The legal moves from stage to stage; staying is always legal but for `ended`, which nothing leaves or changes."""

STATUSES: Mapping[Stage, frozenset[Status]] = {
    Stage.WAITING: frozenset({Status.QUEUED}),
    Stage.SUBMITTING: frozenset({Status.QUEUED, Status.CANCELING}),
    Stage.ON_SERVER: frozenset({Status.QUEUED, Status.RUNNING, Status.CANCELING}),
    Stage.FETCHING: frozenset({Status.RUNNING, Status.CANCELING}),
    Stage.ENDED: TERMINAL,
}
"""The statuses that a job may show in each stage."""


class Changes(TypedDict, total=False):
    """What a move may change beside the revision."""

    status: Status
    stage: Stage
    tunnel: str | None
    place: str | None
    priority: int
    rank: str | None
    submitted_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    executions: int
    losses: int
    doubts: int
    attempts: int
    refusals: int
    cancel_requested: bool
    because: Failure | None
    error: Failure | None
    note: str | None
    folder: str | None
    server: str | None
    given_as: str | None
    remote_id: str | None
    moves: int
    wanted: tuple[Wanted, ...]
    finished: float | None


class IllegalMoveError(AssertionError):
    """A move outside the table: a mistake in this program, never the far side's."""


def apply(job: Job, changes: Changes, revision: int) -> Job:
    """The job after a move. A cancel that was asked for is not forgotten: a later `queued` or `running` stays `canceling`.

    Raises IllegalMoveError if the table does not allow the move.
    """
    stage = changes.get("stage", job.stage)
    if job.ended or (stage is not job.stage and stage not in MOVES[job.stage]):
        raise IllegalMoveError(f"job {job.id}: {job.stage} to {stage} is not a legal move")
    after: Job = msgspec.structs.replace(job, **{**changes, "revision": revision})
    if after.cancel_requested and after.status in (Status.QUEUED, Status.RUNNING):
        after = msgspec.structs.replace(after, status=Status.CANCELING)
    if after.status not in STATUSES[after.stage]:
        raise IllegalMoveError(f"job {job.id}: {after.status} is not a status of {after.stage}")
    return after
