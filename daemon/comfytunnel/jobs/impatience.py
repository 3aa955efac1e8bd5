"""Ends waiting jobs that are not to wait any longer: their time to start has passed, or they fail fast and something holds them up.

Only what waits in line is looked at here; a job on a server is stopped by its Run, which knows whether it runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from heapq import heappop, heappush

import structlog

from comfytunnel.errors import StateError
from comfytunnel.jobs.line import Line
from comfytunnel.jobs.model import Failure, Job, Stage, Status, Waits
from comfytunnel.jobs.store import Store
from comfytunnel.jobs.transitions import Changes
from comfytunnel.jobs.verdict import ended, too_late

log = structlog.get_logger(__name__)

LOOK = 5.0
"""Seconds after which the clock is looked at again: a deadline is a time of day, and the machine may have slept."""
AGAIN = 1.0
"""Seconds after which an end that could not be written is tried again."""


class Impatience:
    """`why`: what hinders the jobs for a tunnel; `gone` hears of each job that was ended here."""

    def __init__(
        self,
        store: Store,
        line: Line,
        now: Callable[[], datetime],
        why: Callable[[str | None], Waits | None],
        gone: Callable[[Job], None],
    ) -> None:
        self._store = store
        self._line = line
        self._now = now
        self._why = why
        self._gone = gone
        self._deadlines: list[tuple[datetime, str, float]] = []  # when, whose, after how long
        self._bell = asyncio.Event()

    def add(self, job: Job) -> None:
        """A job stands in line (again); one without a limit of its own is ignored."""
        if job.ttl is not None:
            heappush(self._deadlines, (job.created_at + timedelta(seconds=job.ttl), job.id, job.ttl))
            self._bell.set()
        self.stir()

    def stir(self) -> None:
        """Something has changed that a job may wait for."""
        if any(self._line.hasty.values()):
            self._bell.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            self._bell.clear()
            pause: float | None = None
            try:
                await self._sweep()
            except StateError as error:
                log.warning("state", why=error.message)
                pause = AGAIN
            if self._deadlines:
                left = (self._deadlines[0][0] - self._now()).total_seconds()
                pause = max(pause or 0.0, min(left, LOOK), 0.01)
            try:
                async with asyncio.timeout(pause):
                    await self._bell.wait()
            except TimeoutError:
                continue

    async def _sweep(self) -> None:
        while self._deadlines and self._deadlines[0][0] <= self._now():
            due = heappop(self._deadlines)
            try:
                await self._end(due[1], ended(Status.EXPIRED, self._now(), too_late(due[2])))
            except StateError:
                heappush(self._deadlines, due)
                raise
        for tunnel, ids in list(self._line.hasty.items()):
            why = self._why(tunnel) if ids else None
            if why is not None:
                for job_id in list(ids):
                    await self._fail(job_id, why)

    async def hurry(self, job: Job) -> Job:
        """End a job that fails fast if it would have to wait; the job as it is then. Raises StateError."""
        why = self._why(job.tunnel) if job.fail_fast else None
        return job if why is None else await self._fail(job.id, why) or job

    async def _fail(self, job_id: str, why: Waits) -> Job | None:
        failure = Failure("fail_fast", f"It was not to wait, and cannot run now ({why.code}): {why.message}")
        return await self._end(job_id, ended(Status.FAILED, self._now(), failure))

    async def _end(self, job_id: str, changes: Changes) -> Job | None:
        """None if the job waits no more: then it is none of our business, until it waits again."""
        after = await self._store.move(job_id, expect=Stage.WAITING, **changes)
        if after is not None:
            self._gone(after)
        return after
