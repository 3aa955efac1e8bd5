"""`run` and `jobs wait` after the submission: the progress of jobs is shown, their files come out.

Progress goes to stderr, and stdout carries the paths alone, so that `$(comfytunnel run w.json)` is useful. The jobs belong to the
daemon: whatever happens to this process, they go on, and what is said here tells how to find them again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from comfytunnel import wire
from comfytunnel.cli import exits
from comfytunnel.cli.follow import follow_all
from comfytunnel.cli.opening import open_files
from comfytunnel.cli.pictures import show, way, wish
from comfytunnel.cli.progress import live_view
from comfytunnel.cli.render import failure_lines, json_text, safe
from comfytunnel.client import Client
from comfytunnel.client.jobs import Job
from comfytunnel.client.saving import in_a_folder
from comfytunnel.errors import NotRunningError, StateError, TimedOutError, UsageError
from comfytunnel.printable import printable

CANCEL_PATIENCE = 15.0  # seconds that we watch a cancel; ComfyUI acts on it between two steps (measured: up to 9.8 s in one node)
NAMED = 3  # ids that a sentence about several jobs names


def get_ready(folder: Path | None, pictures: str | None) -> None:
    """Make the folder of the copies. UsageError for what would be wrong at the end: that is better known before a job is sent."""
    wish(pictures)
    if folder is None:
        return
    try:
        in_a_folder(folder)
    except StateError as error:
        raise UsageError(error.message) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"Nothing can be written into the folder {folder}.")


def watch(
    client: Client,
    jobs: Sequence[wire.Job],
    *,
    folder: Path | None,
    as_json: bool,
    opened: bool = False,
    timeout: float | None = None,
    pictures: str | None = None,
) -> int:
    """Follow jobs to their ends and tell the files of each when it has ended; with `opened` they are shown at the end. Returns the exit code: 0 only if
    all have succeeded. `pictures`: how the terminal shows them, one of words.PICTURES; None: as the environment says, else as it can."""
    get_ready(folder, pictures)
    finals: dict[str, wire.Job] = {}
    files: dict[str, list[str]] = {}
    uncopied: list[str] = []
    view = live_view(jobs, as_json=as_json)

    def ended(job: Job) -> None:
        with view.aside():
            files[job.id], why = _bring(job, folder)
            if why is not None:
                uncopied.append(job.id)
                exits.complain(why)
            _tell(job, files[job.id], as_json=as_json, among=len(jobs))
            if not as_json:
                show_pictures(job, files[job.id], pictures)
        finals[job.id] = job  # last: one whose files could not be had is still to be fetched

    def left() -> list[str]:
        return [job.id for job in jobs if job.id not in finals]

    try:
        with view:
            follow_all(client, jobs, view, ended, timeout)
    except KeyboardInterrupt:
        return _interrupted(client, left())
    except (NotRunningError, TimedOutError) as error:
        one = len(left()) == 1
        raise type(error)(
            f"{error.message} {_the(left())} {'is' if one else 'are'} not lost: {'it goes' if one else 'they go'} on without us.",
            hint=f"{error.hint} Follow with: comfytunnel jobs wait {_some(left())}".strip(),
        ) from error
    brought = [path for job in jobs for path in files[job.id]]
    if as_json and len(jobs) > 1:
        ends = [finals[job.id] for job in jobs]
        exits.tell(json_text({"event": "results", "data": ends, "files": brought}))
    if opened:
        open_files(brought)
    succeeded = all(job.status == "succeeded" for job in finals.values())
    return exits.DONE if succeeded and not uncopied else exits.FAILED


def _bring(job: Job, folder: Path | None) -> tuple[list[str], StateError | None]:
    """Copy a job's files if they are wanted elsewhere. Returns where they are, and why that is not in the folder."""
    if folder is None:
        return paths(job), None
    try:
        return [str(path) for path in job.save(folder)], None
    except StateError as error:
        stay = f"The files stay where they are. Copy them later: comfytunnel jobs wait {job.id} -o DIR"
        return paths(job), StateError(error.message, hint=stay)


def _tell(job: wire.Job, files: Sequence[str], *, as_json: bool, among: int) -> None:
    """The end of one job: its files, and what was wrong."""
    if as_json:
        exits.tell(json_text({"event": "result", "job": job.id, "data": job, "files": files}))
        return
    for path in files:
        exits.tell(printable(path))
    _say_end(job, among)


def show_pictures(job: wire.Job, files: Sequence[str], asked: str | None) -> None:
    """Those of a job's `files` that are pictures, where the terminal can show them. Each output has its file, in their order, or only those with a path of ours."""
    made = (
        job.outputs if len(files) == len(job.outputs) else [each for each in job.outputs if each.comfytunnel]
    )
    images = [
        path for path, output in zip(files, made, strict=True) if output.content_type.startswith("image/")
    ]
    if images:
        show(images, way(asked))


def paths(job: wire.Job) -> list[str]:
    """Of the outputs that are on this machine."""
    return [output.comfytunnel.path for output in job.outputs if output.comfytunnel is not None]


def _say_end(job: wire.Job, among: int) -> None:
    job = safe(job)
    which = "the job" if among == 1 else f"the job {job.id}"
    if job.error is not None:
        for line in failure_lines(job.status, job.error):
            exits.say(line if among == 1 else f"{job.id[:8]}: {line}")
    elif job.status != "succeeded":
        exits.say(f"{which} was {job.status}")
    elif not job.outputs:
        exits.say(f"{which} succeeded and left no file: does the workflow end in a node that saves?")
    if job.comfytunnel is not None and job.comfytunnel.note:
        exits.say(f"note: {job.comfytunnel.note}")


def _interrupted(client: Client, left: list[str]) -> int:
    """Ask on a terminal whether to cancel; without one the jobs are left alone. The command has not done its work: FAILED."""
    if not left:
        return exits.FAILED
    follow = f"Follow with: comfytunnel jobs wait {_some(left)}"
    one = len(left) == 1
    try:
        if not (sys.stdin.isatty() and sys.stderr.isatty()) or not _wants_cancel(len(left)):
            exits.say(f"{_the(left)} {'goes' if one else 'go'} on. {follow}")
            return exits.FAILED
        for job_id in reversed(left):  # the last first: none begins to run because another has gone
            client.cancel(job_id)
        exits.say("Canceling; ComfyUI acts on it between two steps.")
        for job_id in left:
            for event in client.follow(job_id, timeout=CANCEL_PATIENCE):
                if isinstance(event, wire.Job):
                    exits.say(f"The job {'' if one else job_id + ' '}is {event.status}.")
    except TimedOutError:
        exits.say(f"It has not stopped yet, and will. {follow}")
    except (KeyboardInterrupt, EOFError):
        exits.say("")  # the question's line, which say() would not break for us
        exits.say(f"{_the(left)} {'is' if one else 'are'} left as {'it is' if one else 'they are'}. {follow}")
    return exits.FAILED


def _the(ids: list[str]) -> str:
    return f"The job {ids[0]}" if len(ids) == 1 else f"The {len(ids)} jobs that have not ended"


def _some(ids: list[str]) -> str:
    return " ".join(ids[:NAMED]) + (" ..." if len(ids) > NAMED else "")


def _wants_cancel(number: int) -> bool:
    what = "the job, or leave it" if number == 1 else f"the {number} jobs, or leave them"
    sys.stderr.write(f"\nCancel {what} running? [c/L] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"c", "cancel"}
