"""A workflow in ComfyUI's API format, looked at before it is accepted. Pure.

Only the shape is judged here, what no ComfyUI could run: which nodes exist and what they take, the server knows. A workflow in
the format of the web page ("UI format", with `nodes` and `links`) is told apart, because people mix the two up daily.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from comfytunnel.errors import WorkflowError

MAX_NODES = 10_000
"""Nodes; the largest workflows that people share have about a thousand."""

MAX_BYTES = 28 * 1024**2
"""Bytes of JSON. The running prompt and the one behind it come back together in /queue, of which we read 64 MiB."""

EXPORT_HINT = (
    'In ComfyUI open the workflow and choose "Export (API)" in the Workflow menu '
    '(older versions: switch on "Dev mode" in the settings, then "Save (API Format)").'
)


@dataclass(frozen=True, slots=True)
class Node:
    class_type: str
    title: str


@dataclass(frozen=True, slots=True)
class Graph:
    """What we need to know of a workflow: its nodes by id, in their order."""

    nodes: Mapping[str, Node]

    def __len__(self) -> int:
        return len(self.nodes)


def parse_api_graph(workflow: object) -> Graph:
    """Judge a workflow's shape. Raises WorkflowError (`invalid_workflow` or `workflow_format_ui`, with a hint); `details`
    may hold `node_errors`, by node id. Where its links lead is not judged: see `check_links`."""
    if not isinstance(workflow, dict):
        raise WorkflowError(
            "The workflow is not a JSON object.",
            hint='In API format it maps node ids to {"class_type", "inputs"}.',
        )
    if is_ui_format(workflow):
        raise WorkflowError(
            "This is a workflow in the format of ComfyUI's web page, not in API format.",
            hint=EXPORT_HINT,
            code="workflow_format_ui",
        )
    if not workflow:
        raise WorkflowError("The workflow is empty: it has no nodes.", hint=EXPORT_HINT)
    if isinstance(workflow.get("prompt"), dict) and "class_type" not in workflow["prompt"]:
        raise WorkflowError(
            "This is a request body for ComfyUI, not a workflow.",
            hint='Send only what stands under "prompt".',
        )
    if len(workflow) > MAX_NODES:
        raise WorkflowError(f"The workflow has {len(workflow)} nodes; at most {MAX_NODES} are accepted.")
    problems: dict[str, list[str]] = {}
    nodes = {}
    for node_id, node in workflow.items():
        found = _problem(node)
        if found:
            problems[node_id] = [found]
        else:
            nodes[node_id] = Node(node["class_type"], _title(node))
    _refuse(problems)
    _check_size(workflow)
    return Graph(nodes)


def check_links(workflow: Mapping[str, Any]) -> None:
    """Raise WorkflowError for a link to a node that is not there. ComfyUI overlooks one in a part that no output needs, so this is for
    those who do not know which nodes are outputs."""
    problems = {
        node_id: [
            f"takes {name[:80]!r} from node {value[0][:80]!r}, which is not there"
            for name, value in node.get("inputs", {}).items()
            if is_link(value) and value[0] not in workflow
        ]
        for node_id, node in workflow.items()
    }
    _refuse({node_id: found for node_id, found in problems.items() if found})


def _refuse(problems: Mapping[str, list[str]]) -> None:
    if problems:
        node_id, found = next(iter(problems.items()))
        more = f" (and {len(problems) - 1} more nodes)" if len(problems) > 1 else ""
        errors = {key: [{"reason": text} for text in texts] for key, texts in list(problems.items())[:100]}
        raise WorkflowError(
            f"Node {node_id[:80]!r} {found[0]}{more}.", hint=EXPORT_HINT, details={"node_errors": errors}
        )


def _problem(node: object) -> str | None:
    if not isinstance(node, dict):
        return "is not an object"
    class_type = node.get("class_type")
    if not isinstance(class_type, str) or not class_type:
        return "has no class_type"
    if not isinstance(node.get("inputs", {}), dict):
        return "has inputs that are not an object"
    return None


def is_ui_format(workflow: Mapping[str, Any]) -> bool:
    """Whether it is in the format of ComfyUI's page ("nodes" and "links"): of no use to its API."""
    return isinstance(workflow.get("nodes"), list) or (
        isinstance(workflow.get("links"), list) and "nodes" in workflow
    )


def is_link(value: object) -> bool:
    """Whether an input's value is the output of another node, as ComfyUI reads it: [node id, output number]."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and type(value[1]) is int


def _title(node: Mapping[str, Any]) -> str:
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    return title[:200] if isinstance(title, str) and title else str(node["class_type"])[:200]


def _check_size(workflow: Mapping[str, Any]) -> None:
    try:
        size = len(msgspec.json.encode(workflow))
    except (RecursionError, TypeError, ValueError, OverflowError) as error:
        raise WorkflowError(f"The workflow cannot be written as JSON ({error}).") from error
    if size > MAX_BYTES:
        raise WorkflowError(
            f"The workflow is {size // 1024**2} MiB of JSON; at most {MAX_BYTES // 1024**2} are accepted."
        )
