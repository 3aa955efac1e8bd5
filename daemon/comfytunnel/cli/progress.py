"""How jobs look while they run: bars on a terminal (bars.py), a line for what is new elsewhere, one JSON event a line for programs.

Each view shows one job or several. Nothing here follows a job (follow.py), and nothing here prints what it made (watching.py).
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from comfytunnel import wire
from comfytunnel.cli.exits import say, tell
from comfytunnel.cli.pace import AWAY, Watched, speed_text
from comfytunnel.cli.render import json_text, progress_text, queued_text
from comfytunnel.printable import printable
from comfytunnel.protocol import JobEvent, name_of

LINE_PAUSE = 1.0  # seconds between two lines about the progress of one job, where nobody sees them move


class View(Protocol):
    """Shows what happens to jobs between `with` and its end."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, job_id: str, event: JobEvent) -> None: ...

    def ended(self, job: wire.Job) -> None: ...

    def away(self) -> None:
        """The daemon is away, and waited for."""

    def aside(self) -> contextlib.AbstractContextManager[None]:
        """While it lasts the terminal belongs to the caller."""


def live_view(jobs: Sequence[wire.Job], *, as_json: bool) -> View:
    """Return the view that fits where we write to."""
    if as_json:
        return JsonView(jobs)
    if sys.stderr.isatty():
        from comfytunnel.cli.bars import BarView  # with rich: 60 ms that only a person at a terminal pays

        return BarView(jobs)
    return LineView(jobs)


class JsonView(contextlib.AbstractContextManager["JsonView", None]):
    """One JSON object a line on stdout: {"event", "job", "data"}; the first of each job is `submitted`."""

    def __init__(self, jobs: Sequence[wire.Job]) -> None:
        self._jobs = jobs

    def __enter__(self) -> Self:
        for job in self._jobs:
            self._write("submitted", job.id, job)
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, job_id: str, event: JobEvent) -> None:
        self._write(name_of(event), job_id, event)

    def ended(self, job: wire.Job) -> None:
        """The result is said with its files, by whoever has put them down."""

    def away(self) -> None:
        """Events are the daemon's own: a program sees that none come."""

    def aside(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def _write(self, name: str, job_id: str, data: Any) -> None:
        tell(json_text({"event": name, "job": job_id, "data": data}))


class LineView(contextlib.AbstractContextManager["LineView", None]):
    """A line on stderr when something is new: the state, or the node and another tenth of the way, at most one a LINE_PAUSE of that."""

    def __init__(self, jobs: Sequence[wire.Job] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self._watched = {job.id: Watched(job) for job in jobs}
        self._clock = clock
        self._last: dict[str, object] = {}
        self._at: dict[str, float] = {}
        self._is_away = False

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, job_id: str, event: JobEvent) -> None:
        self._is_away = False
        watched, now = self._watched.get(job_id), self._clock()
        if watched is not None:
            watched.feed(event, now)
        if isinstance(event, wire.Progress):
            key = (event.current_node, int(event.value * 10))
            if key != self._last.get(job_id) and now - self._at.get(job_id, -LINE_PAUSE) >= LINE_PAUSE:
                self._at[job_id] = now
                rate = watched.rate() if watched is not None else None
                fast = f", {speed_text(rate)}" if rate is not None else ""
                self._tell(job_id, key, f"{progress_text(event)}{fast}")
        elif isinstance(event, wire.StatusEvent) and event.status not in wire.TERMINAL:
            text = state_text(event)
            if text != self._last.get(job_id):
                self._tell(job_id, text, text)

    def ended(self, job: wire.Job) -> None:
        """Among several each end is told; that of a single job is said with its files."""
        if len(self._watched) > 1:
            self._tell(job.id, None, printable(job.status))

    def away(self) -> None:
        if not self._is_away:
            self._is_away = True
            say(AWAY)

    def aside(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def _tell(self, job_id: str, key: object, text: str) -> None:
        self._last[job_id] = key
        several = len(self._watched) > 1 and job_id in self._watched
        say(f"{self._watched[job_id].name}: {text}" if several else text)


def state_text(event: wire.StatusEvent) -> str:
    """Return the state with what is waited for, and what can be done about it."""
    waits = event.comfytunnel.waits_for if event.comfytunnel else None
    if event.status == "queued" or waits is not None:
        hint = f" ({printable(waits.hint)})" if waits is not None and waits.hint else ""
        return f"{printable(event.status)}: {queued_text(event.queue_position, waits)}{hint}"
    return printable(event.status)
