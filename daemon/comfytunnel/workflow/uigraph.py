"""A workflow as ComfyUI's page saves it, read into values: graphs, nodes, slots, links. Pure.

Versions 0.4 (links are arrays) and 1 (objects) are one here. What is not as the page writes it is an error: of a graph that is half understood
nothing is made. Node ids that several subgraphs share are numbered anew, as the page does when it opens such a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from comfytunnel.errors import WorkflowError
from comfytunnel.printable import printable
from comfytunnel.workflow.graph import EXPORT_HINT, MAX_NODES

MUTED, BYPASSED = 2, 4
INPUT_NODE, OUTPUT_NODE = "-10", "-20"
"""The ids by which links inside a subgraph name its own inputs and outputs."""
MAX_DEPTH = 50


def unclear(reason: str) -> WorkflowError:
    """The refusal: `reason` says what is not known."""
    return WorkflowError(
        f"This workflow is in the format of ComfyUI's page and cannot be converted: {printable(reason)[:400]}",
        hint=EXPORT_HINT,
        code="workflow_format_ui",
    )


@dataclass(slots=True)
class Slot:
    """An input of a node. `widget`: the one that it stands for. `link`: what it gets."""

    name: str
    kind: str
    link: int | None = None
    widget: str | None = None


@dataclass(slots=True)
class UiNode:
    id: str
    type: str
    title: str | None
    mode: int
    inputs: list[Slot]
    outputs: list[str]
    links: list[list[int]]
    values: list[Any] | dict[str, Any] | None
    properties: Mapping[str, Any]

    def __str__(self) -> str:
        return f"node {self.id} ({(self.title or self.type)[:80]})"


@dataclass(slots=True)
class Link:
    origin: str
    slot: int
    target: str
    target_slot: int


@dataclass(slots=True)
class UiGraph:
    """`inputs`, `outputs`: of a subgraph, each with the links that lead on from it, or to it."""

    nodes: dict[str, UiNode]
    links: dict[int, Link]
    inputs: list[tuple[Slot, list[int]]] = field(default_factory=list)
    outputs: list[list[int]] = field(default_factory=list)


@dataclass(slots=True)
class UiWorkflow:
    """`subgraphs`: by id, those that others use first."""

    root: UiGraph
    subgraphs: dict[str, UiGraph]


def read_ui(workflow: Mapping[str, Any]) -> UiWorkflow:
    """Raises WorkflowError."""
    extra = workflow.get("extra")
    if isinstance(extra, dict) and extra.get("groupNodes"):
        raise unclear(
            "it has group nodes, of an older kind. (Open it in ComfyUI and convert them to subgraphs.)"
        )
    definitions = workflow.get("definitions")
    listed = _list(definitions.get("subgraphs"), "its subgraphs") if isinstance(definitions, dict) else []
    drawn = {_text(each.get("id"), "a subgraph's id"): each for each in map(_dict, listed)}
    if len(drawn) != len(listed):
        raise unclear("two of its subgraphs have the same id.")
    total = sum(len(_list(each.get("nodes"), "nodes")) for each in [workflow, *drawn.values()])
    if total > MAX_NODES:
        raise unclear(f"it has {total} nodes; at most {MAX_NODES} are accepted.")
    root = _graph(workflow)
    subgraphs = {key: _graph(each) for key, each in drawn.items()}
    state = workflow.get("state") if isinstance(workflow.get("state"), dict) else {}
    last = state.get("lastNodeId", 0) if isinstance(state, dict) else 0
    _number_anew(root, subgraphs, max([_whole(workflow.get("last_node_id")), _whole(last)]))
    return UiWorkflow(root, dict(_leaves_first(subgraphs)))


def _graph(drawn: Mapping[str, Any]) -> UiGraph:
    links = dict(map(_link, _list(drawn.get("links"), "links")))
    listed = _list(drawn.get("nodes"), "nodes")
    nodes = {node.id: node for node in map(_node, listed)}
    if len(nodes) != len(listed):
        raise unclear("two of its nodes have the same id.")
    inputs = [
        (
            Slot(_text(each.get("name"), "an input's name"), _kind(each.get("type"))),
            _links(each.get("linkIds")),
        )
        for each in map(_dict, _list(drawn.get("inputs"), "inputs"))
    ]
    outputs = [_links(each.get("linkIds")) for each in map(_dict, _list(drawn.get("outputs"), "outputs"))]
    return UiGraph(nodes, links, inputs, outputs)


def _link(found: Any) -> tuple[int, Link]:
    if isinstance(found, list) and len(found) >= 5:
        number, origin, slot, target, target_slot = found[:5]
    elif isinstance(found, dict):
        number, origin, slot = found.get("id"), found.get("origin_id"), found.get("origin_slot")
        target, target_slot = found.get("target_id"), found.get("target_slot")
    else:
        raise unclear("one of its links cannot be read.")
    if type(number) is not int or type(slot) is not int or type(target_slot) is not int:
        raise unclear("one of its links cannot be read.")
    return number, Link(_id(origin), slot, _id(target), target_slot)


def _node(found: Any) -> UiNode:
    drawn = _dict(found)
    values = drawn.get("widgets_values")
    mode = drawn.get("mode", 0)
    title = drawn.get("title")
    properties = drawn.get("properties")
    outputs = [_dict(each) for each in _list(drawn.get("outputs"), "outputs")]
    return UiNode(
        id=_id(drawn.get("id")),
        type=_text(drawn.get("type"), "a node's type"),
        title=title if isinstance(title, str) and title else None,
        mode=mode if type(mode) is int else 0,
        inputs=[_slot(each) for each in map(_dict, _list(drawn.get("inputs"), "inputs"))],
        outputs=[_kind(each.get("type")) for each in outputs],
        links=[_links(each.get("links")) for each in outputs],
        values=values if isinstance(values, list | dict) else None,
        properties=properties if isinstance(properties, dict) else {},
    )


def _slot(drawn: Mapping[str, Any]) -> Slot:
    link, widget = drawn.get("link"), drawn.get("widget")
    name = widget.get("name") if isinstance(widget, dict) else None
    if link is not None and type(link) is not int:
        raise unclear("one of its inputs cannot be read.")
    return Slot(
        _text(drawn.get("name"), "an input's name", empty=True),
        _kind(drawn.get("type")),
        link,
        name if isinstance(name, str) else None,
    )


def _number_anew(root: UiGraph, subgraphs: Mapping[str, UiGraph], last: int) -> None:
    used = set(root.nodes)
    users: dict[str, list[UiNode]] = {}
    for each in [root, *subgraphs.values()]:
        for node in each.nodes.values():
            if isinstance(node.properties.get("proxyWidgets"), list):
                users.setdefault(node.type, []).append(node)
    for its, graph in subgraphs.items():
        changed: dict[str, str] = {}
        nodes: dict[str, UiNode] = {}
        for node in graph.nodes.values():
            if node.id in used:
                last += 1
                while str(last) in used:
                    last += 1
                changed[node.id] = node.id = str(last)
            elif node.id.isdecimal():
                last = max(last, int(node.id))
            used.add(node.id)
            nodes[node.id] = node
        graph.nodes = nodes
        if not changed:
            continue
        for link in graph.links.values():
            link.origin = changed.get(link.origin, link.origin)
            link.target = changed.get(link.target, link.target)
        for node in users.get(its, ()):
            proxies = [
                [changed.get(str(each[0]), each[0]), *each[1:]] if isinstance(each, list) and each else each
                for each in node.properties["proxyWidgets"]
            ]
            node.properties = {**node.properties, "proxyWidgets": proxies}


def _leaves_first(subgraphs: Mapping[str, UiGraph]) -> Iterator[tuple[str, UiGraph]]:
    done: set[str] = set()

    def visit(key: str, above: tuple[str, ...]) -> Iterator[tuple[str, UiGraph]]:
        if key in above or len(above) > MAX_DEPTH:
            raise unclear("a subgraph holds itself.")
        if key in done:
            return
        for node in subgraphs[key].nodes.values():
            if node.type in subgraphs:
                yield from visit(node.type, (*above, key))
        done.add(key)
        yield key, subgraphs[key]

    for key in subgraphs:
        yield from visit(key, ())


def _list(found: Any, what: str) -> list[Any]:
    if found is None:
        return []
    if not isinstance(found, list):
        raise unclear(f"{what} cannot be read.")
    return found


def _dict(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise unclear("a part of it is not an object.")
    return found


def _text(found: Any, what: str, *, empty: bool = False) -> str:
    if not isinstance(found, str) or not (found or empty):
        raise unclear(f"{what} is missing.")
    return found


def _kind(found: Any) -> str:
    return found if isinstance(found, str) else "*" if found in (0, None) else str(found)[:80]


def _id(found: Any) -> str:
    if not isinstance(found, int | str) or isinstance(found, bool):
        raise unclear("a node's id is missing.")
    return str(found)


def _whole(found: Any) -> int:
    return found if type(found) is int else 0


def _links(found: Any) -> list[int]:
    return [each for each in _list(found, "links") if type(each) is int]
