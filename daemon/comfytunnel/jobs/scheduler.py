"""Which job runs where and when; the door through which the API reaches the jobs.

One task per place takes the next waiting job when there is room on the server, one task per job carries it (run.py). Order, priority
and cancel of everything that is not yet on a server are decided here. Nothing here speaks HTTP or SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from comfytunnel.comfy.client import Client
from comfytunnel.feed import Feed
from comfytunnel.jobs.model import Job, LiveProgress, NewJob, Preview, Waits
from comfytunnel.jobs.store import Store


@dataclass(frozen=True, slots=True)
class Gate:
    """May this place be used? `link`: the number of the live link, None without one (a new number for each connection).
    `serving`: ComfyUI answers through it. `why`: the reason when either is missing."""

    link: int | None
    serving: bool
    why: Waits | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A ComfyUI that jobs can be given to: `name` is the tunnel's."""

    name: str
    client: Client
    gate: Feed[Gate]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobsSettings:
    """`max_ahead`: jobs kept on the server behind the running one. Times in seconds, sizes in bytes."""

    output_dir: Path
    max_ahead: int = 1
    settle: float = 5.0
    poll_min: float = 0.25
    poll_max: float = 2.0
    max_files: int = 1000
    max_file_size: int = 16 * 1024**3


def utc_now() -> datetime:
    return datetime.now(UTC)


class Scheduler:
    """Owns every job that is not ended. `run()` lives under the app's TaskGroup; the other methods may be called before it."""

    live: Feed[int]
    """Poked, at most some ten times a second, when any progress, preview, queue position or waiting reason has changed."""

    demand: Feed[Mapping[str, int]]
    """Number of jobs that want each place, by name; a place that nothing wants is absent."""

    def __init__(
        self,
        store: Store,
        places: Mapping[str, Place],
        settings: JobsSettings,
        *,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        raise NotImplementedError

    def add_place(self, place: Place) -> None:
        """Give jobs to one more ComfyUI; a place of the same name is replaced."""
        raise NotImplementedError

    async def remove_place(self, name: str) -> None:
        """Stop using a place. Jobs that were given to it stay where they are until a place of that name comes back."""
        raise NotImplementedError

    async def run(self) -> None:
        """Take up where the last process left off and go on for ever; cancel to stop."""
        raise NotImplementedError

    async def submit(self, new: NewJob) -> Job:
        """Accept a job; on disk when this returns.

        Raises WorkflowError (`invalid_workflow`, `workflow_format_ui`), NotFoundError (no such tunnel), StateError.
        """
        raise NotImplementedError

    async def cancel(self, job_id: str) -> Job:
        """A waiting job is canceled at once; one on the server shows `canceling` until its end is known. Idempotent: an
        ended job is returned as it is. Raises NotFoundError, StateError."""
        raise NotImplementedError

    def progress(self, job_id: str) -> LiveProgress | None:
        """The latest snapshot of a job that runs or is being fetched, else None."""
        raise NotImplementedError

    def preview(self, job_id: str) -> Preview | None:
        raise NotImplementedError

    def queue_position(self, job: Job) -> int | None:
        """How many jobs are ahead of a queued one, from 0; None for one that is not queued."""
        raise NotImplementedError

    def waits_for(self, job: Job) -> Waits | None:
        """What a job that is not running waits for: a link, ComfyUI, room on the disk, the jobs before it. None if it goes on."""
        raise NotImplementedError
