"""The async shell: `await AsyncClient().status()`. As blocking.py, to be awaited; over httpx.

What is asked stands in calls.py, how a stream that breaks is followed in following.py, how the bytes are carried in asynccarrier.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Literal, TypeVar, Unpack
from uuid import uuid4

from comfytunnel import wire
from comfytunnel.client import calls
from comfytunnel.client.address import address_of
from comfytunnel.client.asyncjobs import AsyncJob, AsyncJobPage, AsyncOutput
from comfytunnel.client.asyncplain import AsyncPlainCalls
from comfytunnel.client.connection import how_to_start
from comfytunnel.client.following import (
    PATIENCE,
    PAUSE,
    Deadline,
    Follow,
    Reaching,
    Sending,
    at_the_end_of_a_stream,
    goes_on,
)
from comfytunnel.client.views import own
from comfytunnel.errors import NotRunningError, RefusedError, RemoteError, UsageError
from comfytunnel.protocol import DAEMON_EVENTS, JOB_EVENTS, Call, DaemonEvent, Goal, JobEvent, decode

T = TypeVar("T")


class AsyncClient(AsyncPlainCalls):
    """The daemon of this user, for asyncio: the calls, the arguments and the errors of Client. It needs httpx (`pip install 'comfytunnel[async]'`), else
    UsageError.

    One may be made at import and used for good, in any loop; `async with` is possible and not needed. A task that is canceled while it waits for a job
    leaves the job running.
    """

    def __init__(
        self,
        socket_path: Path | str | None = None,
        timeout: float = 10.0,
        told_version: Callable[[str], None] | None = None,
        *,
        base_url: str | None = None,
        token: str | None = None,
    ) -> None:
        """As Client: `timeout` in seconds, for each answer."""
        super().__init__(address_of(socket_path, base_url, token), timeout, told_version)
        self.last_event_id = ""
        """The id of the last event that `events` has returned: where to resume."""

    async def wait_until_serving(
        self, name: str | None = None, *, timeout: float | None = None
    ) -> wire.Status:
        """Return as soon as ComfyUI answers through the tunnel `name`, or through any. Errors as with `wait`."""
        return await self.wait(name, timeout=timeout)

    async def wait(
        self,
        name: str | None = None,
        *,
        until: Goal = "serving",
        timeout: float | None = None,
        told: Callable[[wire.Status], None] | None = None,
    ) -> wire.Status:
        """Return as soon as the tunnel `name` (None: any of them) is up, or up with ComfyUI serving. As Client.wait."""
        reaching = Reaching(name, until, await self.status())
        if reaching.unknown is not None:
            await self.tunnel(reaching.unknown)  # raises, with the names that are known
        if reaching.there():
            return reaching.status
        async with aclosing(self.events(timeout=timeout)) as events:
            async for event in events:
                if not reaching.hear(event):
                    continue
                if reaching.there():
                    return reaching.status
                if told is not None:
                    told(reaching.status)
        raise NotRunningError("The daemon has stopped while we waited.", hint=how_to_start(self.address))

    async def submit(
        self,
        workflow: dict[str, Any],
        *,
        idempotency_key: str | None = None,
        generated: wire.GeneratedRequest | None = None,
        **asked: Unpack[calls.Asked],
    ) -> AsyncJob:
        """Hand over a workflow in API format and return the job: it is on disk then. As Client.submit."""
        return await self._job(calls.submit(workflow, asked, idempotency_key, generated))

    async def run(
        self,
        workflow: dict[str, Any],
        *,
        timeout: float | None = None,
        told: Callable[[JobEvent], None] | None = None,
        **asked: Unpack[calls.Asked],
    ) -> AsyncJob:
        """Submit a workflow in API format, wait for its end and return the job with its outputs. As Client.run."""
        deadline = Deadline(timeout, time.monotonic())
        job = await self._submit_once(calls.submit(workflow, asked, str(uuid4())))
        return await self._succeeded(job, deadline.left(time.monotonic()), told)

    async def generate(
        self,
        workflow: str | dict[str, Any],
        params: Mapping[str, Any] | None = None,
        *,
        images: Mapping[str, Path | str | wire.Asset] | None = None,
        wait: bool = True,
        timeout: float | None = None,
        told: Callable[[JobEvent], None] | None = None,
        **asked: Unpack[calls.Asked],
    ) -> AsyncJob:
        """Run a named workflow (or a graph) with values for its parameters, and return the finished job. As Client.generate."""
        deadline = Deadline(timeout, time.monotonic())
        sent = {
            name: image.id if isinstance(image, wire.Asset) else (await self.upload(image)).id
            for name, image in (images or {}).items()
        }
        job = await self._submit_once(calls.generate(workflow, params, sent, asked, str(uuid4())))
        return await self._succeeded(job, deadline.left(time.monotonic()), told) if wait else job

    async def job(self, job_id: str) -> AsyncJob:
        """NotFoundError for an id that is not known (any more); so too the rest of what takes one."""
        return await self._job(calls.job(job_id))

    async def jobs(
        self, *, limit: int | None = None, **filters: Unpack[calls.Filters]
    ) -> AsyncGenerator[AsyncJob, None]:
        """`async for` every job that the filters let pass, the newest first, or `limit` of them. As Client.jobs."""
        cursor, left = None, limit
        while left is None or left > 0:
            size = None if left is None else min(left, calls.PAGE)
            page = await self.jobs_page(**filters, cursor=cursor, limit=size)
            for job in page.jobs:
                yield job
            left = None if left is None else left - len(page.jobs)
            cursor = page.next_cursor
            if cursor is None:
                return

    async def jobs_page(
        self, *, cursor: str | None = None, limit: int | None = None, **filters: Unpack[calls.Filters]
    ) -> AsyncJobPage:
        """Return one page; its `next_cursor` asks for the next. `limit`: 1 to 100."""
        call = calls.jobs(**filters, cursor=cursor, limit=limit)
        page = await self.call(call.read_as(AsyncJobPage))
        for job in page.jobs:
            own(job, self)
        return page

    async def cancel(self, job_id: str) -> AsyncJob:
        return await self._job(calls.cancel(job_id))

    async def retry(self, job_id: str) -> AsyncJob:
        """A new job like an ended one. RefusedError if that has not ended."""
        return await self._job(calls.retry(job_id))

    async def remove(self, job_id: str, *, files: bool = False) -> wire.Removed:
        """Forget an ended job, with `files` those of its files that are unchanged, too. RefusedError if it has not ended, or its webhook is to be told yet."""
        return await self.call(calls.remove(job_id, files=files))

    async def prioritise(self, job_id: str, priority: int) -> AsyncJob:
        """Give a waiting job another priority. RefusedError if it does not wait any more."""
        return await self._job(calls.prioritise(job_id, priority))

    async def move(
        self, job_id: str, *, before: str | None = None, to: Literal["front", "back"] | None = None
    ) -> AsyncJob:
        """Let a waiting job stand before another one, or at an end of the line. Errors as with `prioritise`."""
        return await self._job(calls.move(job_id, wire.MoveRequest(before=before, to=to)))

    async def move_to(self, job_id: str, tunnel: str | None = None) -> AsyncJob:
        """Let a job that has not ended run on that tunnel's ComfyUI, or on any. As Client.move_to."""
        return await self._job(calls.move(job_id, wire.MoveRequest(tunnel=tunnel)))

    async def events(
        self, last_event_id: str | None = None, *, timeout: float | None = None
    ) -> AsyncGenerator[DaemonEvent, None]:
        """What happens in the daemon: a Status first, then TunnelEvent, Job and Outage. As Client.events."""
        async with aclosing(self.stream(calls.events(last_event_id), timeout)) as stream:
            async for event in stream:
                kind = DAEMON_EVENTS.get(event.name)
                self.last_event_id = event.id
                if kind is not None:
                    yield self._owned(decode(event.data, AsyncJob if kind is wire.Job else kind))

    async def job_events(
        self, job_id: str, *, timeout: float | None = None
    ) -> AsyncGenerator[JobEvent, None]:
        """The live view of one job; ends after its terminal status, or when the daemon stops."""
        async with aclosing(self.stream(calls.job_events(job_id), timeout)) as stream:
            async for event in stream:
                kind = JOB_EVENTS.get(event.name)
                if kind is not None:
                    yield self._owned(decode(event.data, AsyncOutput if kind is wire.Output else kind))

    async def follow(
        self,
        job_id: str,
        *,
        timeout: float | None = None,
        patience: float = PATIENCE,
        away: Callable[[], None] | None = None,
    ) -> AsyncGenerator[JobEvent | AsyncJob, None]:
        """The live view of one job over restarts of the daemon; the last item is the finished AsyncJob. As Client.follow."""
        deadline, follow = Deadline(timeout, time.monotonic()), Follow(patience)
        while True:
            try:
                async with aclosing(self._events_or_snapshot(job_id, deadline)) as events:
                    async for event in events:
                        if follow.news(event):
                            yield event
                        if isinstance(event, AsyncJob):
                            return
            except NotRunningError as error:
                if follow.lost(error, time.monotonic()) and away is not None:
                    away()
                if deadline.left(time.monotonic()) == 0:
                    raise deadline.passed() from None
            left = deadline.left(time.monotonic())
            await asyncio.sleep(PAUSE if left is None else min(PAUSE, left))

    async def finished(
        self, job_id: str, *, timeout: float | None = None, told: Callable[[JobEvent], None] | None = None
    ) -> AsyncJob:
        """Follow a job and return it when it has ended, however. Errors as with `follow`, and they tell the job's id."""
        with goes_on(job_id):
            async with aclosing(self.follow(job_id, timeout=timeout)) as events:
                async for event in events:
                    if isinstance(event, AsyncJob):
                        return event
                    if told is not None:
                        told(event)
            raise RuntimeError("follow ended without a job")  # it ends with one or raises

    async def _events_or_snapshot(
        self, job_id: str, deadline: Deadline
    ) -> AsyncGenerator[JobEvent | AsyncJob, None]:
        """The stream as long as it lasts, then the job as it is."""
        try:
            async with aclosing(self.job_events(job_id, timeout=deadline.left(time.monotonic()))) as events:
                async for event in events:
                    yield event
        except (RefusedError, RemoteError) as error:
            Follow.without_stream(error)
        for told in at_the_end_of_a_stream(await self.job(job_id)):
            yield told

    async def _submit_once(self, call: Call[wire.Job]) -> AsyncJob:
        """Submit until it is known what has become of it; the Idempotency-Key makes sure that there is one job."""
        sending = Sending(PATIENCE)
        while True:
            try:
                return await self._job(call)
            except (NotRunningError, UsageError) as error:
                job_id = sending.made(error, time.monotonic())
                if job_id is not None:
                    return await self.job(job_id)
            await asyncio.sleep(PAUSE)

    async def _succeeded(
        self, job: AsyncJob, timeout: float | None, told: Callable[[JobEvent], None] | None
    ) -> AsyncJob:
        done = await self.finished(job.id, timeout=timeout, told=told)
        done.check()
        return done

    async def _job(self, call: Call[wire.Job]) -> AsyncJob:
        return self._owned(await self.call(call.read_as(AsyncJob)))

    def _owned(self, thing: T) -> T:
        if isinstance(thing, AsyncJob | AsyncOutput):
            own(thing, self)
        return thing
