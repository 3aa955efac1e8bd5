"""One place at work: takes the next waiting job when there is room on its server, and has each job carried by a Run.

Jobs are given out one after the other: the next POST is written only when the one before is settled, so the order on the server is ours.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, MutableMapping
from datetime import datetime

import structlog

from comfytunnel.comfy.progress import Event, Finished, NodeStarted, PreviewFrame, QueueChanged, Started, Step
from comfytunnel.errors import StateError
from comfytunnel.jobs.catalog import Catalog
from comfytunnel.jobs.choice import Offer
from comfytunnel.jobs.choosing import FRESH, Choosing, Known
from comfytunnel.jobs.doubles import Doubles
from comfytunnel.jobs.line import Line
from comfytunnel.jobs.listener import Listener
from comfytunnel.jobs.marker import Marker
from comfytunnel.jobs.model import ACTIVE, Failure, Job, Stage, Status, Waits
from comfytunnel.jobs.patience import RETRY_MIN
from comfytunnel.jobs.place import JobsSettings, Place
from comfytunnel.jobs.run import Run
from comfytunnel.jobs.store import Store
from comfytunnel.jobs.straying import Straying
from comfytunnel.jobs.verdict import ended

log = structlog.get_logger(__name__)

MAX_FETCHING = 4
"""Jobs that have run, and whose outputs come home at the same time; more would only share the line. While so many are behind, nothing
new is given out."""

DISK_TROUBLES = frozenset({"disk_full", "folder_unwritable"})
"""While one job cannot put its files down, the GPU need not make more of them."""


class Station:
    """Owns its Runs. `away`: since when the gate has not been open, by the loop's clock (a sleep of
    this machine does not count) and by that on the wall. `gate_since`: when the gate opened, or began to be closed for the reason that it has now. `held`: whether nothing is to be
    given out. `deferring`: it has left a job to another station. `partner_keys`: by job id, forgotten when the job ends. `changed` is called whenever anything that a reader may see has changed; `back` gets a job that waits again."""

    def __init__(
        self,
        place: Place,
        store: Store,
        settings: JobsSettings,
        line: Line,
        *,
        client_id: str,
        now: Callable[[], datetime],
        changed: Callable[[], None],
        back: Callable[[Job], None],
        held: Callable[[], bool],
        partner_keys: MutableMapping[str, str],
        choosing: Choosing,
        catalog: Catalog,
    ) -> None:
        self.place = place
        self.runs: dict[str, Run] = {}
        self.listener = Listener(place, client_id, self._heard, self._counted)
        self.known = Known(place.client)
        self.stir = asyncio.Event()
        self.deferring = False
        self.asleep = False
        self.trouble: Waits | None = None
        self._store = store
        self._settings = settings
        self._line = line
        self._client_id = client_id
        self._now = now
        self._tell = changed
        self._back = back
        self._held = held
        self._partner_keys = partner_keys
        self._choosing = choosing
        self._resting = False
        self.gate_since: datetime | None = None
        self.away: tuple[float, datetime] | None = None
        self._marker = Marker(place.client, catalog.doubt)
        self.straying = Straying(place, store, self._marker, settings)
        self._catalog = catalog
        self._doubles = Doubles(place, store, self._marker)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._taking: str | None = None

    async def run(self, left_over: list[Job], doubted: list[Job]) -> None:
        """Take up the jobs that this place was given before, watch for doubles of the `doubted`, and serve for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.listener.run(), name=f"websocket of {self.place.name}")
            group.create_task(self._watch_gate(), name=f"gate of {self.place.name}")
            group.create_task(self.straying.run(), name=f"strays of {self.place.name}")
            group.create_task(self._catalog.run(self._marker), name=f"nodes of {self.place.name}")
            group.create_task(self._doubles.run(), name=f"doubles of {self.place.name}")
            for job in doubted:
                self._doubles.watch(job)
            for job in left_over:
                self._start(group, job)
            setbacks = 0
            while True:
                self.stir.clear()
                job_id = await self._chosen()
                if job_id is None:
                    await self._stirred()
                elif await self._give_out(group, job_id):
                    setbacks = 0
                else:
                    setbacks += 1
                    await self._rest(min(RETRY_MIN * 2 ** min(setbacks - 1, 10), self._settings.retry_max))

    async def _chosen(self) -> str | None:
        """The job to give out now; without a pause between the last look at the line and the return."""
        job_id = self._next()
        self.deferring = False
        if job_id is None or not self._line.is_free(job_id):
            return job_id
        if await self._choosing.falls_to(self, job_id):
            if self._next() != job_id:
                self.stir.set()  # the world has changed while we asked
                return None
            return job_id
        self.deferring = True
        return self._line.first(self.place.name, named=True) if self._next() is not None else None

    async def _stirred(self) -> None:
        """Wait until something has changed; while a job is left to another, look again: strangers' queues say nothing by themselves."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FRESH if self.deferring else None):
                await self.stir.wait()

    async def _rest(self, seconds: float) -> None:
        """Let others have what we could not take."""
        self._resting = True
        self._tell()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._resting = False

    async def _give_out(self, group: asyncio.TaskGroup, job_id: str) -> bool:
        """Have a waiting job carried until its submission is settled; False if it waits again because of trouble."""
        self._taking = job_id
        place_in_line = self._line.remove(job_id)
        try:
            job = await self._store.get(job_id)
        except StateError as error:
            log.warning("state", job=job_id, why=error.message)
            if place_in_line is not None:
                self._line.put_back(place_in_line)
            return False
        finally:
            self._taking = None  # from here to `_start` nobody else comes in between
        if job is None or job.stage is not Stage.WAITING:
            return True
        run = self._start(group, job)
        await run.left.wait()
        if run.job.stage is not Stage.WAITING:
            await self._choosing.given(self, job_id)
        self.trouble = run.waits if run.job.stage is Stage.WAITING else None
        self._tell()
        return run.job.stage is not Stage.WAITING

    def apply(self, settings: JobsSettings) -> None:
        """Use other settings from now on."""
        self._settings = self.straying.settings = settings
        for run in self.runs.values():
            run.settings = settings
        self.stir.set()

    async def stop_run(self, job_id: str) -> None:
        """End the carrying of one job (it has been ended on disk)."""
        task = self._tasks.get(job_id)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def has(self, job_id: str) -> bool:
        """Whether this station carries the job, or is just taking it out of the line."""
        return job_id in self.runs or job_id == self._taking

    def on_server(self) -> list[Run]:
        """The runs that take room on the server, in the order in which they were given out."""
        return [run for run in self.runs.values() if run.job.stage not in (Stage.FETCHING, Stage.ENDED)]

    def offer(self) -> Offer | None:
        """What speaks for this place, None if nothing could be given to it even if there were room."""
        if not self._ready():
            return None
        known = self.known
        ahead = None if known.foreign is None else known.foreign + self.ours()
        return Offer(self.place.name, ahead, self._has_room(), known.loaded, known.there)

    def ours(self) -> int:
        """How many of our jobs are ahead of the next one on the server."""
        return len(self._not_ended())

    def _not_ended(self) -> list[Run]:
        """Those on the server whose ends the websocket has not said either. It is believed here because nothing depends on it but when the next
        job is given out."""
        return [run for run in self.on_server() if not run.hinted]

    def _next(self) -> str | None:
        """The job to give out now, None if there is none or no room."""
        return self._line.first(self.place.name) if self._ready() and self._has_room() else None

    def _ready(self) -> bool:
        if not self.place.gate.value.open or self._held() or self._resting or self._taking is not None:
            return False
        unsettled = any(run.job.stage is not Stage.ON_SERVER for run in self.on_server())
        blocked = any(run.waits is not None and run.waits.code in DISK_TROUBLES for run in self.runs.values())
        return not (unsettled or blocked or len(self.runs) - len(self._not_ended()) >= MAX_FETCHING)

    def _has_room(self) -> bool:
        now = asyncio.get_running_loop().time()
        return len(self._not_ended()) <= self.listener.ahead.allowed(self._settings.max_ahead, now)

    def _start(self, group: asyncio.TaskGroup, job: Job) -> Run:
        run = Run(
            job,
            self.place,
            self._store,
            self._settings,
            self._marker,
            self.listener,
            client_id=self._client_id,
            now=self._now,
            changed=self._changed,
            held=self._held,
            partner_key=self._partner_keys.get(job.id),
        )
        self.runs[job.id] = run
        self._tasks[job.id] = group.create_task(self._carry(run), name=f"job {job.id}")
        self._changed()
        return run

    async def _carry(self, run: Run) -> None:
        job_id = run.job.id
        try:
            await run.carry()
        except Exception:
            log.exception("job broke", job=job_id)
            text = "comfytunnel made a mistake with this job; its log has the details."
            failure = ended(Status.FAILED, self._now(), Failure("internal", text))
            with contextlib.suppress(
                StateError
            ):  # then it stays as it is on disk, and the next start takes it up
                after = await self._store.move(job_id, expect=set(ACTIVE) | {Stage.WAITING}, **failure)
                run.note(after or run.job)
        finally:
            del self.runs[job_id], self._tasks[job_id]
            if run.job.doubts:
                self._doubles.watch(run.job)
            if run.job.ended:
                self._partner_keys.pop(job_id, None)
            if run.job.stage is Stage.WAITING:
                self._back(run.job)
            self._changed()

    def _changed(self) -> None:
        self.listener.wanted.set(bool(self.on_server()) and not self.asleep)
        self.stir.set()
        self._tell()

    async def _watch_gate(self) -> None:
        told: tuple[bool, str] | None = None
        async for gate in self.place.gate.changes():
            if gate.open:
                self.away = None
            elif self.away is None:
                self.away = asyncio.get_running_loop().time(), self._now()
            is_so = (gate.open, gate.why.code if gate.why is not None else "")
            if is_so != told:
                told, self.gate_since = is_so, self._now()
            self._marker.doubt()
            self._catalog.doubt()
            if gate.link is not None and not gate.serving:
                self.known.restarted()
            self._changed()

    def _counted(self, prompts: int) -> None:
        self.known.counted(prompts, self.ours())

    def sleep(self, *, asleep: bool) -> None:
        """Close the websocket before the machine sleeps: the server must keep no hung client."""
        self.asleep = asleep
        (self.listener.hurry.set if asleep else self.listener.hurry.clear)()
        self._changed()

    def _heard(self, event: Event) -> None:
        """Pass a websocket event on to the job that it is about."""
        if isinstance(event, QueueChanged):
            there = [run for run in self._not_ended() if run.job.stage is Stage.ON_SERVER]
            if event.remaining is None or event.remaining < len(there):  # one of ours has gone, unheard
                for run in there:
                    run.wake.set()
            return
        about = self._about(event)
        if about is None or about.meter is None or about.stopwatch is None:
            return
        about.meter.feed(event)
        about.stopwatch.feed(event, asyncio.get_running_loop().time(), self.listener.session)
        about.frames.feed(event, self.listener.session)
        if isinstance(event, Started | Finished):
            about.hinted = isinstance(event, Finished)
            about.wake.set()
            self.stir.set()
        self._tell()

    def _about(self, event: Event) -> Run | None:
        prompt_id = None if isinstance(event, QueueChanged) else event.prompt_id
        if prompt_id is None and isinstance(event, NodeStarted | Step | PreviewFrame):
            running = [run for run in self.on_server() if run.job.started_at is not None]
            return running[0] if running else None
        return next((run for run in self.runs.values() if run.job.prompt_id == prompt_id), None)
