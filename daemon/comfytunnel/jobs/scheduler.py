"""Which job runs where and when; the door through which the API reaches the jobs.

One Station per place gives jobs out and carries them; the jobs that wait stand in one Line. Order, priority and cancel of everything that
is not yet on a server are decided here. Nothing here speaks HTTP or SQL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from uuid import uuid4

import structlog

from comfytunnel.errors import NotFoundError
from comfytunnel.feed import Feed
from comfytunnel.jobs.line import Line
from comfytunnel.jobs.model import Job, LiveProgress, NewJob, Preview, Stage, Status, Waits
from comfytunnel.jobs.place import Gate, JobsSettings, Place
from comfytunnel.jobs.run import Run
from comfytunnel.jobs.station import Station
from comfytunnel.jobs.store import Store
from comfytunnel.jobs.verdict import ended
from comfytunnel.workflow.graph import parse_api_graph

__all__ = ["Gate", "JobsSettings", "Place", "Scheduler"]

log = structlog.get_logger(__name__)

LIVE_INTERVAL = 0.1
"""Seconds between two pokes of `live`."""


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
        self.live = Feed(0)
        self.demand = Feed({})
        self._store = store
        self._settings = settings
        self._now = now
        self._line = Line()
        self._places = dict(places)
        self._stations: dict[str, Station] = {}
        self._working: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._client_id = ""
        self._poke: asyncio.TimerHandle | None = None
        self._asleep = False
        self._accepting: set[asyncio.Task[Job]] = set()

    async def run(self) -> None:
        """Take up where the last process left off and go on for ever; cancel to stop."""
        self._client_id = await self._store.remembered("client_id", f"comfytunnel-{uuid4().hex}")
        for job in await self._store.waiting():
            self._line.add(job)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for place in list(self._places.values()):
                    await self._open(place)
                await asyncio.Event().wait()  # until cancelled; the stations do the work
        finally:
            self._group = None
            self._stations.clear()
            self._working.clear()
            if self._poke is not None:
                self._poke.cancel()
                self._poke = None

    def add_place(self, place: Place) -> None:
        """Give jobs to one more ComfyUI; a place of the same name is replaced. The jobs that it was given before go on."""
        self._places[place.name] = place
        if self._group is not None:
            self._group.create_task(self._open(place), name=f"open {place.name}")

    async def remove_place(self, name: str) -> None:
        """Stop using a place. Jobs that were given to it stay where they are until a place of that name comes back."""
        self._places.pop(name, None)
        await self._close(name)

    @property
    def settings(self) -> JobsSettings:
        return self._settings

    def apply(self, settings: JobsSettings) -> None:
        """Use other settings from now on: what is being carried, too."""
        self._settings = settings
        for station in self._stations.values():
            station.apply(settings)

    async def submit(self, new: NewJob) -> Job:
        """Accept a job; on disk when this returns.

        Raises WorkflowError (`invalid_workflow`, `workflow_format_ui`), NotFoundError (no such tunnel), StateError.
        """
        parse_api_graph(new.workflow)
        if new.tunnel is not None and new.tunnel not in self._places:
            known = ", ".join(sorted(self._places)) or "none"
            raise NotFoundError(
                f"There is no tunnel called {new.tunnel!r}.",
                hint=f"The config has: {known}.",
                code="unknown_tunnel",
            )
        # A task of its own: a caller that goes away while the job is written must not leave it accepted and unknown to us.
        accepting = asyncio.create_task(self._accept(new), name="accept a job")
        self._accepting.add(accepting)
        accepting.add_done_callback(self._accepted)
        return await asyncio.shield(accepting)

    def _accepted(self, task: asyncio.Task[Job]) -> None:
        self._accepting.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.warning("job not accepted", why=str(task.exception()))

    async def _accept(self, new: NewJob) -> Job:
        job = await self._store.add(new, now=self._now())
        log.info("job accepted", job=job.id, nodes=job.nodes_total, tunnel=job.tunnel)
        self._line_up(job)
        return job

    async def cancel(self, job_id: str) -> Job:
        """A waiting job is canceled at once, and so is one whose outputs are being fetched; one on the server shows `canceling`
        until its end is known. Idempotent: an ended job is returned as it is. Raises NotFoundError, StateError."""
        while True:
            job = await self._store.get(job_id)
            if job is None:
                raise NotFoundError(f"There is no job {job_id}.")
            if job.ended or (
                job.cancel_requested and job.stage is not Stage.FETCHING and job.place in self._places
            ):
                return job
            after = await self._cancel_from(job)
            if after is not None:
                return after

    async def _cancel_from(self, job: Job) -> Job | None:
        """One attempt: None if the job has moved on meanwhile."""
        canceled = ended(Status.CANCELED, self._now())
        if job.stage is Stage.WAITING:
            after = await self._store.move(job.id, expect=Stage.WAITING, **canceled)
            self._line.remove(job.id)
            self._changed()
            return after
        if job.stage is Stage.FETCHING:
            canceled["note"] = "It had run; its outputs were not all fetched when it was canceled."
        elif job.place not in self._places:
            canceled["note"] = (
                f"The tunnel {job.place!r} is gone from the config, so ComfyUI could not be told."
            )
        else:
            return await self._ask_to_cancel(job)
        after = await self._store.move(job.id, expect=job.stage, **canceled)
        station = self._stations.get(job.place or "")
        if after is not None and station is not None:
            await station.stop_run(job.id)
        return after

    async def _ask_to_cancel(self, job: Job) -> Job | None:
        on_its_way = {Stage.SUBMITTING, Stage.ON_SERVER}
        after = await self._store.move(
            job.id, expect=on_its_way, cancel_requested=True, status=Status.CANCELING
        )
        run = self._run_of(job.id)
        if after is not None and run is not None:
            run.note(after)
            run.wake.set()
        return after

    def sleep(self, *, asleep: bool) -> None:
        """Before the machine sleeps the websockets are closed, so that no ComfyUI keeps a hung client; afterwards they come back."""
        self._asleep = asleep
        for station in self._stations.values():
            station.sleep(asleep=asleep)

    async def hushed(self) -> None:
        """Wait until no websocket is open. The caller sets the deadline."""
        for station in list(self._stations.values()):
            await station.listener.open.until(lambda is_open: not is_open)

    def progress(self, job_id: str) -> LiveProgress | None:
        """The latest snapshot of a job that runs or is being fetched, else None."""
        run = self._run_of(job_id)
        if run is None or run.meter is None or run.job.started_at is None or run.job.ended:
            return None
        return run.meter.snapshot

    def preview(self, job_id: str) -> Preview | None:
        run = self._run_of(job_id)
        return run.meter.preview if run is not None and run.meter is not None else None

    def queue_position(self, job: Job) -> int | None:
        """How many jobs are ahead of a queued one, from 0; None for one that is not queued."""
        if job.status is not Status.QUEUED:
            return None
        given = [run.job.id for station in self._stations.values() for run in station.on_server()]
        if job.id in given:
            return given.index(job.id)
        position = self._line.position(job.id)
        return None if position is None else len(given) + position

    def waits_for(self, job: Job) -> Waits | None:
        """What a job that is not running waits for: a link, ComfyUI, room on the disk, the jobs before it. None if it goes on."""
        if job.ended:
            return None
        run = self._run_of(job.id)
        if run is not None and run.waits is not None:
            return run.waits
        name = job.place or job.tunnel
        places = [self._places[name]] if name in self._places else [] if name else list(self._places.values())
        if not places:
            text = f"The tunnel {name!r} is not in the config." if name else "No tunnel is configured."
            return Waits(
                "no_tunnel",
                text,
                "Run `comfytunnel setup` with the ssh command of your instance.",
                job.created_at,
            )
        if job.stage is Stage.WAITING and not any(place.gate.value.open for place in places):
            return self._closed(places[0], job)
        troubles = [
            s.trouble for s in (self._stations.get(place.name) for place in places) if s and s.trouble
        ]
        if job.stage is Stage.WAITING and len(troubles) == len(places):
            return troubles[0]
        ahead = self.queue_position(job)
        if not ahead:
            return None
        return Waits("queue", f"{ahead} job{'s' if ahead > 1 else ''} before it.", since=job.created_at)

    def _closed(self, place: Place, job: Job) -> Waits:
        why = place.gate.value.why or Waits(
            "not_serving", f"The tunnel {place.name!r} or its ComfyUI is not there."
        )
        since = why.since or job.created_at
        return Waits(why.code, why.message, why.hint, max(since, job.created_at))

    def _run_of(self, job_id: str) -> Run | None:
        return next(
            (station.runs[job_id] for station in self._stations.values() if job_id in station.runs), None
        )

    async def _open(self, place: Place) -> None:
        """Set a station to work at a place, in the stead of an older one of that name."""
        await self._close(place.name)
        left_over = [job for job in await self._store.active() if job.place == place.name]
        if self._group is None or self._places.get(place.name) is not place:
            return  # removed again meanwhile
        station = Station(
            place,
            self._store,
            self._settings,
            self._line,
            client_id=self._client_id,
            now=self._now,
            changed=self._changed,
            back=self._line_up,
        )
        station.asleep = self._asleep
        self._stations[place.name] = station
        self._working[place.name] = self._group.create_task(
            station.run(left_over), name=f"station {place.name}"
        )

    async def _close(self, name: str) -> None:
        self._stations.pop(name, None)
        working = self._working.pop(name, None)
        if working is not None:
            working.cancel()
            await asyncio.wait([working])
            # It may have had a job in its hands that waits on disk and stood in line no more.
            for job in await self._store.waiting():
                if not any(station.has(job.id) for station in self._stations.values()):
                    self._line.add(job)
            for station in self._stations.values():
                station.stir.set()
        self._changed()

    def _line_up(self, job: Job) -> None:
        self._line.add(job)
        for station in self._stations.values():
            station.stir.set()
        self._changed()

    def _changed(self) -> None:
        """Tell the readers: demand at once, live at most every LIVE_INTERVAL."""
        wanted = {}
        for name in self._places:
            station = self._stations.get(name)
            number = self._line.wanting(name) + (len(station.runs) if station is not None else 0)
            if number:
                wanted[name] = number
        self.demand.set(wanted)
        if self._poke is None:
            self._poke = asyncio.get_running_loop().call_later(LIVE_INTERVAL, self._poked)

    def _poked(self) -> None:
        self._poke = None
        self.live.set(self.live.value + 1)
