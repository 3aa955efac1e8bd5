"""What stands in the widgets of a workflow of ComfyUI's page, and at the inputs of its nodes, once the page has opened it. Pure.

The saved values go to the widgets by position. A subgraph node shows widgets of what is inside it (promoted): those linked to its inputs, and in files of
older pages those listed in `proxyWidgets`, for which inputs are made here as the page makes them when it opens one (read, frontend 1.49).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from comfytunnel.workflow.uifilled import exported, filled, kept_aside
from comfytunnel.workflow.uigraph import INPUT_NODE, Link, Slot, UiGraph, UiNode, UiWorkflow, unclear
from comfytunnel.workflow.widgets import Shape, UnknownWidgetsError, Widget, read_shape

NOTES = frozenset({"Note", "MarkdownNote"})
REROUTE, PRIMITIVE = "Reroute", "PrimitiveNode"
REPLACES = "Run widget replace on values"
"""Property of a primitive node."""

_PREFIX = re.compile(r"\s*(\d+)\s*:\s*(.+)")

Key = tuple[int, str]


class Values:
    """All of one workflow, which is changed by it: proxy widgets become inputs. Raises WorkflowError, then and later."""

    def __init__(self, workflow: UiWorkflow, entries: Mapping[str, bytes]) -> None:
        self._subgraphs = workflow.subgraphs
        self._entries = entries
        self._shapes: dict[str, Shape | str] = {}
        self._inputs: dict[Key, list[Slot]] = {}
        self._values: dict[Key, list[tuple[Widget, Any]]] = {}
        self._promoted: dict[Key, dict[str, Any]] = {}
        graphs = [*workflow.subgraphs.values(), workflow.root]
        for graph in graphs:
            hosts = [node for node in graph.nodes.values() if node.type in self._subgraphs]
            for node in hosts:
                self._promote(graph, node)
            for node in hosts:
                self._open_proxies(graphs, graph, node)
        for graph in graphs:
            for node in graph.nodes.values():
                if node.type == PRIMITIVE:
                    self._give(graph, node)

    # --- asked ------------------------------------------------------------------------------------------------------

    def title(self, node: UiNode) -> str:
        return self._shape(node).title

    def stands_alone(self, graph: UiGraph, node: UiNode) -> bool:
        """Whether no ComfyUI knows the node, nothing is linked to it and nothing stands in it: a label of the page. Raises WorkflowError if it is more."""
        if node.type in self._entries:
            return False
        if not node.values and not any(node.links) and all(slot.link is None for slot in node.inputs):
            return True
        raise unclear(f"ComfyUI does not know the class of {node}.")

    def inputs(self, graph: UiGraph, node: UiNode) -> list[Slot]:
        """In the order of the page: as the class, or the subgraph, has them."""
        key = (id(graph), node.id)
        its = self._subgraphs.get(node.type)
        if key not in self._inputs:
            self._inputs[key] = self._first_inputs(node, its)
        found = self._inputs[key]
        if its is not None:
            found += [Slot(slot.name, slot.kind) for slot, _ in its.inputs[len(found) :]]
        return found

    def outputs(self, node: UiNode) -> list[str]:
        """The types."""
        if node.type not in self._entries or node.type in self._subgraphs:
            return node.outputs
        shape = self._shape(node)
        own = [
            node.outputs[at] if kind.startswith("COMFY_") and at < len(node.outputs) else kind
            for at, kind in enumerate(shape.outputs)
        ]
        return own + node.outputs[len(own) :]

    def sent(self, graph: UiGraph, node: UiNode) -> Iterator[tuple[str, Any]]:
        """The values of a node's widgets as an export has them."""
        linked = {slot.widget for slot in self.inputs(graph, node) if slot.link is not None}
        for widget, value in self._of(graph, node):
            if widget.sent:
                yield widget.name, value if widget.name in linked else exported(node, widget, value)

    def promoted(self, graph: UiGraph, node: UiNode, number: int) -> tuple[Any] | None:
        """The value that a subgraph node has for its input, None if that is no widget."""
        name = self.inputs(graph, node)[number].name
        found = self._promoted.get((id(graph), node.id), {})
        return (found[name],) if name in found else None

    # --- widgets ----------------------------------------------------------------------------------------------------

    def _shape(self, node: UiNode) -> Shape:
        found = self._shapes.get(node.type)
        if found is None:
            try:
                found = read_shape(node.type, self._entries[node.type])
            except KeyError:
                found = f"ComfyUI does not know the class of {node}."
            except UnknownWidgetsError as error:
                found = f"{node} is of a class {error}."
            self._shapes[node.type] = found
        if isinstance(found, str):
            raise unclear(found)
        return found

    def _first_inputs(self, node: UiNode, its: UiGraph | None) -> list[Slot]:
        saved: dict[str, Slot] = {}
        for slot in node.inputs:
            saved[slot.name] = slot
        if its is not None:
            links = {name: slot.link for name, slot in saved.items()}
            return [Slot(slot.name, slot.kind, links.get(slot.name)) for slot, _ in its.inputs]
        if node.type not in self._entries:
            return node.inputs
        shape = self._shape(node)
        names = {widget.name for widget in shape.widgets}
        loose = [
            socket for socket in shape.sockets if not socket.kind.startswith("COMFY_") or socket.name in names
        ]
        own = [
            Slot(socket.name, socket.kind, saved[socket.name].link if socket.name in saved else None)
            for socket in loose
        ]
        for slot in own:
            slot.widget = slot.name if slot.name in names else None
        there = {slot.name for slot in own}
        return own + [slot for slot in node.inputs if slot.name not in there]

    def _of(self, graph: UiGraph, node: UiNode) -> list[tuple[Widget, Any]]:
        """Each widget of a node of a class, with its value."""
        key = (id(graph), node.id)
        if key not in self._values:
            self._values[key] = filled(node, self._shape(node))
        return self._values[key]

    def _widget(self, graph: UiGraph, node: UiNode, name: str) -> tuple[Widget, Any] | None:
        return next((each for each in self._of(graph, node) if each[0].name == name), None)

    # --- promotion --------------------------------------------------------------------------------------------------

    def _behind(self, its: UiGraph, links: list[int]) -> tuple[UiNode, Slot, Any] | None:
        """The first widget that a subgraph's input leads to: its node, its slot, its value."""
        for number in links:
            link = its.links.get(number)
            node = its.nodes.get(link.target) if link is not None else None
            if node is None or node.type in NOTES:
                continue
            slot = next((each for each in self.inputs(its, node) if each.link == number), None)
            if slot is None:
                continue
            if node.type in self._subgraphs:
                held = self._promoted.get((id(its), node.id), {})
                if slot.name in held:
                    return node, slot, held[slot.name]
            elif slot.widget is not None and (found := self._widget(its, node, slot.widget)) is not None:
                return node, slot, found[1]
        return None

    def _promote(self, graph: UiGraph, node: UiNode) -> None:
        its = self._subgraphs[node.type]
        held = self._promoted[id(graph), node.id] = {}
        lost = kept_aside(node)
        if len({slot.name for slot, _ in its.inputs}) < len(its.inputs):
            raise unclear(f"the subgraph of {node} has two inputs of one name.")
        if isinstance(node.values, dict):
            raise unclear(f"the values of {node} cannot be told apart.")
        values = iter(node.values or [])
        for slot, links in its.inputs:
            found = self._behind(its, links)
            if found is not None:
                present = next(values, found[2])
                held[slot.name] = lost.get(slot.name, present)

    def _open_proxies(self, graphs: list[UiGraph], graph: UiGraph, host: UiNode) -> None:
        listed = host.properties.get("proxyWidgets")
        if not listed:
            return
        its = self._subgraphs[host.type]
        held = self._promoted[id(graph), host.id]
        if not isinstance(listed, list) or not all(
            isinstance(each, list) and len(each) in (2, 3) and all(isinstance(part, str) for part in each)
            for each in listed
        ):
            raise unclear(f"the widgets of {host} cannot be read.")
        values = host.values if isinstance(host.values, list) else []
        plans = [self._plan(its, each[0], each[1], each[2] if len(each) > 2 else None) for each in listed]
        for at, (node, slot, name) in enumerate(plans):
            given = values[at : at + 1] if values[at : at + 1] != [None] else []
            if node is None:
                if listed[at][0] == "-1" and given and listed[at][1] in held:
                    held[listed[at][1]] = given[0]
                continue
            if name is None:
                name = self._make_input(graphs, its, node, slot)
            if given and name in held:
                held[name] = given[0]

    def _plan(
        self, its: UiGraph, node_id: str, name: str, inner: str | None
    ) -> tuple[UiNode | None, Slot, str | None]:
        """Whose widget is meant, its slot, and the name of the subgraph's input that leads to it, None if one must be made."""
        none = None, Slot("", ""), None
        node = its.nodes.get(node_id)
        if not self._resolves(its, node_id, name):
            while found := _PREFIX.fullmatch(name):
                inner, name = found[1], found[2]
        for slot, links in its.inputs:
            source = self._source(its, links)
            if source is not None and (source[0].id, source[1]) == (node_id, name):
                return source[0], slot, slot.name
        if node is None or name.startswith("$$") or node.type in NOTES:
            return none
        if node.type == PRIMITIVE:
            raise unclear(f"{node} is shown on a subgraph.")
        if node.type in self._subgraphs:
            made = self._nested_slot(its, node, name, inner)
        else:
            if self._widget(its, node, name) is None:
                return none
            made = next((each for each in self.inputs(its, node) if each.widget == name), None)
        return (node, made, None) if made is not None else none

    def _nested_slot(self, its: UiGraph, node: UiNode, name: str, inner: str | None) -> Slot | None:
        deeper = self._subgraphs[node.type]
        for slot, (_, links) in zip(self.inputs(its, node), deeper.inputs, strict=True):
            source = self._source(deeper, links)
            fits = source is not None and source[1] == name and (inner is None or source[0].id == inner)
            if fits or (inner is None and slot.name == name):
                return slot if slot.name in self._promoted[id(its), node.id] else None
        return None

    def _source(self, its: UiGraph, links: list[int]) -> tuple[UiNode, str] | None:
        """The first node and widget (of a subgraph node: input) that an input of the subgraph leads to."""
        for number in links:
            link = its.links.get(number)
            node = its.nodes.get(link.target) if link is not None else None
            slot = (
                None if node is None else next((s for s in self.inputs(its, node) if s.link == number), None)
            )
            if node is None or slot is None:
                continue
            if node.type in self._subgraphs:
                return node, slot.name
            if slot.widget is not None and self._widget(its, node, slot.widget) is not None:
                return node, slot.widget
        return None

    def _resolves(self, its: UiGraph, node_id: str, name: str) -> bool:
        for _ in range(100):
            node = its.nodes.get(node_id)
            if node is None or node.type in NOTES or node.type in (REROUTE, PRIMITIVE):
                return False
            if node.type not in self._subgraphs:
                return node.type in self._entries and self._widget(its, node, name) is not None
            its = self._subgraphs[node.type]
            source = next((self._source(its, links) for slot, links in its.inputs if slot.name == name), None)
            if source is None:
                return False
            node_id, name = source[0].id, source[1]
        return False

    def _make_input(self, graphs: list[UiGraph], its: UiGraph, node: UiNode, slot: Slot) -> str:
        """Give the subgraph an input that leads to this widget, on all nodes that show it. Returns its name."""
        base = slot.widget or slot.name
        names = {each.name for each, _ in its.inputs}
        name, count = base, 1
        while name in names:
            name, count = f"{base}_{count}", count + 1
        for _, links in its.inputs:
            if slot.link in links:
                links.remove(slot.link)
        number = max(its.links, default=0) + 1
        its.links[number] = Link(INPUT_NODE, len(its.inputs), node.id, 0)
        slot.link = number
        its.inputs.append((Slot(name, slot.kind), [number]))
        found = self._behind(its, [number])
        for graph in graphs:
            for other in graph.nodes.values():
                held = self._promoted.get((id(graph), other.id))
                if held is not None and self._subgraphs.get(other.type) is its and found is not None:
                    held[name] = found[2]
        return name

    # --- primitives -------------------------------------------------------------------------------------------------

    def _give(self, graph: UiGraph, node: UiNode) -> None:
        """A primitive node writes its value into the widgets that it is linked to."""
        if not isinstance(node.values, list) or not node.values or not node.links:
            return
        value = node.values[0]
        if value and node.properties.get(REPLACES):
            raise unclear(f"{node} replaces parts of its text.")
        for number in node.links[0]:
            link = graph.links.get(number)
            target = graph.nodes.get(link.target) if link is not None else None
            if target is None or target.type in NOTES or target.type in (REROUTE, PRIMITIVE):
                continue
            slot = next((each for each in self.inputs(graph, target) if each.link == number), None)
            if slot is None:
                continue
            if target.type in self._subgraphs:
                held = self._promoted[id(graph), target.id]
                if slot.name in held:
                    held[slot.name] = value
            elif slot.widget is not None and target.type in self._entries:
                self._values[id(graph), target.id] = [
                    (widget, value if widget.name == slot.widget else present)
                    for widget, present in self._of(graph, target)
                ]
