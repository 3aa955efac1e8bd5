"""What in a graph means a file of ours, and the graph with the names that ComfyUI gave instead. Pure.

Two ways to say it: the object of Comfy API v2, {"__type": "core/ASSET", "info": {"id": ...}}, anywhere inside an input's value; or an
input that is a text equal to the name (`file_path`) of an upload, so that a plain "image": "photo.png" works as it does in ComfyUI.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

TYPE = "core/ASSET"
MAX_NAME = 1024
"""Characters of a `file_path`; a longer text is a prompt."""
MAX_DEPTH = 8
"""Levels of lists and objects inside an input that are searched; no known node nests its values deeper."""

At = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """`at`: node id, input, and the keys below it. Either `id`, or `name`; neither: it is not as the contract wants it."""

    at: At
    id: str | None = None
    name: str | None = None

    @property
    def where(self) -> str:
        node, *keys = self.at
        return f"node {str(node)[:80]!r}, input {'.'.join(str(key) for key in keys)[:80]!r}"


def references(workflow: Mapping[str, Any]) -> list[Reference]:
    """In the order of the graph. What is no node is passed over: others judge the graph."""
    found: list[Reference] = []
    for node_id, node in workflow.items():
        inputs = node.get("inputs") if isinstance(node, dict) else None
        for key, value in inputs.items() if isinstance(inputs, dict) else ():
            if isinstance(value, str):
                if 0 < len(value) <= MAX_NAME:
                    found.append(Reference((node_id, key), name=value))
            else:
                found += _inside(value, (node_id, key), MAX_DEPTH)
    return found


def _inside(value: object, at: At, depth: int) -> Iterator[Reference]:
    if isinstance(value, dict) and value.get("__type") == TYPE:
        info = value.get("info")
        asset_id = info.get("id") if isinstance(info, dict) else None
        yield Reference(at, id=asset_id if isinstance(asset_id, str) and asset_id else None)
    elif isinstance(value, dict | list) and depth > 0:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in pairs:
            yield from _inside(item, (*at, key), depth - 1)


def replaced(workflow: Mapping[str, Any], names: Mapping[At, str]) -> dict[str, Any]:
    """The graph with a name at each of these places; the one that was given stays as it is."""
    graph = dict(workflow)
    for (node_id, *keys), name in names.items():
        node = graph[str(node_id)]
        graph[str(node_id)] = {**node, "inputs": _with(node["inputs"], keys, name)}
    return graph


def _with(value: Any, keys: list[str | int], name: str) -> Any:
    if not keys:
        return name
    key, *rest = keys
    copy: Any = list(value) if isinstance(value, list) else dict(value)
    copy[key] = _with(copy[key], rest, name)
    return copy
