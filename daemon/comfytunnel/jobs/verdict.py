"""What an observation of ComfyUI leads to. Pure: a job and what was seen go in, the next move comes out, or None: look again.

`Look` is one reading of queue and then history (a prompt moves that way, so a prompt that is in neither is in neither). `Process` is what
the temp marker says about the ComfyUI that answers: is it the process that was given the job? A job is run a second time only
when it is certainly not there and certainly will not be: see `settled`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from comfytunnel.jobs.model import MAX_LOSSES, MAX_REFUSALS, Failure, Job, Stage, Status, Wanted
from comfytunnel.jobs.transitions import Changes

NOT_STARTED = "not_started_in_time"
RAN_TOO_LONG = "ran_too_long"
CREDENTIAL_GONE = Failure(
    "credential_gone",
    "Its key for partner nodes was kept in memory only, and before the job could be given to ComfyUI comfytunnel was restarted or "
    "forward_partner_key was switched off. "
    "Submit it again.",
)


class Seen(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    ABSENT = "absent"


class Process(StrEnum):
    """The ComfyUI that answers, compared with the one that was given the job. UNKNOWN: no marker was left."""

    SAME = "same"
    OTHER = "other"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Look:
    """`prompt_id`: under which it was found; `failure` with FAILED, `wanted` and `finished` (as in Job) with SUCCEEDED."""

    seen: Seen
    prompt_id: str | None = None
    failure: Failure | None = None
    wanted: tuple[Wanted, ...] = ()
    finished: float | None = None


def decide(
    job: Job,
    look: Look,
    now: datetime,
    *,
    process: Process = Process.UNKNOWN,
    settled: bool = False,
    folder: str = "",
    max_files: int = 1000,
) -> Changes | None:
    """The move that `look` asks for, None for none yet.

    `settled` says that ABSENT has been confirmed: the job was missing twice, with the settle time between, and all that time
    through one and the same living link, so that nothing which an older link still held can arrive any more. `process` is read
    only then. `folder`: where outputs will go.
    """
    if look.seen is Seen.ABSENT:
        return _absent(job, process, now) if settled else None
    if job.stage is Stage.SUBMITTING:
        return given(job, look.prompt_id, now)
    match look.seen:
        case Seen.PENDING:
            return None
        case Seen.RUNNING:
            return None if job.started_at else {"status": Status.RUNNING, "started_at": now}
        case Seen.SUCCEEDED:
            return _ran(job, look, now, folder, max_files)
        case Seen.INTERRUPTED if not job.cancel_requested:
            text = "It was interrupted on the server, not by comfytunnel."
            return ended(Status.CANCELED, now, Failure("interrupted_on_server", text))
        case Seen.INTERRUPTED:
            return stopped(job, now)
    return ended(Status.FAILED, now, look.failure)


def given(job: Job, prompt_id: str | None, now: datetime) -> Changes:
    """ComfyUI has the job: it answered so, or it was found there."""
    return {
        "stage": Stage.ON_SERVER,
        "status": Status.QUEUED,
        "executions": job.executions + 1,
        "submitted_at": job.submitted_at or now,
        "remote_id": prompt_id if prompt_id != job.given_id else None,
    }


def not_given(job: Job, now: datetime, *, refused: bool = False) -> Changes:
    """ComfyUI certainly has not got the job. `refused`: it answered 500; a server that does so again and again is not asked
    for ever."""
    if job.cancel_requested:
        return stopped(job, now)
    refusals = job.refusals + refused
    if refused and refusals >= MAX_REFUSALS:
        text = f"ComfyUI answered the submission {refusals} times with an internal error (500) and did not take it."
        return ended(Status.FAILED, now, Failure("server_error", text))
    return {
        "stage": Stage.WAITING,
        "status": Status.QUEUED,
        "place": None,
        "server": None,
        "refusals": refusals,
    }


def _absent(job: Job, process: Process, now: datetime) -> Changes:
    if job.stage is Stage.SUBMITTING:
        after = lost(job, now) if process is Process.OTHER else not_given(job, now)
        return {**after, "doubts": job.doubts + 1}
    if job.cancel_requested:
        return stopped(job, now)
    if process is Process.OTHER:
        return lost(job, now)
    if process is Process.SAME:
        text = "It was removed from ComfyUI's queue, not by comfytunnel."
        return ended(Status.CANCELED, now, Failure("removed_on_server", text))
    text = (
        "ComfyUI no longer knows this job, and it cannot be proven that it was restarted: it may have run. "
        "Retry it if its pictures are missing."
    )
    return ended(Status.FAILED, now, Failure("lost_unproven", text))


def lost(job: Job, now: datetime, what: str = "the job") -> Changes:
    """ComfyUI has provably lost the job (it is another process): once more, at most MAX_LOSSES times."""
    if job.cancel_requested:
        return stopped(job, now)
    losses = job.losses + 1
    if losses > MAX_LOSSES:
        text = (
            f"ComfyUI was restarted and lost {what} {losses} times. The workflow may be what takes it down."
        )
        return {**ended(Status.FAILED, now, Failure("lost_repeatedly", text)), "losses": losses}
    return {
        "stage": Stage.WAITING,
        "status": Status.QUEUED,
        "place": None,
        "server": None,
        "remote_id": None,
        "started_at": None,
        "attempts": 0,
        "refusals": 0,
        "losses": losses,
        "wanted": (),
        "note": f"ComfyUI was restarted and lost {what}; queued again ({losses} of at most {MAX_LOSSES} times).",
    }


def moved(job: Job, tunnel: str | None, given_as: str, now: datetime) -> Changes:
    """The user's word: the job waits for another place, although the one that it was given to may run it, may have run it, or may be
    rendering it now. There it gets an id of its own, so that the two are never taken for each other."""
    return {
        "stage": Stage.WAITING,
        "status": Status.QUEUED,
        "tunnel": tunnel,
        "place": None,
        "server": None,
        "given_as": given_as,
        "remote_id": None,
        "started_at": None,
        "attempts": 0,
        "refusals": 0,
        "moves": job.moves + 1,
        "wanted": (),
        "note": f"It was moved away from {job.place} at {now:%Y-%m-%d %H:%M:%S} UTC, and may have run there as well.",
    }


def _ran(job: Job, look: Look, now: datetime, folder: str, max_files: int) -> Changes:
    if len(look.wanted) > max_files:
        text = f"The job made {len(look.wanted)} files; at most {max_files} are fetched."
        return ended(Status.FAILED, now, Failure("too_many_outputs", text))
    changes: Changes = {
        "stage": Stage.FETCHING,
        "status": Status.RUNNING,
        "started_at": job.started_at or now,
        "wanted": look.wanted,
        "finished": look.finished,
        "folder": folder,
    }
    if job.cancel_requested:
        changes["note"] = "It finished before the cancel took effect."
    return changes


def overdue(job: Job, seen: Seen, now: datetime) -> Failure | None:
    """Why a job on the server must be stopped now: a limit of its own has passed. None while none has, or if it is being stopped."""
    if job.cancel_requested:
        return None
    waited = (now - job.created_at).total_seconds() if seen is Seen.PENDING else 0.0
    if job.ttl is not None and waited >= job.ttl:
        return too_late(job.ttl)
    running = (now - job.started_at).total_seconds() if seen is Seen.RUNNING and job.started_at else 0.0
    if job.time_to_run is not None and running >= job.time_to_run:
        text = f"It was stopped because it ran for longer than {job.time_to_run:g} s, its time to run."
        return Failure(RAN_TOO_LONG, text)
    return None


def too_late(ttl: float) -> Failure:
    return Failure(NOT_STARTED, f"It did not begin to run within {ttl:g} s, its time to live.")


def stopped(job: Job, now: datetime) -> Changes:
    """The end of a job that was to be stopped and does not run: canceled by the user, or what the limit makes of it."""
    status = Status.CANCELED
    if job.because is not None:
        status = Status.EXPIRED if job.because.code == NOT_STARTED else Status.FAILED
    return ended(status, now, job.because)


def ended(status: Status, now: datetime, failure: Failure | None = None) -> Changes:
    """An ended job wants nothing more: texts of ComfyUI's would else stay in its row for ever."""
    return {"stage": Stage.ENDED, "status": status, "completed_at": now, "error": failure, "wanted": ()}
