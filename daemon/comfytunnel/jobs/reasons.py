"""Where each job stands and what it waits for, since when: asked at any moment, stored nowhere, because it changes for all at once."""

from __future__ import annotations

from datetime import datetime

from msgspec.structs import replace

from comfytunnel.jobs.model import Job, LiveProgress, Mode, Preview, Stage, Status, Waits
from comfytunnel.jobs.moving import Moving
from comfytunnel.jobs.place import Place

QUEUE_BEFORE = "queue"
"""The code of waiting for nothing but the jobs before it."""

NO_TUNNEL = "no_tunnel"

_HELD = {
    Mode.PAUSED: Waits("paused", "The queue is paused.", "Go on: comfytunnel queue resume"),
    Mode.DRAINING: Waits("draining", "The queue is being drained.", "Go on: comfytunnel queue resume"),
}


class Reasons(Moving):
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
        """How many jobs are ahead of a queued one wherever it may go, from 0; None for one that is not queued."""
        if job.status is not Status.QUEUED:
            return None
        given = 0
        for name, station in self._stations.items():
            ids = [run.job.id for run in station.on_server()]
            if job.id in ids:
                return ids.index(job.id)
            given += len(ids) if job.tunnel in (None, name) else 0
        ahead = self._line.ahead(job.id)
        return None if ahead is None else given + ahead

    def waits_for(self, job: Job) -> Waits | None:
        """What a job that is not running waits for: the user, a link, ComfyUI, room on the disk, the jobs before it. None if it goes on."""
        if job.ended:
            return None
        run = self._run_of(job.id)
        why = self.in_doubt(job)
        if why is not None:
            return why
        if run is not None and run.waits is not None:
            return run.waits
        name = job.place or job.tunnel
        why = self.hindrance(name, waiting=job.stage is Stage.WAITING)
        if why is not None:
            if why.code == NO_TUNNEL and name and len(self._places):
                hint = f"Put it back, or let the job run elsewhere: comfytunnel jobs move {job.id}"
                why = replace(why, hint=hint)
            return _dated(why, job)
        ahead = self.queue_position(job)
        if not ahead:
            return None
        text = f"{ahead} job{'s' if ahead > 1 else ''} before it."
        return _dated(Waits(QUEUE_BEFORE, text, since=self._open_since(name)), job)

    def hindrance(self, tunnel: str | None, *, waiting: bool = True) -> Waits | None:
        """Why no job for this tunnel (None: for any) can go on, whatever its place in line; `since` None: as long as the job is there.
        Without `waiting` only what hinders a job on the server counts."""
        places = self._eligible(tunnel)
        if not places:
            text = f"The tunnel {tunnel!r} is not in the config." if tunnel else "No tunnel is configured."
            return Waits(NO_TUNNEL, text, "Run `comfytunnel setup` with the ssh command of your instance.")
        if not waiting:
            return None
        if self._held():
            return replace(_HELD[self.queue.value.mode], since=self.queue.value.since)
        if not any(place.gate.value.open for place in places):
            return self._closed(places[0])
        stations = [self._stations.get(place.name) for place in places]
        troubles = [station.trouble for station in stations if station is not None and station.trouble]
        return troubles[0] if len(troubles) == len(places) else None

    def _eligible(self, tunnel: str | None) -> list[Place]:
        if tunnel is None:
            return list(self._places.values())
        return [self._places[tunnel]] if tunnel in self._places else []

    def _closed(self, place: Place) -> Waits:
        text = f"The tunnel {place.name!r} or its ComfyUI is not there."
        why = place.gate.value.why or Waits("not_serving", text)
        station = self._stations.get(place.name)
        return replace(why, since=why.since or (station.gate_since if station is not None else None))

    def _open_since(self, tunnel: str | None) -> datetime | None:
        """When the first of its places began to serve."""
        stations = [
            self._stations.get(place.name) for place in self._eligible(tunnel) if place.gate.value.open
        ]
        known = [station.gate_since for station in stations if station is not None and station.gate_since]
        return min(known) if known else None


def _dated(why: Waits, job: Job) -> Waits:
    """`why`, but not since before the job was there."""
    return replace(why, since=max(why.since or job.created_at, job.created_at))
