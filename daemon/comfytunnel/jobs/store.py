"""The jobs on disk: the only SQL of the program.

One SQLite file, WAL, synchronous=FULL: what a method has returned survives a power cut. Every change of a job takes the next
revision, so the table is the event log: `revision` only pokes, readers ask `since(n)`. Each method is one transaction.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Unpack

from comfytunnel.feed import Feed
from comfytunnel.jobs.model import Changes, Job, NewJob, Output, Stage, Status


class Store:
    """Open with `await Store.open(path)`; every method may raise StateError (full disk, broken file)."""

    notice: str | None
    """What the user must be told about the opening (a broken database was moved aside), or None."""

    revision: Feed[int]
    """The revision of the latest change."""

    @classmethod
    async def open(cls, path: Path) -> Store:
        """Open or make the database; a broken one is moved aside (see `notice`), never deleted.

        Raises StateError: the folder is not writable, the disk is full, or the file was written by a newer version.
        """
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    async def add(self, new: NewJob, *, now: datetime) -> Job:
        """Accept a job: on disk when this returns."""
        raise NotImplementedError

    async def get(self, job_id: str) -> Job | None:
        raise NotImplementedError

    async def listing(
        self, *, status: Status | None = None, cursor: str | None = None, limit: int = 100
    ) -> tuple[list[Job], str | None]:
        """Newest first, and the cursor of the next page (None at the end). Raises UsageError for a cursor that is not ours."""
        raise NotImplementedError

    async def since(self, revision: int, limit: int = 1000) -> list[Job]:
        """Jobs changed after `revision`, in the order of their latest change."""
        raise NotImplementedError

    async def workflow(self, job_id: str) -> dict[str, Any] | None:
        raise NotImplementedError

    async def counts(self) -> dict[Status, int]:
        """How many jobs are in each status; every status is there."""
        raise NotImplementedError

    async def move(
        self, job_id: str, *, expect: Stage | set[Stage], **changes: Unpack[Changes]
    ) -> Job | None:
        """Compare and set: the job after the move, or None if its stage is not (any more) as expected."""
        raise NotImplementedError

    async def add_output(self, output: Output) -> None:
        raise NotImplementedError

    async def outputs(self, job_id: str) -> list[Output]:
        """In the order in which they came home."""
        raise NotImplementedError

    async def asset(self, asset_id: str) -> Output | None:
        raise NotImplementedError
