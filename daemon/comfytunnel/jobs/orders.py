"""What people ask of jobs that are here: cancel, retry, another priority or place in line, and the queue as a whole.

Each order is one compare-and-set in the store, tried again if the job has moved on meanwhile; what is in memory follows the store.
"""

from __future__ import annotations

from abc import abstractmethod

import msgspec
import structlog

from comfytunnel.errors import NotFoundError, RefusedError, UsageError
from comfytunnel.jobs import outputs
from comfytunnel.jobs.floor import QUEUE
from comfytunnel.jobs.model import Input, Job, Mode, NewJob, Queue, Stage, Status
from comfytunnel.jobs.moving import Moving
from comfytunnel.jobs.verdict import ended

log = structlog.get_logger(__name__)


class Orders(Moving):
    @abstractmethod
    async def submit(self, new: NewJob) -> Job: ...

    async def cancel(self, job_id: str) -> Job:
        """A waiting job is canceled at once, and so is one whose outputs are being fetched; one on the server shows `canceling`
        until its end is known. Idempotent: an ended job is returned as it is. Raises NotFoundError, StateError."""
        while True:
            job = await self._known(job_id)
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
            if after is not None:
                self._partner_keys.pop(job.id, None)
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
        if after is not None:
            await outputs.forget_parts(job)
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

    async def retry(self, job_id: str, inputs: tuple[Input, ...] = (), *, hooked: bool = True) -> Job:
        """A new job like an ended one, which it names in `retry_of`, with the same `inputs`; `hooked`: and its webhook. Raises NotFoundError, RefusedError (`job_not_ended`), UsageError
        (its key for partner nodes was not kept), and what `submit` raises."""
        job = await self._known(job_id)
        if not job.ended:
            raise RefusedError(
                f"The job {job.id} has not ended: it is {job.status}.",
                hint=f"Wait for it, or end it first: comfytunnel jobs cancel {job.id}",
                code="job_not_ended",
            )
        if job.partner_key:
            raise UsageError(
                "The job came with a key for partner nodes, which was never kept.",
                hint="Submit the workflow again, with extra_data.api_key_comfy_org.",
                code="credential_gone",
            )
        hook = (await self._store.hooks_of([job.id])).get(job.id)
        return await self.submit(
            NewJob(
                workflow=await self._store.workflow(job.id) or {},
                inputs=inputs,
                tunnel=job.tunnel,
                label=job.label,
                priority=job.priority,
                ttl=job.ttl,
                time_to_run=job.time_to_run,
                fail_fast=job.fail_fast,
                webhook=hook.webhook if hook is not None and hooked else None,
                validate=False,  # it was accepted before, and ComfyUI may have changed
                generated=job.generated,
                retry_of=job.id,
            )
        )

    async def prioritise(self, job_id: str, priority: int) -> Job:
        """Another priority (-1000 to 1000) for a waiting job: it stands by its age among those. Raises NotFoundError,
        RefusedError (`job_not_waiting`), StateError."""
        return await self._stand_at(await self._known(job_id), priority, None)

    async def place_before(self, job_id: str, other: str | None) -> Job:
        """Let a waiting job stand right before another one, or last of all (None); it takes the priority that is there. Raises as
        `prioritise` does; NotFoundError also if the other one does not wait."""
        job = await self._known(job_id)
        if job.id not in self._line:
            raise _not_waiting(job)
        if other == job.id:
            return job  # it stands there
        slot = self._line.slot(job.id, other)
        if slot is None:
            raise NotFoundError(f"No job {other} waits in line.", hint="Name one that is queued.")
        return await self._stand_at(job, *slot)

    async def place_first(self, job_id: str) -> Job:
        """Let a waiting job be the next one. Raises as `prioritise` does."""
        job = await self._known(job_id)
        ends = self._line.ends()
        if ends is None or ends[0] == job.id:
            return await self._stand_at(job, job.priority, job.rank)
        return await self.place_before(job_id, ends[0])

    async def _stand_at(self, job: Job, priority: int, rank: str | None) -> Job:
        after = await self._store.move(job.id, expect=Stage.WAITING, priority=priority, rank=rank)
        if after is None:
            raise _not_waiting(await self._known(job.id))
        if self._line.remove(job.id) is not None:  # else it is just being given out
            self._line_up(after)
        return after

    async def set_mode(self, mode: Mode) -> Queue:
        """Pause, drain or resume the queue; it stays so over restarts. Raises StateError."""
        await self.take_up()
        if mode is not self.queue.value.mode:
            after = Queue(mode, self._now())
            await self._store.remember(QUEUE, msgspec.json.encode(after).decode())
            self.queue.set(after)
            log.info("queue", mode=mode.value)
            self._stir()
            self._changed()
        return self.queue.value

    async def _known(self, job_id: str) -> Job:
        job = await self._store.get(job_id)
        if job is None:
            raise NotFoundError(
                f"There is no job {job_id}.", hint="`comfytunnel jobs list` shows those that are kept."
            )
        return job


def _not_waiting(job: Job) -> RefusedError:
    return RefusedError(
        f"The job {job.id} does not wait in line: it is {job.status}.",
        hint="Only a job that has not been given to ComfyUI can be moved.",
        code="job_not_waiting",
    )
