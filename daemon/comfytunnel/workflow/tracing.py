"""Finding one's way in a workflow's graph: which nodes are used, what feeds an input, where a text or a number that comes through links stands. Pure.

The graph is anybody's: it may be thousands of nodes deep, hold circles, and links to nodes that are not there. Every walk is a loop with an end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from comfytunnel.printable import printable
from comfytunnel.workflow.graph import is_link
from comfytunnel.workflow.nodeinfo import NodeInfo

Known: TypeAlias = Callable[[str], NodeInfo | None]
"""What is known of a class, None for one of which nothing is."""
Spot: TypeAlias = tuple[str, str]
"""A node's id and the name of one of its inputs."""

MAX_HOPS = 64
"""Links that are followed from an input to the node that holds its value."""
MAX_TITLE = 80
"""Characters of a title that are shown."""

VALUES = ("value", "int", "float", "number", "seed", "noise_seed", "text", "string", "boolean")
"""What a node that only holds a value calls it (ComfyUI's primitives, and those of the node packs that people use)."""

_SAVES = re.compile(r"save|preview|output|export|show|display|videocombine", re.IGNORECASE)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


class Tracer:
    """A graph that `parse_api_graph` has passed, and what is known of its classes."""

    def __init__(self, workflow: Mapping[str, Any], known: Known) -> None:
        self.workflow = workflow
        self._infos = {each: known(each) for each in {node["class_type"] for node in workflow.values()}}
        self.used = self._used()
        """The ids of the nodes that some output needs, those that feed others first."""

    def class_of(self, node_id: str) -> str:
        return str(self.workflow[node_id]["class_type"])

    def info(self, node_id: str) -> NodeInfo | None:
        found = self._infos[self.workflow[node_id]["class_type"]]
        return None if found is None or found.opaque else found

    def inputs(self, node_id: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.workflow[node_id].get("inputs", {})
        return found

    def giver(self, value: object) -> str | None:
        """The node that a link comes from; None for what is no link, or leads nowhere."""
        if isinstance(value, list) and is_link(value) and value[0] in self.workflow:
            return str(value[0])
        return None

    def links(self, node_id: str) -> Iterator[tuple[str, str]]:
        """Each input that comes from another node, and that node."""
        for name, value in self.inputs(node_id).items():
            giver = self.giver(value)
            if giver is not None:
                yield name, giver

    def branches(self, node_id: str) -> list[str]:
        """The inputs that a switch chooses from, the one that it passes on first; none for what is no switch."""
        inputs = self.inputs(node_id)
        if not {"on_true", "on_false", "switch"} <= inputs.keys():
            return []
        spot = self.source((node_id, "switch"), bool)
        on = spot is not None and self.inputs(spot[0])[spot[1]]
        return ["on_true", "on_false"] if on else ["on_false", "on_true"]

    def _used(self) -> list[str]:
        order: list[str] = []
        seen: set[str] = set()
        todo = [(node_id, False) for node_id in reversed(self._outputs())]
        while todo:
            node_id, leaving = todo.pop()
            if leaving:
                order.append(node_id)
            elif node_id not in seen:
                seen.add(node_id)
                todo.append((node_id, True))
                todo += [(giver, False) for _, giver in reversed(list(self.links(node_id)))]
        return order

    def _outputs(self) -> list[str]:
        """The nodes that ComfyUI runs the rest for. Where nothing is known of a class: those that give nobody anything, and of these such as are called
        after what outputs do, if there are any."""
        fed = {giver for node_id in self.workflow for _, giver in self.links(node_id)}
        sure, likely, ends = list[str](), list[str](), list[str]()
        for node_id in self.workflow:
            info = self.info(node_id)
            if info is not None:
                sure += [node_id] if info.output_node else []
            elif node_id not in fed:
                (likely if _SAVES.search(self.class_of(node_id)) else ends).append(node_id)
        return sure + likely or ends or list(self.workflow)

    def title(self, node_id: str) -> str:
        """The title that a person gave the node, fit to be shown; "" where it has that of its class."""
        meta = self.workflow[node_id].get("_meta")
        given = meta.get("title") if isinstance(meta, dict) else None
        if not isinstance(given, str):
            return ""
        title = " ".join(printable(given[: 4 * MAX_TITLE]).split())[:MAX_TITLE]
        info, class_type = self.info(node_id), self.class_of(node_id)
        if info is not None and info.title:
            usual = _bare(title) in (_bare(info.title), _bare(class_type))
        else:
            usual = _resembles(title, class_type)
        return "" if usual else title

    def source(self, spot: Spot, kinds: type | tuple[type, ...]) -> Spot | None:
        """Where the value of an input stands: there, or in the node of values that it comes from. None if it is computed."""
        node_id, name = spot
        for _ in range(MAX_HOPS):
            value = self.inputs(node_id).get(name)
            giver = self.giver(value)
            if giver is None:
                return (node_id, name) if _is(value, kinds) else None
            held = [each for each, inside in self.inputs(giver).items() if _is(inside, kinds)]
            links = [each for each, _ in self.links(giver)]
            named = [each for each in held if each.lower() in VALUES]
            if named and not links:
                node_id, name = giver, named[0]
            elif (
                len(links) == 1
                and not held
                and (links[0].lower() in VALUES or "reroute" in self.class_of(giver).lower())
            ):
                node_id, name = giver, links[0]
            else:
                return None
        return None


def _is(value: object, kinds: type | tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return kinds is bool
    return isinstance(value, kinds)


def _bare(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _resembles(title: str, class_type: str) -> bool:
    """Whether this may be the name that the class has for people: "Load Checkpoint" for CheckpointLoaderSimple, "CLIP Text Encode (Prompt)"."""
    if _bare(title).startswith(_bare(class_type)):
        return True
    words = [word.lower() for word in _WORDS.findall(class_type)]
    return all(any(word.startswith(each[:4]) for word in words) for each in title.lower().split())
