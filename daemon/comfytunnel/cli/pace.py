"""What is known of a job that is being watched, and how fast it goes: events in, values out. Pure; the time is handed in, in seconds.

The speed is that of the node which runs, measured here from its steps of the last seconds. What the rest of the graph will take is not guessed.
"""

from __future__ import annotations

from collections import deque

from comfytunnel import wire
from comfytunnel.cli.render import safe
from comfytunnel.protocol import JobEvent

AWAY = "the daemon is away, waiting for it (the jobs are on disk)"
WINDOW = 20  # progress events that the speed is measured over; two come a second
LEAST = 0.3  # seconds between the first and the last of them for a speed to mean something


class Watched:
    """One job. `name`: what it is called among several. All of it is safe to print."""

    def __init__(self, job: wire.Job) -> None:
        job = safe(job)
        label = job.comfytunnel.label if job.comfytunnel is not None else None
        self.id = job.id
        self.name = f"{job.id[:8]} {label}" if label else job.id[:8]
        self.status = job.status
        self.position = job.queue_position
        self.waits = job.comfytunnel.waits_for if job.comfytunnel is not None else None
        self.progress = job.progress
        self.outputs = 0
        self._node: object = None
        self._seen: deque[tuple[float, int]] = deque(maxlen=WINDOW)

    @property
    def ended(self) -> bool:
        return self.status in wire.TERMINAL

    def feed(self, event: JobEvent, at: float) -> None:
        if isinstance(event, wire.StatusEvent):
            event = safe(event)
            self.status, self.position = event.status, event.queue_position
            self.waits = event.comfytunnel.waits_for if event.comfytunnel is not None else None
        elif isinstance(event, wire.Progress):
            self._progressed(safe(event), at)
        elif isinstance(event, wire.Output):
            self.outputs += 1

    def end(self, job: wire.Job) -> None:
        self.status, self.waits, self.outputs = job.status, None, len(job.outputs)

    def rate(self) -> float | None:
        """Return the steps per second of the current node, None while nothing can be said."""
        if len(self._seen) < 2:
            return None
        (begin, first), (end, last) = self._seen[0], self._seen[-1]
        return (last - first) / (end - begin) if end - begin >= LEAST and last > first else None

    def left(self, now: float) -> float | None:
        """Return the seconds until the current node has done its steps."""
        rate, progress = self.rate(), self.progress
        if rate is None or progress is None or progress.step is None or progress.steps is None:
            return None
        return max(0.0, (progress.steps - progress.step) / rate - (now - self._seen[-1][0]))

    def _progressed(self, progress: wire.Progress, at: float) -> None:
        self.progress = progress
        if progress.step is None:
            self._node = None
            self._seen.clear()
            return
        node = (progress.current_node, progress.steps)
        if node != self._node or (self._seen and progress.step < self._seen[-1][1]):
            self._node = node
            self._seen.clear()
        self._seen.append((at, progress.step))


def speed_text(rate: float) -> str:
    """Return "8.3 steps/s", or "2.5 s/step" for what is slower than one."""
    return f"{rate:.1f} steps/s" if rate >= 1 else f"{1 / rate:.1f} s/step"


def clock(seconds: float) -> str:
    """Return "0:07", "12:34", "1:02:03"."""
    whole = int(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
