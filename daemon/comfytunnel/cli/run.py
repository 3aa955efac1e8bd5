"""`run` and `submit`: a workflow is read and handed over. What becomes of it is shown by watching.py.

A bad workflow or an impossible folder is said before anything is sent.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

from comfytunnel import wire
from comfytunnel.cli import exits
from comfytunnel.cli.copying import make_folder
from comfytunnel.cli.watching import watch
from comfytunnel.client import Client
from comfytunnel.errors import UsageError
from comfytunnel.printable import printable

WORKFLOW_LIMIT = 100 * 2**20  # bytes; what the daemon and ComfyUI take


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
        make_folder(folder)  # before the job is sent: a wrong path is better known now
    job = client.submit(workflow, **asked)
    if not as_json:
        exits.say(f"job {job.id}")
        say_warnings(job)
    return watch(client, [job], folder=folder, as_json=as_json)


def say_warnings(job: wire.Job) -> None:
    """On stderr: what may be wrong with a workflow that was accepted all the same."""
    for text in job.comfytunnel.warnings if job.comfytunnel is not None else ():
        exits.say(f"warning: {printable(text)}")
