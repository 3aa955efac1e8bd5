"""The blocking shell: `Client().status()`. Each call opens a connection of its own and closes it.

What is asked stands in calls.py, how a stream that breaks is followed in following.py, how the bytes are carried in carrier.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Unpack
from uuid import uuid4

from comfytunnel import wire
from comfytunnel.client import calls
from comfytunnel.client.address import address_of
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
from comfytunnel.client.jobs import Job, JobPage, Output
from comfytunnel.client.plain import PlainCalls
from comfytunnel.client.views import own
from comfytunnel.errors import NotRunningError, RefusedError, RemoteError, UsageError
from comfytunnel.protocol import DAEMON_EVENTS, JOB_EVENTS, Call, DaemonEvent, Goal, JobEvent, decode

T = TypeVar("T")


class Client(PlainCalls):
    """The daemon of this user: `Client()`. Or one behind another socket (`socket_path`), or on its port of `[web] listen`:
    `Client(base_url="http://localhost:8000", token=...)`; there, only a part of the calls is served.

    Calls block; `timeout` is in seconds and holds for each answer. Every call may raise UsageError (an address that cannot be), NotRunningError (no
    daemon, or one that does not answer), RefusedError (not our daemon), and what its route answers with. Safe to use from several threads, but for
    `last_event_id`. There is nothing to close.
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
        """`told_version` hears with each answer which version of comfytunnel the daemon is."""
        super().__init__(address_of(socket_path, base_url, token), timeout, told_version)
        self.last_event_id = ""
        """The id of the last event that `events` has returned: where to resume."""

    def wait_until_serving(self, name: str | None = None, *, timeout: float | None = None) -> wire.Status:
        """Return as soon as ComfyUI answers through the tunnel `name`, or through any. Errors as with `wait`."""
        return self.wait(name, timeout=timeout)

    def wait(
        self,
        name: str | None = None,
        *,
        until: Goal = "serving",
        timeout: float | None = None,
        told: Callable[[wire.Status], None] | None = None,
    ) -> wire.Status:
        """Return as soon as the tunnel `name` (None: any of them) is up, or up with ComfyUI serving.

        `told` hears of every state on the way. NotFoundError for a name that is not configured, TimedOutError after `timeout`
        seconds, NotRunningError when the daemon stops meanwhile.
        """
        reaching = Reaching(name, until, self.status())
        if reaching.unknown is not None:
            self.tunnel(reaching.unknown)  # raises, with the names that are known
        if reaching.there():
            return reaching.status
        for event in self.events(timeout=timeout):
            if not reaching.hear(event):
                continue
            if reaching.there():
                return reaching.status
            if told is not None:
                told(reaching.status)
        raise NotRunningError("The daemon has stopped while we waited.", hint=how_to_start(self.address))

    def submit(
        self,
        workflow: dict[str, Any],
        *,
        idempotency_key: str | None = None,
        generated: wire.GeneratedRequest | None = None,
        **asked: Unpack[calls.Asked],
    ) -> Job:
        """Hand over a workflow in API format and return the job: it is on disk then. `asked`: see Asked. WorkflowError when it can never run,
        RefusedError (`queue_full`, `queue_draining`) when nothing is taken now. `generated`: the workflow with a name that you have made the graph from, and the
        values; the job tells them. (`generate` does all that by itself.)

        After a NotRunningError it may have been accepted: with the same `idempotency_key` (any text of your own) a second submission within a day is
        refused, and UsageError.details["job_id"] is the first one's.
        """
        return self._job(calls.submit(workflow, asked, idempotency_key, generated))

    def run(
        self,
        workflow: dict[str, Any],
        *,
        timeout: float | None = None,
        told: Callable[[JobEvent], None] | None = None,
        **asked: Unpack[calls.Asked],
    ) -> Job:
        """Submit a workflow in API format, wait for its end and return the job with its outputs. `told` hears of what happens meanwhile.

        Errors as with `submit`; JobFailedError, JobCanceledError or JobExpiredError (`job` is in them) for another end than success. TimedOutError after `timeout`
        seconds from now, NotRunningError when the daemon is away for a minute: then and after Ctrl-C the job goes on, and is found again by its id, which the
        error tells. A restart of the daemon is waited for, and the workflow is never submitted twice.
        """
        deadline = Deadline(timeout, time.monotonic())
        job = self._submit_once(calls.submit(workflow, asked, str(uuid4())))
        return self._succeeded(job, deadline.left(time.monotonic()), told)

    def generate(
        self,
        workflow: str | dict[str, Any],
        params: Mapping[str, Any] | None = None,
        *,
        images: Mapping[str, Path | str | wire.Asset] | None = None,
        wait: bool = True,
        timeout: float | None = None,
        told: Callable[[JobEvent], None] | None = None,
        **asked: Unpack[calls.Asked],
    ) -> Job:
        """Run a named workflow (or a graph) with values for its parameters, and return the finished job; see `workflows` for what there is.

        A seed that is left out or None is drawn anew each time; `job.comfytunnel.generated` tells it. `images`: the path of a file, which is uploaded, or what `upload`
        has returned. `wait` False returns the job as soon as it is accepted. Errors as with `run`; NotFoundError for a workflow, UsageError for a value that
        does not fit.
        """
        deadline = Deadline(timeout, time.monotonic())
        sent = {
            name: image.id if isinstance(image, wire.Asset) else self.upload(image).id
            for name, image in (images or {}).items()
        }
        job = self._submit_once(calls.generate(workflow, params, sent, asked, str(uuid4())))
        return self._succeeded(job, deadline.left(time.monotonic()), told) if wait else job

    def job(self, job_id: str) -> Job:
        """NotFoundError for an id that is not known (any more); so too the rest of what takes one."""
        return self._job(calls.job(job_id))

    def jobs(self, *, limit: int | None = None, **filters: Unpack[calls.Filters]) -> Iterator[Job]:
        """Every job that the filters let pass, the newest first, or `limit` of them; asked for in pages while you read."""
        cursor, left = None, limit
        while left is None or left > 0:
            size = None if left is None else min(left, calls.PAGE)
            page = self.jobs_page(**filters, cursor=cursor, limit=size)
            yield from page.jobs
            left = None if left is None else left - len(page.jobs)
            cursor = page.next_cursor
            if cursor is None:
                return

    def jobs_page(
        self, *, cursor: str | None = None, limit: int | None = None, **filters: Unpack[calls.Filters]
    ) -> JobPage:
        """Return one page; its `next_cursor` asks for the next. `limit`: 1 to 100."""
        call = calls.jobs(**filters, cursor=cursor, limit=limit)
        page = self.call(call.read_as(JobPage))
        for job in page.jobs:
            own(job, self)
        return page

    def cancel(self, job_id: str) -> Job:
        return self._job(calls.cancel(job_id))

    def retry(self, job_id: str) -> Job:
        """A new job like an ended one. RefusedError if that has not ended."""
        return self._job(calls.retry(job_id))

    def remove(self, job_id: str, *, files: bool = False) -> wire.Removed:
        """Forget an ended job, with `files` those of its files that are unchanged, too. RefusedError if it has not ended, or its webhook is to be told yet."""
        return self.call(calls.remove(job_id, files=files))

    def prioritise(self, job_id: str, priority: int) -> Job:
        """Give a waiting job another priority. RefusedError if it does not wait any more."""
        return self._job(calls.prioritise(job_id, priority))

    def move(
        self, job_id: str, *, before: str | None = None, to: Literal["front", "back"] | None = None
    ) -> Job:
        """Let a waiting job stand before another one, or at an end of the line. Errors as with `prioritise`."""
        return self._job(calls.move(job_id, wire.MoveRequest(before=before, to=to)))

    def move_to(self, job_id: str, tunnel: str | None = None) -> Job:
        """Let a job that has not ended run on that tunnel's ComfyUI, or on any. One that was given to another may run there as well. RefusedError if it cannot
        be moved, RemoteError (`unknown_tunnel`)."""
        return self._job(calls.move(job_id, wire.MoveRequest(tunnel=tunnel)))

    def events(
        self, last_event_id: str | None = None, *, timeout: float | None = None
    ) -> Iterator[DaemonEvent]:
        """What happens in the daemon: a Status first, then TunnelEvent, Job and Outage. Ends when the daemon stops.

        With the id of the last event seen (`last_event_id`), the jobs that have changed since come first. TimedOutError after
        `timeout` seconds in all.
        """
        for event in self.stream(calls.events(last_event_id), timeout):
            kind = DAEMON_EVENTS.get(event.name)
            self.last_event_id = event.id
            if kind is not None:
                yield self._owned(decode(event.data, Job if kind is wire.Job else kind))

    def job_events(self, job_id: str, *, timeout: float | None = None) -> Iterator[JobEvent]:
        """The live view of one job; ends after its terminal status, or when the daemon stops."""
        for event in self.stream(calls.job_events(job_id), timeout):
            kind = JOB_EVENTS.get(event.name)
            if kind is not None:
                yield self._owned(decode(event.data, Output if kind is wire.Output else kind))

    def follow(
        self,
        job_id: str,
        *,
        timeout: float | None = None,
        patience: float = PATIENCE,
        away: Callable[[], None] | None = None,
    ) -> Iterator[JobEvent | Job]:
        """The live view of one job over restarts of the daemon; the last item is the finished Job.

        An output comes once; `away` is called when the daemon is found to be away. TimedOutError after `timeout` seconds, NotRunningError when the daemon stays away for `patience`
        seconds: the job is on disk and goes on when the daemon does.
        """
        deadline, follow = Deadline(timeout, time.monotonic()), Follow(patience)
        while True:
            try:
                for event in self._events_or_snapshot(job_id, deadline):
                    if follow.news(event):
                        yield event
                    if isinstance(event, Job):
                        return
            except NotRunningError as error:
                if follow.lost(error, time.monotonic()) and away is not None:
                    away()
                if deadline.left(time.monotonic()) == 0:
                    raise deadline.passed() from None
            left = deadline.left(time.monotonic())
            time.sleep(PAUSE if left is None else min(PAUSE, left))

    def finished(
        self, job_id: str, *, timeout: float | None = None, told: Callable[[JobEvent], None] | None = None
    ) -> Job:
        """Follow a job and return it when it has ended, however. Errors as with `follow`, and they tell the job's id."""
        with goes_on(job_id):
            for event in self.follow(job_id, timeout=timeout):
                if isinstance(event, Job):
                    return event
                if told is not None:
                    told(event)
            raise RuntimeError("follow ended without a job")  # it ends with one or raises

    def _events_or_snapshot(self, job_id: str, deadline: Deadline) -> Iterator[JobEvent | Job]:
        """The stream as long as it lasts, then the job as it is."""
        try:
            yield from self.job_events(job_id, timeout=deadline.left(time.monotonic()))
        except (RefusedError, RemoteError) as error:
            Follow.without_stream(error)
        yield from at_the_end_of_a_stream(self.job(job_id))

    def _submit_once(self, call: Call[wire.Job]) -> Job:
        """Submit until it is known what has become of it; the Idempotency-Key makes sure that there is one job."""
        sending = Sending(PATIENCE)
        while True:
            try:
                return self._job(call)
            except (NotRunningError, UsageError) as error:
                job_id = sending.made(error, time.monotonic())
                if job_id is not None:
                    return self.job(job_id)
            time.sleep(PAUSE)

    def _succeeded(self, job: Job, timeout: float | None, told: Callable[[JobEvent], None] | None) -> Job:
        done = self.finished(job.id, timeout=timeout, told=told)
        done.check()
        return done

    def _job(self, call: Call[wire.Job]) -> Job:
        return self._owned(self.call(call.read_as(Job)))

    def _owned(self, thing: T) -> T:
        if isinstance(thing, Job | Output):
            own(thing, self)
        return thing
