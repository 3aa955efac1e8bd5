"""What the parts of the scheduler stand on: the line, the places and their stations, the queue's mode.

reasons.py says what jobs wait for, orders.py does what people ask, scheduler.py has it all run. Nothing is decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from datetime import datetime

import msgspec
import structlog

from comfytunnel.decoding import decode
from comfytunnel.errors import StateError
from comfytunnel.feed import Feed
from comfytunnel.jobs.line import Line
from comfytunnel.jobs.model import Job, Mode, Queue, Stage, Status
from comfytunnel.jobs.place import JobsSettings, Place
from comfytunnel.jobs.run import Run
from comfytunnel.jobs.station import Station
from comfytunnel.jobs.store import Store
from comfytunnel.jobs.verdict import CREDENTIAL_GONE, ended

log = structlog.get_logger(__name__)

QUEUE = "queue"
"""The key under which the store remembers the queue's mode."""


class Floor(ABC):
    """Shared by the three; `now` gives aware times in UTC."""

    queue: Feed[Queue]
    """The queue's mode, since when. It is that of the process before once `take_up` has returned."""

    def __init__(
        self,
        store: Store,
        places: Mapping[str, Place],
        settings: JobsSettings,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._settings = settings
        self._now = now
        self._line = Line()
        self._places = dict(places)
        self._stations: dict[str, Station] = {}
        self._partner_keys: dict[str, str] = {}  # by job id, and nowhere else
        self.queue = Feed(Queue(Mode.OPEN, now()))
        self._taking_up = asyncio.Lock()
        self._taken_up = False

    @property
    def settings(self) -> JobsSettings:
        return self._settings

    async def take_up(self) -> None:
        """Learn from the store, once, how the last process left the queue. Raises StateError."""
        async with self._taking_up:
            if self._taken_up:
                return
            kept = await self._store.recalled(QUEUE)
            with contextlib.suppress(
                msgspec.DecodeError
            ):  # a newer program's: an open queue is what people expect
                if kept is not None:
                    self.queue.set(decode(kept, Queue))
            for job in await self._store.waiting():
                if not (job.partner_key and await self._without_key(job)):
                    self._stand(job)
            self._taken_up = True

    async def _without_key(self, job: Job) -> bool:
        """End a job whose key was in the memory of the process before. False if that cannot be written now: its turn will end it."""
        try:
            failed = ended(Status.FAILED, self._now(), CREDENTIAL_GONE)
            await self._store.move(job.id, expect=Stage.WAITING, **failed)
        except StateError as error:
            log.warning("state", job=job.id, why=error.message)
            return False
        return True

    def _stand(self, job: Job) -> None:
        """Let a waiting job stand in line, and nothing else."""
        self._line.add(job)

    def _held(self) -> bool:
        return self.queue.value.mode is not Mode.OPEN

    def _run_of(self, job_id: str) -> Run | None:
        return next(
            (station.runs[job_id] for station in self._stations.values() if job_id in station.runs), None
        )

    def _stir(self) -> None:
        """Have every place look for its next job."""
        for station in self._stations.values():
            station.stir.set()

    def _line_up(self, job: Job) -> None:
        """A job waits (again)."""
        if job.stage is Stage.WAITING:
            self._stand(job)
        self._stir()
        self._changed()

    @abstractmethod
    def _changed(self) -> None:
        """Tell the readers that something they may see has changed."""
