"""ComfyUI's page format ("UI format": nodes, links, widgets) -> API format, as the page itself would export it. Pure.

As the page does it (read, frontend 1.49): muted nodes and what only the page has (notes, reroutes, primitives) vanish, bypassed ones let through
what fits, subgraphs are opened and their nodes named OUTER:INNER. What is not sure is refused with what was unclear and the way to export, never
guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from comfytunnel.workflow.graph import MAX_NODES
from comfytunnel.workflow.uigraph import BYPASSED, INPUT_NODE, MUTED, UiGraph, UiNode, read_ui
from comfytunnel.workflow.uigraph import unclear as unclear
from comfytunnel.workflow.uivalues import NOTES, PRIMITIVE, REROUTE, Values

MAX_HOPS = 400
"""Links, bypasses and borders of subgraphs between an input and what it gets: Python's stack bears some thousand."""

VIRTUAL = NOTES | {REROUTE, PRIMITIVE}


def classes_of(workflow: Mapping[str, Any]) -> set[str]:
    """The class types whose entries `convert` will want. Raises WorkflowError."""
    found = read_ui(workflow)
    graphs = [found.root, *found.subgraphs.values()]
    return {node.type for graph in graphs for node in graph.nodes.values()} - VIRTUAL - found.subgraphs.keys()


def convert(workflow: Mapping[str, Any], entries: Mapping[str, bytes]) -> dict[str, Any]:
    """Return it in API format. `entries`: of /object_info, JSON, by class; a class that is not there is not known. Raises WorkflowError."""
    found = read_ui(workflow)
    values = Values(found, entries)
    flat = _Flat(found.subgraphs, values)
    flat.open(found.root, (), None)
    graph = {key: flat.exported(place) for key, place in flat.places.items() if flat.is_real(place)}
    for node in graph.values():  # what a node that has vanished would have given
        node["inputs"] = {
            name: value
            for name, value in node["inputs"].items()
            if not (isinstance(value, list) and len(value) == 2 and value[0] not in graph)
        }
    if not graph:
        raise unclear("it has no node that ComfyUI would run.")
    return graph


@dataclass(frozen=True, slots=True)
class _Place:
    """A node where it stands: in a graph, below the subgraph nodes of `path`."""

    graph: UiGraph
    node: UiNode
    path: tuple[str, ...]
    host: _Place | None

    @property
    def key(self) -> str:
        return ":".join((*self.path, self.node.id))


@dataclass(frozen=True, slots=True)
class _Value:
    """What an input gets that ends at a widget of a subgraph node."""

    value: Any


