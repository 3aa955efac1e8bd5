"""Which job runs where and when; the door through which the API reaches the jobs.

One Station per place gives jobs out and carries them; the jobs that wait stand in one Line. What jobs wait for is told by reasons.py, what people
ask of jobs that are here is done by orders.py. Nothing here speaks HTTP or SQL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec
import structlog

from comfytunnel.comfy.shapes import PARTNER_KEY
from comfytunnel.errors import RefusedError, StateError, UsageError
from comfytunnel.feed import Feed
from comfytunnel.jobs.choosing import Choosing
from comfytunnel.jobs.doubles import WATCH
from comfytunnel.jobs.impatience import Impatience
from comfytunnel.jobs.judges import Judges
from comfytunnel.jobs.model import Job, Mode, NewJob
from comfytunnel.jobs.orders import Orders
from comfytunnel.jobs.place import Gate, JobsSettings, Place
from comfytunnel.jobs.reasons import Reasons
from comfytunnel.jobs.retention import keep_house
from comfytunnel.jobs.station import Station
from comfytunnel.jobs.store import Store
from comfytunnel.workflow.graph import parse_api_graph
from comfytunnel.workflow.nodeinfo import NodeInfo

__all__ = ["Gate", "JobsSettings", "Place", "Scheduler"]

log = structlog.get_logger(__name__)

LIVE_INTERVAL = 0.1
"""Seconds between two pokes of `live`."""


def utc_now() -> datetime:
    return datetime.now(UTC)


class Scheduler(Orders, Reasons):
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
        super().__init__(store, places, settings, now)
        self._choosing = Choosing(store, self._stations)
        self.judges = Judges(store.files.parent / "nodes", now)
        self._impatience = Impatience(store, self._line, now, self.hindrance, self._gone)
        self._working: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._client_id = ""
        self._poke: asyncio.TimerHandle | None = None
        self._asleep = False
        self._accepting: set[asyncio.Task[Job]] = set()
        self._writing = 0
        self._keep_changed = asyncio.Event()

    async def run(self) -> None:
        """Take up where the last process left off and go on for ever; cancel to stop."""
        self._client_id = await self._store.remembered("client_id", f"comfytunnel-{uuid4().hex}")
        await self.take_up()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._impatience.run(), name="impatience")
                group.create_task(self._free_those_that_wait(), name="moving")
                house = keep_house(self._store, lambda: self._settings.keep, self._now, self._keep_changed)
                group.create_task(house, name="retention")
                for place in list(self._places.values()):
                    await self._open(place)
                await asyncio.Event().wait()  # until cancelled; the stations do the work
        finally:
            self._group = None
            self._stations.clear()
            self._working.clear()
            self.judges.close()
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
        self.judges.forget(name)
        await self._close(name)

    def apply(self, settings: JobsSettings) -> None:
        """Use other settings from now on: what is being carried, too."""
        self._settings = settings
        self._keep_changed.set()
        if not settings.forward_partner_key:
            self._partner_keys.clear()  # no permission any more, for those that wait either
        for station in self._stations.values():
            station.apply(settings)

    async def classes(self, names: Collection[str], tunnel: str | None = None) -> dict[str, NodeInfo]:
        """What is known of node classes, where a job for `tunnel` (None: any) may run; one of which nothing is known is absent."""
        return await self.judges.nodes(names, self._eligible(tunnel))

    async def convert(self, workflow: dict[str, Any], tunnel: str | None) -> dict[str, Any]:
        """See Judges.convert. Raises WorkflowError, NotFoundError (no such tunnel)."""
        self._check_tunnel(tunnel)
        return await self.judges.convert(workflow, self._eligible(tunnel))

    async def submit(self, new: NewJob, *, claim: str | None = None, partner_key: str | None = None) -> Job:
        """Accept a job; on disk when this returns. `claim`: an Idempotency-Key, `partner_key`: for partner nodes; it stays in memory.

        Raises WorkflowError (`invalid_workflow`, `workflow_format_ui`: see judges.py), NotFoundError (no such tunnel), UsageError (`idempotency_key_reuse`,
        a partner key that is not to be forwarded), RefusedError (`queue_full`, `queue_draining`), StateError.
        """
        parse_api_graph(new.workflow)
        await self.take_up()
        self._refuse_key(partner_key)
        self._check_tunnel(new.tunnel)
        warnings = await self.judges.warnings(new, self._eligible(new.tunnel)) if new.validate else ()
        self._refuse_more()
        new = msgspec.structs.replace(
            new,
            warnings=warnings,
            ttl=new.ttl or self._settings.time_to_start or None,
            time_to_run=new.time_to_run or self._settings.time_to_run or None,
            partner_key=partner_key is not None,
        )
        # A task of its own: a caller that goes away while the job is written must not leave it accepted and unknown to us.
        self._writing += 1
        accepting = asyncio.create_task(self._accept(new, claim, partner_key), name="accept a job")
        self._accepting.add(accepting)
        accepting.add_done_callback(self._accepted)
        return await asyncio.shield(accepting)

    def _accepted(self, task: asyncio.Task[Job]) -> None:
        self._accepting.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.warning("job not accepted", why=str(task.exception()))

    def _refuse_key(self, partner_key: str | None) -> None:
        if partner_key is not None and not self._settings.forward_partner_key:
            path = f"extra_data.{PARTNER_KEY}"
            raise UsageError(
                f"{path} is not taken: it would put your key on the rented instance.",
                hint="Leave it out; or, if you trust the instance with it, set forward_partner_key = true in [jobs].",
                details={"path": f"$.{path}"},
            )

    def _refuse_more(self) -> None:
        """Those that are just being written count, so that many at once do not slip through."""
        if self.queue.value.mode is Mode.DRAINING:
            raise RefusedError(
                "The queue is being drained: no job is accepted.",
                hint="Accept again: comfytunnel queue resume",
                code="queue_draining",
            )
        most, there = self._settings.max_waiting, len(self._line) + self._writing
        if most and there >= most:
            raise RefusedError(
                f"{there} jobs wait, and [jobs] max_waiting allows {most}.",
                hint="Try again when some have run, or set max_waiting higher.",
                code="queue_full",
            )

    async def _accept(self, new: NewJob, claim: str | None, partner_key: str | None) -> Job:
        try:
            job = await self._store.add(new, now=self._now(), claim=claim)
        finally:
            self._writing -= 1
        if partner_key is not None:
            self._partner_keys[job.id] = partner_key
        log.info("job accepted", job=job.id, nodes=job.nodes_total, tunnel=job.tunnel)
        self._line_up(job)
        try:
            return await self._impatience.hurry(job)
        except (
            StateError
        ) as error:  # it is accepted all the same; its end is written as soon as that is possible
            log.warning("state", job=job.id, why=error.message)
            return job

    def _stand(self, job: Job) -> None:
        super()._stand(job)
        self._impatience.add(job)

    def _gone(self, job: Job) -> None:
        """A waiting job was ended."""
        self._line.remove(job.id)
        self._partner_keys.pop(job.id, None)
        self._changed()

    def sleep(self, *, asleep: bool) -> None:
        """Before the machine sleeps the websockets are closed, so that no ComfyUI keeps a hung client; afterwards they come back."""
        self._asleep = asleep
        for station in self._stations.values():
            station.sleep(asleep=asleep)

    async def hushed(self) -> None:
        """Wait until no websocket is open. The caller sets the deadline."""
        for station in list(self._stations.values()):
            await station.listener.open.until(lambda is_open: not is_open)

    async def _open(self, place: Place) -> None:
        """Set a station to work at a place, in the stead of an older one of that name."""
        await self._close(place.name)
        left_over = [job for job in await self._store.active() if job.place == place.name]
        doubted = await self._store.doubted(self._now() - WATCH)
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
            held=self._held,
            partner_keys=self._partner_keys,
            choosing=self._choosing,
            catalog=self.judges.of(place),
        )
        station.asleep = self._asleep
        self._stations[place.name] = station
        self._working[place.name] = self._group.create_task(
            station.run(left_over, doubted), name=f"station {place.name}"
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
                    self._stand(job)
            self._stir()
        self._changed()

    def _changed(self) -> None:
        """Tell the readers: demand at once, live at most every LIVE_INTERVAL."""
        self._impatience.stir()
        self._choosing.stir()
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
