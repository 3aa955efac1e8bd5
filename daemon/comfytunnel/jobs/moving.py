"""Jobs that go to another place than the one that they were meant for, or given to.

By themselves only those go that no ComfyUI can have: that were never sent, or are proven lost (verdict.py). While an instance is away nothing
can be proven of what it was given, so those jobs stay, say so, and go by the user's word alone: `move_to`, which accepts that they
may run twice. What they leave behind is cleared away when the old place is back (straying.py).
"""

from __future__ import annotations

import asyncio
import difflib
from abc import abstractmethod
from datetime import timedelta
from uuid import uuid4

import structlog
from msgspec.structs import replace

from comfytunnel.errors import NotFoundError, RefusedError, StateError
from comfytunnel.jobs import outputs
from comfytunnel.jobs.floor import Floor
from comfytunnel.jobs.model import ACTIVE, Job, Stage, Waits
from comfytunnel.jobs.verdict import moved

log = structlog.get_logger(__name__)

LOOK = 5.0
"""Seconds between two looks at who has been away for too long."""


class Moving(Floor):
    @abstractmethod
    async def _known(self, job_id: str) -> Job: ...

    async def move_to(self, job_id: str, tunnel: str | None) -> Job:
        """Let a job run on that tunnel's ComfyUI, or on any (None), wherever it is. One that was given to another may run there as well: the
        user accepts that. Raises NotFoundError (also `unknown_tunnel`), RefusedError (`job_not_movable`), StateError."""
        self._check_tunnel(tunnel)
        while True:
            job = await self._known(job_id)
            if job.stage is Stage.WAITING:
                after = await self._store.move(job.id, expect=Stage.WAITING, tunnel=tunnel)
                if after is not None and self._line.remove(job.id) is not None:
                    self._line_up(after)  # else a station has it in hand, and sees for itself
            else:
                self._refuse_move(job, tunnel)
                changes = moved(job, tunnel, str(uuid4()), self._now())
                after = await self._store.move(
                    job.id, expect=job.stage, canceled=job.cancel_requested, leaving=self._now(), **changes
                )
                if after is not None:
                    await self._leave(job)
            if after is not None:
                log.info("job moved", job=job.id, place=job.place, to=tunnel)
                return after

    async def _leave(self, job: Job) -> None:
        """A job stands in line that was at a place: nobody carries it there any more, and what it has left there is to go."""
        station = self._stations.get(job.place or "")
        if station is not None:
            await station.stop_run(job.id)
        await outputs.forget_parts(job)
        after = await self._known(job.id)
        if not any(each.has(job.id) for each in self._stations.values()):
            self._line_up(after)
        if station is not None:
            station.straying.bell.set()

    def _check_tunnel(self, tunnel: str | None) -> None:
        """Raises NotFoundError for a tunnel that is not configured."""
        if tunnel is None or tunnel in self._places:
            return
        near = difflib.get_close_matches(tunnel, self._places, 1)
        known = ", ".join(sorted(self._places)) or "none"
        raise NotFoundError(
            f"There is no tunnel called {tunnel[:80]!r}.",
            hint=f"Did you mean {near[0]}?" if near else f"The config has: {known}.",
            code="unknown_tunnel",
        )

    def _refuse_move(self, job: Job, tunnel: str | None) -> None:
        if job.ended:
            why, hint = f"has ended: it is {job.status}", f"Run it once more: comfytunnel jobs retry {job.id}"
        elif job.cancel_requested:
            why, hint = "is being canceled", "It ends as soon as its ComfyUI can be told."
        elif tunnel == job.place:
            why, hint = f"is with {tunnel} already", "Name another tunnel, or none."
        elif tunnel is None and not self._places.keys() - {job.place}:
            why, hint = f"is with {job.place}, and the config has no other tunnel", "Add one, then move it."
        else:
            return
        raise RefusedError(f"The job {job.id} {why}.", hint=hint, code="job_not_movable")

    # --- away for too long ------------------------------------------------------------------------------------------

    def too_long(self, name: str) -> Waits | None:
        """What to say of a place that has been away for longer than `move_after`; None while it has not."""
        station, limit = self._stations.get(name), self._settings.move_after
        if not limit or station is None or station.away is None:
            return None
        since, at = station.away
        if asyncio.get_running_loop().time() - since < limit:
            return None
        text = f"The tunnel {name!r} has been away for longer than move_after ({timedelta(seconds=limit)})."
        return Waits("instance_away", text, since=at)

    def in_doubt(self, job: Job) -> Waits | None:
        """What a job says that was given to a place which has been away for too long: what was before, and what the user can do."""
        why = self.too_long(job.place or "") if job.stage in ACTIVE and not job.cancel_requested else None
        if why is None:
            return None
        text = f"{why.message} ComfyUI there was given this job and may have run it."
        hint = f"Run it elsewhere, which may be a second time: comfytunnel jobs move {job.id}"
        return replace(why, message=text, hint=hint)

    async def _free_those_that_wait(self) -> None:
        """For ever: let jobs that ask for a place which has been away for too long go to any other that serves."""
        while True:
            limit = self._settings.move_after
            await asyncio.sleep(min(LOOK, limit) if limit else LOOK)
            try:
                for name in list(self._places):
                    if any(place.gate.value.open for place in self._places.values()):
                        await self._free(name)
            except StateError as error:
                log.warning("state", why=error.message)
            for station in self._stations.values():
                if station.away is not None and station.runs:
                    self._changed()  # what they say may have changed
                    break

    async def _free(self, name: str) -> None:
        why = self.too_long(name)
        for job_id in self._line.asking_for(name) if why is not None else ():
            note = f"It asked for the tunnel {name!r}, which was away for longer than move_after, and may run on any."
            after = await self._store.move(job_id, expect=Stage.WAITING, tunnel=None, note=note)
            if after is not None and self._line.remove(job_id) is not None:
                self._line_up(after)
