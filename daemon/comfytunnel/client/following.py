"""What it takes to wait for something over streams that break, without the waiting: both shells do as these say.

Follow knows what was shown of a job and since when the daemon is away; Reaching knows the tunnels and whether one is where it is
wanted. They know no socket, and the time only when it is told.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeVar

from comfytunnel import wire
from comfytunnel.errors import NotRunningError, RefusedError, RemoteError, TimedOutError, UsageError
from comfytunnel.protocol import DaemonEvent, Goal, JobEvent, usable

J = TypeVar("J", bound=wire.Job)

PATIENCE = 60.0  # seconds that a restart of the daemon may take before a view is given up (never the job)
SILENCE = 40.0  # seconds without a byte after which a stream is dead; the daemon sends a comment every 15 s
PAUSE = 0.3  # seconds between two attempts to find the daemon again
NO_ANSWER = "no_answer"
"""Code of a NotRunningError after something was sent: the daemon may have got it."""
NO_STREAM = frozenset({"too_many_streams", "not_implemented"})
"""Codes of a refused stream for which the job can still be asked for, now and then."""


class Deadline:
    """A time that was given in seconds, on a clock that the shell reads; None never comes."""

    def __init__(self, seconds: float | None, now: float) -> None:
        self.seconds = seconds
        self._at = None if seconds is None else now + seconds

    def left(self, now: float) -> float | None:
        """Seconds that are left, 0 when it has passed; None for no deadline."""
        return None if self._at is None else max(0.0, self._at - now)

    def passed(self) -> TimedOutError:
        seconds = round(self.seconds or 0, 1)  # it may be what was left of another one: 9.99998
        return TimedOutError(f"{seconds:g} seconds have passed.")


class Follow:
    """The live view of one job over restarts of the daemon."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._lost_at: float | None = None
        self._shown: set[str] = set()

    def news(self, event: JobEvent | wire.Job) -> bool:
        """The daemon is there and has said this. Return whether it was not said before."""
        self._lost_at = None
        if not isinstance(event, wire.Output):
            return True
        new = event.id not in self._shown
        self._shown.add(event.id)
        return new

    def lost(self, error: NotRunningError, now: float) -> bool:
        """Nobody answers. Return whether that is new; raise `error` when it has lasted too long."""
        new = self._lost_at is None
        if self._lost_at is None:
            self._lost_at = now
        if now - self._lost_at > self._patience:
            raise error
        return new

    @staticmethod
    def without_stream(error: RefusedError | RemoteError) -> None:
        """Return when the job can be followed without its stream, else raise `error`."""
        if error.code_on_wire not in NO_STREAM:
            raise error


def at_the_end_of_a_stream(job: J) -> Iterator[JobEvent | J]:
    """What is told of a job whose stream is over: its end when it has ended, else what a stream would begin with."""
    if job.status in wire.TERMINAL:
        yield from job.outputs
        yield job
        return
    waits = job.comfytunnel.waits_for if job.comfytunnel else None
    yield wire.StatusEvent(job.status, job.queue_position, wire.StatusExtra(waits) if waits else None)
    if job.progress is not None:
        yield job.progress


class Reaching:
    """Waits for the tunnel `name` (None: any of them) to be up, or up with ComfyUI serving."""

    def __init__(self, name: str | None, goal: Goal, status: wire.Status) -> None:
        self.status = status
        self._name = name
        self._goal: Goal = goal

    @property
    def unknown(self) -> str | None:
        """The name, when there is no tunnel of that name."""
        return self._name if self._name is not None and self._name not in self.status.tunnels else None

    def there(self) -> bool:
        return usable(self.status, self._name, self._goal)

    def hear(self, event: DaemonEvent) -> bool:
        """Return whether that says anything of tunnels."""
        match event:
            case wire.Status():
                self.status = event
            case wire.TunnelEvent():
                self.status.tunnels[event.name] = event.tunnel
            case _:
                return False
        return True


class Sending:
    """A submission with an Idempotency-Key, until it is known what has become of it."""

    def __init__(self, patience: float) -> None:
        self._away = Follow(patience)
        self._doubtful = False

    def made(self, error: NotRunningError | UsageError, now: float) -> str | None:
        """Return the id of the job that an earlier attempt has made, None to try again. Raises `error` when it speaks for itself: nobody was
        there from the beginning, the request is wrong, or the patience is over."""
        if isinstance(error, UsageError):
            job_id = error.details.get("job_id")
            if self._doubtful and error.code_on_wire == "idempotency_key_reuse" and isinstance(job_id, str):
                return job_id
            raise error
        self._doubtful = self._doubtful or error.code_on_wire == NO_ANSWER
        if not self._doubtful:
            raise error
        self._away.lost(error, now)
        return None


@contextlib.contextmanager
def goes_on(job_id: str) -> Iterator[None]:
    """Say what becomes of the job when the wait for it is ended by something else than its end."""
    try:
        yield
    except (TimedOutError, NotRunningError) as error:
        raise type(error)(
            f"{error.message} The job {job_id} is not lost: it goes on without us.",
            hint=f"{error.hint} Wait for it again: client.job({job_id!r}).wait()".strip(),
            code=error.code_on_wire,
            details={**error.details, "job_id": job_id},
        ) from error
    except Exception:
        raise
    except BaseException as error:  # Ctrl-C, or the cancellation of a task
        error.add_note(
            f"The job {job_id} is not canceled, it goes on. client.job({job_id!r}) finds it again; .wait(), .cancel()."
        )
        raise
