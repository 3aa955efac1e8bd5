"""Following jobs to their ends, one or many, over restarts of the daemon: events go to a view, ended jobs to a function.

The daemon's streams are for one job each, so several are read side by side by threads of ours; only the caller's thread touches the view. A
thread ends with its stream or with the process: nothing waits for it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence

from comfytunnel import wire
from comfytunnel.cli.progress import View
from comfytunnel.client import Client
from comfytunnel.client.jobs import Job
from comfytunnel.errors import Error, TimedOutError
from comfytunnel.protocol import JobEvent

ABREAST = 8  # jobs that are followed at once; the daemon has 64 streams for all, and later jobs mostly wait for these

_Item = tuple[str, JobEvent | Job | Error | None]  # a job's id; None: the daemon is away


def follow_all(
    client: Client,
    jobs: Sequence[wire.Job],
    view: View,
    ended: Callable[[Job], None],
    timeout: float | None = None,
) -> None:
    """Return when every job has ended; `ended` has had each, in the order of their ends as far as ABREAST are followed.

    Raises what Client.follow raises, for the first job that it is raised for; TimedOutError after `timeout` seconds in all.
    """
    if len(jobs) == 1:
        for event in client.follow(jobs[0].id, timeout=timeout, away=view.away):
            _pass_on(jobs[0].id, event, view, ended)
        return
    deadline = None if timeout is None else time.monotonic() + timeout
    todo: queue.SimpleQueue[str] = queue.SimpleQueue()
    for job in jobs:
        todo.put(job.id)
    heard: queue.SimpleQueue[_Item] = queue.SimpleQueue()
    for _ in range(min(ABREAST, len(jobs))):
        threading.Thread(target=_follow_some, args=(client, todo, heard, deadline), daemon=True).start()
    left = {job.id for job in jobs}
    while left:
        job_id, item = heard.get()
        if item is None:
            view.away()
        elif isinstance(item, TimedOutError) and timeout is not None:
            raise TimedOutError(f"{timeout:g} seconds have passed.") from item
        elif isinstance(item, Error):
            raise item
        else:
            _pass_on(job_id, item, view, ended)
            if isinstance(item, Job):
                left.discard(job_id)


def _pass_on(job_id: str, event: JobEvent | Job, view: View, ended: Callable[[Job], None]) -> None:
    if isinstance(event, Job):
        view.ended(event)
        ended(event)
    else:
        view.show(job_id, event)


def _follow_some(
    client: Client,
    todo: queue.SimpleQueue[str],
    heard: queue.SimpleQueue[_Item],
    deadline: float | None,
) -> None:
    """The work of one thread: one job after the other until none is left, or one cannot be followed."""
    while True:
        try:
            job_id = todo.get_nowait()
        except queue.Empty:
            return
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            for event in client.follow(job_id, timeout=left, away=lambda: heard.put(("", None))):
                heard.put((job_id, event))
        except Error as error:
            heard.put((job_id, error))
            return
        except (
            BaseException
        ) as error:  # a mistake of ours: the caller's thread must hear of it, or it waits for ever
            heard.put((job_id, Error(f"The job cannot be followed: {error!r}.")))
            raise
