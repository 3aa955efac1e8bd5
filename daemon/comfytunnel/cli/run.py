"""`run`, `submit` and `jobs wait`: a workflow goes in, its progress is shown, its files come out.

Progress goes to stderr, and stdout carries the paths alone, so that `$(comfytunnel run w.json)` is useful. The job belongs to the
daemon: whatever happens to this process, it goes on, and what is said here tells how to find it again.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

from comfytunnel import wire
from comfytunnel.cli import exits
from comfytunnel.cli.progress import View, live_view
from comfytunnel.cli.render import failure_lines, json_text, safe
from comfytunnel.client import Client
from comfytunnel.errors import Error, NotRunningError, StateError, TimedOutError, UsageError
from comfytunnel.printable import printable

WORKFLOW_LIMIT = 100 * 2**20  # bytes; what the daemon and ComfyUI take
CANCEL_PATIENCE = 15.0  # seconds that we watch a cancel; ComfyUI acts on it between two steps (measured: up to 9.8 s in one node)


def read_workflow(source: str) -> dict[str, Any]:
    """Return the workflow in the file `source`, or on stdin for "-". UsageError says where it is no JSON."""
    name = "stdin" if source == "-" else source
    try:
        if source == "-":
            data = sys.stdin.buffer.read(WORKFLOW_LIMIT + 1)
        else:
            with Path(source).open("rb") as file:
                data = file.read(WORKFLOW_LIMIT + 1)
    except OSError as error:
        raise UsageError(
            f"The workflow {name} cannot be read: {error.strerror}.",
            hint="Give the path of a JSON file, or - for stdin.",
        ) from error
    if len(data) > WORKFLOW_LIMIT:
        raise UsageError(f"{name} is larger than {WORKFLOW_LIMIT // 2**20} MiB, the most that ComfyUI takes.")
    try:
        found = json.loads(data, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{name} is no JSON: it is not even text.",
            hint="Is it a picture? Open that in ComfyUI, and export its workflow with Workflow > Export (API).",
        ) from error
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{name} is not JSON: {error.msg}, line {error.lineno} column {error.colno}.",
            hint="Export it from ComfyUI with Workflow > Export (API).",
        ) from error
    except (ValueError, RecursionError) as error:  # NaN, or nested for ever
        raise UsageError(f"{name} is not JSON that can be sent: {error}.") from error
    if not isinstance(found, dict):
        raise UsageError(
            f"{name} holds no workflow: it is not a JSON object.",
            hint="Export it from ComfyUI with Workflow > Export (API).",
        )
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no number in JSON")


def run(
    client: Client,
    workflow: dict[str, Any],
    *,
    folder: Path | None,
    as_json: bool,
    **asked: Any,
) -> int:
    """Submit (`asked` as in Client.submit), follow to the end, tell the files. Returns the exit code."""
    if folder is not None:
        _make(folder)  # before the job is sent: a wrong path is better known now
    job = client.submit(workflow, **asked)
    if not as_json:
        exits.say(f"job {job.id}")
        say_warnings(job)
    return watch(client, job, folder=folder, as_json=as_json)


def wait_for(
    client: Client, job_id: str, *, folder: Path | None, as_json: bool, timeout: float | None
) -> int:
    """Follow a job that was submitted before. Returns the exit code."""
    if folder is not None:
        _make(folder)
    return watch(client, client.job(job_id), folder=folder, as_json=as_json, timeout=timeout)


def watch(
    client: Client, job: wire.Job, *, folder: Path | None, as_json: bool, timeout: float | None = None
) -> int:
    """Follow a job to its end and tell the files. Returns the exit code: 0 only for a job that has succeeded."""
    view = live_view(job, as_json=as_json)
    try:
        final = _follow(client, job.id, view, timeout)
    except KeyboardInterrupt:
        return _interrupted(client, job.id)
    except (NotRunningError, TimedOutError) as error:
        raise type(error)(
            f"{error.message} The job {job.id} is not lost: it goes on without us.",
            hint=f"{error.hint} Follow it with: comfytunnel jobs wait {job.id}".strip(),
        ) from error
    files = (
        _paths(final) if folder is None else [str(_copy(client, output, folder)) for output in final.outputs]
    )
    if as_json:
        exits.tell(json_text({"event": "result", "data": final, "files": files}))
    else:
        for path in files:
            exits.tell(printable(path))
        _say_end(final)
    return exits.DONE if final.status == "succeeded" else exits.FAILED


def _follow(client: Client, job_id: str, view: View, timeout: float | None) -> wire.Job:
    with view:
        for event in client.follow(job_id, timeout=timeout, away=view.away):
            if isinstance(event, wire.Job):
                return event
            view.show(event)
    raise Error("The view of the job ended before the job did.")  # follow ends with a Job or raises


def _paths(job: wire.Job) -> list[str]:
    return [output.comfytunnel.path for output in job.outputs if output.comfytunnel is not None]


def say_warnings(job: wire.Job) -> None:
    """On stderr: what may be wrong with a workflow that was accepted all the same."""
    for text in job.comfytunnel.warnings if job.comfytunnel is not None else ():
        exits.say(f"warning: {printable(text)}")


def _say_end(job: wire.Job) -> None:
    job = safe(job)
    if job.error is not None:
        for line in failure_lines(job.error):
            exits.say(line)
    elif job.status != "succeeded":
        exits.say(f"the job was {job.status}")
    elif not job.outputs:
        exits.say("the job succeeded and left no file: does the workflow end in a node that saves?")
    if job.comfytunnel is not None and job.comfytunnel.note:
        exits.say(f"note: {job.comfytunnel.note}")


def _interrupted(client: Client, job_id: str) -> int:
    """Ask on a terminal whether to cancel; without one the job is left alone. The command has not done its work: FAILED."""
    follow = f"Follow it with: comfytunnel jobs wait {job_id}"
    try:
        if not (sys.stdin.isatty() and sys.stderr.isatty()) or not _wants_cancel():
            exits.say(f"The job {job_id} goes on. {follow}")
            return exits.FAILED
        client.cancel(job_id)
        exits.say("Canceling; ComfyUI acts on it between two steps.")
        for event in client.follow(job_id, timeout=CANCEL_PATIENCE):
            if isinstance(event, wire.Job):
                exits.say(f"The job is {event.status}.")
                return exits.FAILED
    except TimedOutError:
        exits.say(f"It has not stopped yet, and will. {follow}")
    except (KeyboardInterrupt, EOFError):
        exits.say("")  # the question's line, which say() would not break for us
        exits.say(f"The job {job_id} is left as it is. {follow}")
    return exits.FAILED


def _wants_cancel() -> bool:
    sys.stderr.write("\nCancel the job, or leave it running? [c/L] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"c", "cancel"}


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"The folder {folder} cannot be made: {error.strerror}.") from error


def _copy(client: Client, output: wire.Output, folder: Path) -> Path:
    """Write the output into `folder` under its own name, or name-1, name-2, ... where that is taken; never over a file."""
    name = _file_name(output)
    number = 0
    while True:
        path = folder / (f"{name.stem}-{number}{name.suffix}" if number else name.name)
        try:
            file = path.open("xb")  # O_EXCL: neither a file nor a link is written through
        except FileExistsError:
            number += 1
            continue
        except OSError as error:
            raise StateError(f"{path} cannot be written: {error.strerror}.") from error
        try:
            with file:
                client.download(output.id, file)
        except BaseException as error:
            path.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise StateError(f"{path} cannot be written: {error.strerror}.") from error
            raise
        return path


def _file_name(output: wire.Output) -> Path:
    """Return a plain file name: the far side chose it, so of its path and odd characters nothing is kept."""
    given = Path(printable(output.comfytunnel.path if output.comfytunnel else output.name)).name
    plain = re.sub(r"[^\w .()+-]", "_", given).strip(". ")
    return Path(plain[-120:] or "output")
