"""Where the workflow of `run`, `submit` and the like comes from: a file, stdin, or a name under which it is kept. One in the format of ComfyUI's page is converted by the daemon, which
knows the nodes.

A slip is told in words that a person can act on, never as a decoder's complaint.
"""

from __future__ import annotations

import copy
import json
import secrets
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from comfytunnel import wire
from comfytunnel.client import Client
from comfytunnel.errors import NotFoundError, UsageError, WorkflowError
from comfytunnel.workflow.graph import is_ui_format
from comfytunnel.workflow.select import Target
from comfytunnel.workflow.values import apply_values, made_from, named

WORKFLOW_LIMIT = 100 * 2**20  # bytes; what the daemon and ComfyUI take


@dataclass(frozen=True, slots=True)
class Read:
    """A workflow in API format. `kept`: the inputs that were given values; `made_from`: what to tell of a graph that was made of it, None where it has no name."""

    workflow: dict[str, Any]
    kept: Collection[Target] = ()
    made_from: Callable[[Mapping[str, Any]], wire.GeneratedRequest] | None = None


def read_workflow(client: Client, source: str, tunnel: str | None, params: Sequence[str] = ()) -> Read:
    """Return the workflow in the file `source`, on stdin for "-", or else the one of that name, where `params` (NAME=VALUE) set values: `tunnel` is where its nodes are
    known, if it must be converted. UsageError says where it is no JSON, WorkflowError why it cannot be converted."""
    if _is_name(source):
        return _named(client, source, params)
    if params:
        raise UsageError(
            "--param is for a workflow that is kept under a name.",
            hint="For a file use --set NODE.INPUT=VALUE.",
        )
    found = read_json(source)
    return Read(client.convert(found, tunnel=tunnel) if is_ui_format(found) else found)


def _is_name(source: str) -> bool:
    """A file counts more than a name."""
    return (
        source != "-"
        and not {"/", "\\"} & set(source)
        and not source.endswith(".json")
        and not Path(source).exists()
    )


def _named(client: Client, name: str, params: Sequence[str]) -> Read:
    try:
        found = client.workflow(name)
    except NotFoundError as error:
        raise NotFoundError(
            f"There is neither a file nor a workflow called {name!r}.",
            hint="`comfytunnel workflow list` shows those that have a name.",
        ) from error
    if found.problem is not None or found.workflow is None:
        why = found.problem
        raise WorkflowError(
            f"The workflow {name!r} cannot be used: {why.message if why else 'it has no graph.'}",
            hint=(why.hint or "") if why else "",
        )
    there = {each.name: each for each in found.parameters}
    values = {}
    for text in params:
        which, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--param {text!r} does not fit.", hint="Write it as --param NAME=VALUE.")
        parameter = named(there, which)
        if parameter.kind == "image" and value not in (parameter.choices or ()) and Path(value).is_file():
            [first, *_] = parameter.targets
            raise UsageError(
                f"--param {which} takes the name of a picture that ComfyUI has.",
                hint=f"Upload the file: --input {first.node_id}.{first.input}={value}",
            )
        values[which] = _value(parameter.kind, value)
    made = apply_values(
        copy.deepcopy(found.workflow),  # --set changes it in place; what it was tells what was made of it
        found.parameters,
        values,
        lambda low, high: low + secrets.randbelow(high - low + 1),
    )
    kept = {Target(target.node_id, target.input) for which in values for target in there[which].targets}
    return Read(made.workflow, kept, lambda graph: made_from(found, graph, values))


def _value(kind: str, text: str) -> Any:
    """The text as a value of that kind, if it is one: whether it fits is judged with all others."""
    if kind not in ("integer", "number", "seed", "boolean"):
        return text
    try:
        return json.loads(text.strip().lower(), parse_constant=_no_constant)
    except ValueError:
        return text


def read_json(source: str) -> dict[str, Any]:
    """The same as it stands there."""
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
