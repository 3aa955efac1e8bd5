"""The store's SQL for one job's row, and for the strays: prompts that a job has left behind on a ComfyUI when it was moved to another.

A stray outlives the move on disk, so that the old ComfyUI is rid of it whenever it comes back (straying.py), or gives the job back if nobody else
has taken it up meanwhile: either, never both, which is why each is one transaction here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from comfytunnel.decoding import decoder
from comfytunnel.jobs.attic import Attic
from comfytunnel.jobs.model import Job, Stage, Status
from comfytunnel.jobs.transitions import Changes, apply

_jobs = decoder(Job)

KEPT = timedelta(days=30)
"""How long a stray is remembered at a place that does not come back: no rented instance is away for longer and keeps its memory."""


@dataclass(frozen=True, slots=True)
class Stray:
    """A prompt that may run or wait at `place`: `prompt_id` there, `given_id` as it was sent, `server`: the temp marker of the process that
    may have it."""

    place: str
    given_id: str
    prompt_id: str
    server: str | None


class Strays(Attic):
    async def strays(self, place: str) -> list[Stray]:
        """What was left behind there and is not known to be gone."""

        def read() -> list[Stray]:
            sql = "SELECT place, given_id, prompt_id, server FROM strays WHERE place = ? ORDER BY at"
            return [Stray(*row) for row in self._db.execute(sql, (place,))]

        return await self._run(read)

    async def doom(self, stray: Stray) -> bool:
        """From now on nobody takes the stray up again: it may be cancelled. False while its job waits and may come back to it."""

        def change() -> bool:
            row = self._one("SELECT job_id FROM strays WHERE place = ? AND given_id = ?", _key(stray))
            job = self._get(row[0]) if row is not None else None
            if row is None or (job is not None and _may_return(job, stray.place)):
                return False
            self._db.execute("UPDATE strays SET doomed = 1 WHERE place = ? AND given_id = ?", _key(stray))
            return True

        return await self._write(change)

    async def gone(self, stray: Stray) -> None:
        """Its ComfyUI has it no more."""
        await self._write(
            lambda: self._db.execute("DELETE FROM strays WHERE place = ? AND given_id = ?", _key(stray))
        )

    async def take_back(self, job_id: str, place: str, now: datetime) -> Job | None:
        """Give a waiting job back to the place that it was moved away from: it is looked up there, not sent. None if there is nothing to
        come back to."""

        def change() -> Job | None:
            job = self._get(job_id)
            if job is None or not _may_return(job, place):
                return None
            row = self._one(
                "SELECT given_id, prompt_id, server, counted FROM strays WHERE job_id = ? AND place = ? AND doomed = 0 "
                "ORDER BY at DESC",
                (job_id, place),
            )
            if row is None:
                return None
            given_id, prompt_id, server, counted = row
            self._db.execute("DELETE FROM strays WHERE place = ? AND given_id = ?", (place, given_id))
            changes: Changes = {
                "stage": Stage.SUBMITTING,
                "status": Status.QUEUED,
                "place": place,
                "server": server,
                "given_as": given_id if given_id != job.id else None,
                "remote_id": prompt_id if prompt_id != given_id else None,
                "executions": job.executions - counted,
                "submitted_at": job.submitted_at or now,
            }
            return self._put(apply(job, changes, self._next()))

        return await self._write(change)

    # What follows runs on the store's thread.

    def _leave(self, job: Job, now: datetime) -> None:
        """Within a transaction: the job is moved away from its place."""
        self._db.execute("DELETE FROM strays WHERE at <= ?", ((now - KEPT).timestamp(),))
        counted = job.stage in (Stage.ON_SERVER, Stage.FETCHING)
        row = (job.place, job.given_id, job.prompt_id, job.server, job.id, counted, now.timestamp())
        self._db.execute("INSERT OR REPLACE INTO strays VALUES (?, ?, ?, ?, ?, ?, 0, ?)", row)

    def _get(self, job_id: str) -> Job | None:
        row = self._db.execute("SELECT body FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return None if row is None else _jobs.decode(row[0])

    def _put(self, job: Job) -> Job:
        self._db.execute(
            "UPDATE jobs SET revision = ?, status = ?, stage = ?, body = ?, ended_at = ? WHERE id = ?",
            (
                job.revision,
                job.status,
                job.stage,
                msgspec.json.encode(job),
                None if job.completed_at is None else job.completed_at.timestamp(),
                job.id,
            ),
        )
        return job


def _key(stray: Stray) -> tuple[str, str]:
    return stray.place, stray.given_id


def _may_return(job: Job, place: str) -> bool:
    return job.stage is Stage.WAITING and job.tunnel in (None, place)