class _Flat:
    """All nodes with the subgraphs opened, by the ids that they have in the export."""

    def __init__(self, subgraphs: Mapping[str, UiGraph], values: Values) -> None:
        self.subgraphs = subgraphs
        self.values = values
        self.places: dict[str, _Place] = {}

    def open(self, graph: UiGraph, path: tuple[str, ...], host: _Place | None) -> None:
        for node in graph.nodes.values():
            place = _Place(graph, node, path, host)
            self.places[place.key] = place
            if len(self.places) > MAX_NODES:
                raise unclear(f"with its subgraphs opened it has more than {MAX_NODES} nodes.")
            if node.type in self.subgraphs and (path or node.mode not in (MUTED, BYPASSED)):
                self.open(self.subgraphs[node.type], (*path, node.id), place)

    def is_real(self, place: _Place) -> bool:
        node = place.node
        if node.mode in (MUTED, BYPASSED) or node.type in VIRTUAL or node.type in self.subgraphs:
            return False
        return not self.values.stands_alone(place.graph, node)

    def exported(self, place: _Place) -> dict[str, Any]:
        """One node as the export has it."""
        inputs = {
            name: {"__value__": value} if isinstance(value, list) else value
            for name, value in self.values.sent(place.graph, place.node)
        }
        for number, slot in enumerate(self.values.inputs(place.graph, place.node)):
            found = self._source(place, number, slot.kind, 0)
            match found:
                case _Value(value):
                    inputs[slot.name] = {"__value__": value} if isinstance(value, list) else value
                case (str(), int()):
                    inputs[slot.name] = list(found)
        title = place.node.title or self.values.title(place.node)
        return {"inputs": inputs, "class_type": place.node.type, "_meta": {"title": title}}

    def _source(self, place: _Place, number: int, kind: str, hops: int) -> tuple[str, int] | _Value | None:
        """What the input of that number gets, None for nothing."""
        if hops > MAX_HOPS:
            raise unclear(f"its links run in a circle at {place.node}.")
        inputs = self.values.inputs(place.graph, place.node)
        if number >= len(inputs):
            raise unclear(f"{place.node} has no input {number}.")
        slot = inputs[number]
        if slot.link is None:
            return None
        link = place.graph.links.get(slot.link)
        if link is None:
            raise unclear(f"the link of {place.node}, input {slot.name!r}, is not there.")
        if place.host is not None and link.origin == INPUT_NODE:
            outer = place.host
            if link.slot >= len(self.values.inputs(outer.graph, outer.node)):
                raise unclear(f"the subgraph of {outer.node} has no input {link.slot}.")
            if self.values.inputs(outer.graph, outer.node)[link.slot].link is None:
                promoted = self.values.promoted(outer.graph, outer.node, link.slot)
                return None if promoted is None else _Value(promoted[0])
            return self._source(outer, link.slot, self._kind(outer, link.slot), hops + 1)
        origin = place.graph.nodes.get(link.origin)
        if origin is None:
            raise unclear(f"{place.node}, input {slot.name!r}, is linked to a node that is not there.")
        return self._output(self.places[":".join((*place.path, origin.id))], link.slot, kind, hops + 1)

    def _output(self, place: _Place, number: int, kind: str, hops: int) -> tuple[str, int] | _Value | None:
        """What comes out of a node at its output of that number, for an input of type `kind`."""
        node = place.node
        if node.mode == MUTED:
            return None
        if node.mode == BYPASSED:
            through = self._through(place, number, kind)
            return (
                None
                if through is None
                else self._source(place, through, self._kind(place, through), hops + 1)
            )
        if node.type in self.subgraphs:
            return self._inside(place, number, kind, hops)
        if node.type == REROUTE:
            return self._source(place, 0, kind, hops + 1)
        if node.type in VIRTUAL:
            return None
        return place.key, number

    def _kind(self, place: _Place, number: int) -> str:
        return self.values.inputs(place.graph, place.node)[number].kind

    def _inside(self, place: _Place, number: int, kind: str, hops: int) -> tuple[str, int] | _Value | None:
        graph = self.subgraphs[place.node.type]
        if number >= len(graph.outputs):
            raise unclear(f"the subgraph of {place.node} has no output {number}.")
        link = graph.links.get(graph.outputs[number][0]) if graph.outputs[number] else None
        if link is None:
            return None
        if link.origin not in graph.nodes:
            raise unclear(f"the subgraph of {place.node} has an output that no node in it gives.")
        inner = self.places.get(":".join((*place.path, place.node.id, link.origin)))
        return None if inner is None else self._output(inner, link.slot, kind, hops + 1)

    def _through(self, place: _Place, number: int, kind: str) -> int | None:
        """Which input a bypassed node hands on at that output."""
        inputs = self.values.inputs(place.graph, place.node)
        outputs = self.values.outputs(place.node)
        if number >= len(outputs):
            raise unclear(f"{place.node} has no output {number}.")
        if kind in ("*", ""):
            return number if len(inputs) > number else 0 if inputs else None
        given = outputs[number]
        if number < len(inputs) and _fit(inputs[number].kind, given) and _fit(inputs[number].kind, kind):
            return number
        exact = (at for at, slot in enumerate(inputs) if slot.kind == kind)
        fitting = (at for at, slot in enumerate(inputs) if _fit(slot.kind, given) and _fit(slot.kind, kind))
        return next(exact, None) if any(slot.kind == kind for slot in inputs) else next(fitting, None)


def _fit(one: str, other: str) -> bool:
    if one in ("", "*") or other in ("", "*") or one == other:
        return True
    return any(_same(a, b) for a in one.lower().split(",") for b in other.lower().split(","))


def _same(one: str, other: str) -> bool:
    return one in ("", "*") or other in ("", "*") or one == other
