"""The live view on a terminal, drawn by rich: all of the way, the node that runs with its speed, and what a job waits for.

Imported only where somebody looks. All text from the far side is printable already (pace.py), and is put in as plain Text, never as markup.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from comfytunnel import wire
from comfytunnel.cli.pace import AWAY, Watched, clock, speed_text
from comfytunnel.cli.render import node_text, queued_text
from comfytunnel.protocol import JobEvent

ROWS = 8  # jobs that have a row of their own among several
BAR = 24  # cells; a third of it on a narrow terminal
NARROW = 70  # cells


class BarView(contextlib.AbstractContextManager["BarView", None]):
    """Two rows for one job, a row each and one for all of them for several. It vanishes at its end, as what was made is said then."""

    def __init__(self, jobs: Sequence[wire.Job], now: Callable[[], float] = time.monotonic) -> None:
        self._watched = {job.id: Watched(job) for job in jobs}
        self._now = now
        self._began = now()
        self._away = False
        self._spinner = Spinner("dots")
        self._console = Console(stderr=True, highlight=False)
        self._live = self._new()

    def _new(self) -> Live:
        return Live(get_renderable=self.draw, console=self._console, transient=True, refresh_per_second=8)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, job_id: str, event: JobEvent) -> None:
        self._away = False
        if job_id in self._watched:
            self._watched[job_id].feed(event, self._now())

    def ended(self, job: wire.Job) -> None:
        if job.id in self._watched:
            self._watched[job.id].end(job)

    def away(self) -> None:
        self._away = True

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        self._live.stop()
        try:
            yield
        finally:
            self._live = self._new()
            self._live.start()

    def draw(self) -> RenderableType:
        """Return what is shown now."""
        jobs = list(self._watched.values())
        rows = self._alone(jobs[0]) if len(jobs) == 1 else self._several(jobs)
        return Group(*rows, *([Text(AWAY, style="yellow")] if self._away else []))

    def _alone(self, job: Watched) -> list[RenderableType]:
        progress = job.progress
        if job.status == "queued" or progress is None or job.waits is not None:
            said = f"{job.status}: {queued_text(job.position, job.waits)}" if _waits(job) else job.status
            return [self._grid([(self._spinner, Text(said), self._elapsed())]), *_hints([job])]
        nodes = f"node {progress.nodes_done}/{progress.nodes_total}"
        overall = (self._spinner, Text(nodes), self._bar(progress.value), Text(f"{progress.value:.0%}"))
        node = (Text(""), Text(node_text(progress)), self._step_bar(job), self._pace(job))
        return [self._grid([(*overall, self._elapsed()), (*node, Text(""))])]

    def _several(self, jobs: list[Watched]) -> list[RenderableType]:
        done = [job for job in jobs if job.ended]
        rest = [job for job in jobs if not job.ended]
        parts = sum(job.progress.value for job in rest if job.progress is not None)
        counts = Text(f"{len(done)} of {len(jobs)} jobs")
        bad = sum(job.status != "succeeded" for job in done)
        if bad:
            counts.append(f", {bad} not well", style="red")
        top = (self._spinner, counts, self._bar((len(done) + parts) / len(jobs)), self._elapsed())
        rest.sort(key=lambda job: job.progress is None)  # those that run first; else as they were submitted
        rows = []
        for job in rest[:ROWS]:
            if job.progress is not None and not _waits(job):
                said = f"{job.progress.value:.0%}  {node_text(job.progress)}"
                rows.append((Text(""), Text(job.name), Text(said), self._pace(job)))
            else:
                said = f"{job.status}: {queued_text(job.position, job.waits)}" if _waits(job) else job.status
                rows.append((Text(""), Text(job.name), Text(said, style="dim"), Text("")))
        more = [Text(f"  and {len(rest) - ROWS} more", style="dim")] if len(rest) > ROWS else []
        return [self._grid([top]), self._grid(rows, cut=(1, 2)), *more, *_hints(rest[:ROWS])]

    def _grid(self, rows: Sequence[Sequence[RenderableType]], cut: Collection[int] = (1,)) -> Table:
        """`cut`: the columns that give way where the terminal is too narrow."""
        grid = Table.grid(padding=(0, 1))
        for number in range(max(map(len, rows), default=0)):
            grid.add_column(no_wrap=number not in cut)  # rich cuts those that may wrap first
        for row in rows:
            for cell in row:
                if isinstance(cell, Text):
                    cell.no_wrap, cell.overflow = True, "ellipsis"
            grid.add_row(*row)
        return grid

    def _bar(self, part: float) -> ProgressBar:
        width = BAR // 3 if self._is_narrow() else BAR
        return ProgressBar(total=1.0, completed=min(max(part, 0.0), 1.0), width=width)

    def _step_bar(self, job: Watched) -> RenderableType:
        progress = job.progress
        if progress is None or not progress.steps or progress.step is None:
            return Text("")
        return self._bar(progress.step / progress.steps)

    def _pace(self, job: Watched) -> Text:
        rate, left = job.rate(), job.left(self._now())
        parts = [speed_text(rate)] if rate is not None and not self._is_narrow() else []
        parts += [f"{clock(left)} left"] if left is not None else []
        return Text(", ".join(parts))

    def _is_narrow(self) -> bool:
        return self._console.width < NARROW

    def _elapsed(self) -> Text:
        return Text(clock(self._now() - self._began), style="dim")


def _waits(job: Watched) -> bool:
    return job.status == "queued" or job.waits is not None


def _hints(jobs: Sequence[Watched]) -> list[RenderableType]:
    """What can be done about what these wait for, each once."""
    found = dict.fromkeys(job.waits.hint for job in jobs if job.waits is not None and job.waits.hint)
    return [Text(f"  {hint}", style="yellow") for hint in list(found)[:2]]
