"""Watches for a submission that the network delivers after the settle time, when its job has been sent again, or canceled.

ComfyUI does not deduplicate, so the job would run twice. What of it still waits is taken out of ComfyUI's queue; what runs although the job is at its
end is interrupted; and in each case the job says so (`note`, `executions`). The history tells of a run that nobody saw: its number is another one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from comfytunnel.comfy.errors import ComfyError
from comfytunnel.errors import StateError
from comfytunnel.jobs.marker import Marker
from comfytunnel.jobs.model import Job, Stage
from comfytunnel.jobs.place import Place
from comfytunnel.jobs.store import Store
from comfytunnel.jobs.verdict import Process

log = structlog.get_logger(__name__)

WATCH = timedelta(minutes=10)
"""How long a submission of which nothing was heard is watched for; TCP gives up by then, mostly."""
LOOK = 2.0
"""Seconds between two looks while there is something to watch for."""
TEXT = "ComfyUI got it twice: a submission that the network had held back came after it was given up. "


@dataclass
class _Doubt:
    """`until`: by the loop's clock. `numbers`: those that ComfyUI gave to what it has under this id. `said`: that there are two."""

    job_id: str
    until: float
    numbers: set[float] = field(default_factory=set)
    said: bool = False


class Doubles:
    """One place's. `watch` every job with `doubts`."""

    def __init__(self, place: Place, store: Store, marker: Marker) -> None:
        self._place = place
        self._store = store
        self._marker = marker
        self._doubts: dict[str, _Doubt] = {}
        self._bell = asyncio.Event()

    def watch(self, job: Job) -> None:
        """From now on, or for longer."""
        until = asyncio.get_running_loop().time() + WATCH.total_seconds()
        self._doubts.setdefault(job.given_id, _Doubt(job.id, until)).until = until
        self._bell.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            self._bell.clear()
            if not self._doubts:
                await self._bell.wait()
            await asyncio.sleep(LOOK)
            await self._place.gate.until(lambda gate: gate.open)
            for given_id, doubt in list(self._doubts.items()):
                try:
                    await self._look(given_id, doubt)
                except (ComfyError, StateError) as error:
                    log.debug("double", place=self._place.name, why=error.message)
                if asyncio.get_running_loop().time() > doubt.until:
                    del self._doubts[given_id]

    async def _look(self, given_id: str, doubt: _Doubt) -> None:
        job = await self._store.get(doubt.job_id)
        if job is None or job.stage in (Stage.WAITING, Stage.SUBMITTING):
            return  # run.py looks it up before it sends it, and after
        here = job.place == self._place.name and job.given_id == given_id
        wanted = 1 if here and job.stage is Stage.ON_SERVER else 0
        queue = await self._place.client.queue()
        running = [item for item in queue.running if given_id in (item.prompt_id, item.job)]
        pending = [item for item in queue.pending if given_id in (item.prompt_id, item.job)]
        doubt.numbers |= {item.number for item in (*running, *pending)}
        if len(running) + len(pending) > wanted:
            # By the id alone: of two that wait one is taken out, and never the one that runs.
            if pending:
                await self._place.client.delete_pending(pending[-1].prompt_id or given_id)
                await self._say(job, doubt, "One was taken out of its queue.")
            else:
                await self._place.client.interrupt(running[-1].prompt_id or given_id)
                await self._say(job, doubt, "The one that was not wanted was interrupted.")
            return
        entry = await self._place.client.history(given_id)
        if entry is not None and entry.number is not None:
            doubt.numbers.add(entry.number)
        if len(doubt.numbers) > 1 and not doubt.said:
            if await self._marker.process(job.server) is Process.SAME:
                await self._say(job, doubt, "It has run twice.")
            else:
                doubt.numbers.clear()  # another process, which counts anew

    async def _say(self, job: Job, doubt: _Doubt, what: str) -> None:
        if not doubt.said:
            log.warning("job given twice", job=job.id, place=self._place.name, what=what)
            await self._store.remark(job.id, TEXT + what)
            doubt.said = True
