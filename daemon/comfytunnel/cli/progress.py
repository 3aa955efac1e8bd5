"""How a running job looks: a live bar on a terminal, a line for each step elsewhere, one JSON event a line for programs."""

from __future__ import annotations

import contextlib
import sys
from types import TracebackType
from typing import Any, Protocol, Self

from comfytunnel import wire
from comfytunnel.cli.exits import say, tell
from comfytunnel.cli.render import json_text, progress_text, queued_text
from comfytunnel.printable import printable
from comfytunnel.protocol import JobEvent

NAMES = {
    wire.StatusEvent: "status",
    wire.Progress: "progress",
    wire.PreviewEvent: "preview",
    wire.Output: "output",
}


_TOLD_AT_THE_END = wire.TERMINAL - {"succeeded"}  # with the reason


class View(Protocol):
    """Shows the events of one job between `with` and its end."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, event: JobEvent) -> None: ...

    def away(self) -> None:
        """The daemon is away, and waited for."""


AWAY = "the daemon is away, waiting for it (the job is on disk)"


def live_view(job: wire.Job, *, as_json: bool) -> View:
    """Return the view that fits where we write to."""
    if as_json:
        return JsonView(job)
    return BarView() if sys.stderr.isatty() else LineView()


class JsonView(contextlib.AbstractContextManager["JsonView", None]):
    """One JSON object a line on stdout: {"event", "data"}; the first is `submitted`."""

    def __init__(self, job: wire.Job) -> None:
        self._job = job

    def __enter__(self) -> Self:
        self._write("submitted", self._job)
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, event: JobEvent) -> None:
        self._write(NAMES[type(event)], event)

    def away(self) -> None:
        """Events are the daemon's own: a program sees that none come."""

    def _write(self, name: str, data: Any) -> None:
        tell(json_text({"event": name, "data": data}))


class LineView(contextlib.AbstractContextManager["LineView", None]):
    """A line on stderr when something is new: the state, the node, another tenth of the way."""

    def __init__(self) -> None:
        self._last: object = None

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, event: JobEvent) -> None:
        if isinstance(event, wire.Progress):
            self._tell((event.current_node, int(event.value * 10)), progress_text(event))
        elif isinstance(event, wire.StatusEvent) and event.status not in _TOLD_AT_THE_END:
            text = state_text(event)
            self._tell(text, text)

    def away(self) -> None:
        self._tell(AWAY, AWAY)

    def _tell(self, key: object, text: str) -> None:
        if key != self._last:
            self._last = key
            say(text)


class BarView(contextlib.AbstractContextManager["BarView", None]):
    """A bar that moves, with the node, its step and the time left; while the job waits, the reason stands there."""

    def __init__(self) -> None:
        from rich.console import Console  # 60 ms that only a person at a terminal pays
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TimeElapsedColumn(),
        )
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("sent", total=1.0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, event: JobEvent) -> None:
        if isinstance(event, wire.Progress):
            self._bar.update(self._task, description=progress_text(event), completed=event.value)
        elif isinstance(event, wire.StatusEvent):
            self._bar.update(self._task, description=state_text(event))

    def away(self) -> None:
        self._bar.update(self._task, description=AWAY)


def state_text(event: wire.StatusEvent) -> str:
    waits = event.comfytunnel.waits_for if event.comfytunnel else None
    if event.status == "queued" or waits is not None:
        return f"{printable(event.status)}: {queued_text(event.queue_position, waits)}"
    return printable(event.status)
