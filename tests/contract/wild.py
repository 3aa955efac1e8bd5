"""Workflows at random out of a ComfyUI's own /object_info: right ones, and ones with a mistake or two. Every one is reproducible from its seed."""

from __future__ import annotations

import random
from typing import Any

Graph = dict[str, Any]
Info = dict[str, Any]

DEPTH = 5
"""Nodes between an output and the last that still gets its inputs linked; beyond it a literal stands where a link should, which ComfyUI
takes (it does not look at the type of a literal)."""

ODD: list[Any] = [None, "", "x", "12", " 7 ", "1_0", -1, 0, 3.7, True, 10**30, -(10**9), "é\u200f", {}, {"a": 1}, {"__value__": 3}, {"__value__": ["a"]}]  # fmt: skip


class Wild:
    """Makes graphs out of `info`, an answer of /object_info, by the dice of `seed`."""

    def __init__(self, info: Info, seed: int) -> None:
        self.info = info
        self.dice = random.Random(seed)
        self.names = sorted(info)
        self.ends = [name for name in self.names if info[name]["output_node"]]
        self.givers: dict[str, list[tuple[str, int]]] = {}
        for name in self.names:
            for slot, kind in enumerate(info[name]["output"]):
                if isinstance(kind, str):
                    self.givers.setdefault(kind, []).append((name, slot))

    def graph(self) -> Graph:
        """One or two outputs with what they need; in two of three graphs something is wrong on purpose."""
        graph: Graph = {}
        for _ in range(self.dice.choice([1, 1, 1, 2])):
            self._node(graph, self.dice.choice(self.ends), 0)
        for _ in range(self.dice.choice([0, 1, 2])):
            self._spoil(graph)
        return graph

    def odd(self) -> Graph:
        """A class of its own choice, all literals, right before an output; one of its inputs has an odd value. Nearly right, so much of it
        is taken."""
        while True:
            name = self.dice.choice(self.names)
            graph: Graph = {}
            node = graph[self._node(graph, name, DEPTH)]
            takers = self._takers(name)
            if name not in self.ends and not takers:
                continue
            if name not in self.ends:
                end, key, slot = self.dice.choice(takers)
                graph[self._node(graph, end, DEPTH)]["inputs"][key] = ["1", slot]
            if node["inputs"]:
                node["inputs"][self.dice.choice(sorted(node["inputs"]))] = self.dice.choice(ODD)
            return graph

    def _takers(self, name: str) -> list[tuple[str, str, int]]:
        """(output class, its input, our output) that go together."""
        return [
            (end, key, slot)
            for slot, kind in enumerate(self.info[name]["output"])
            if isinstance(kind, str)
            for end in self.ends
            for section in ("required", "optional")
            for key, spec in self.info[end]["input"].get(section, {}).items()
            if isinstance(spec[0], str) and kind in spec[0].split(",")
        ]

    def _node(self, graph: Graph, name: str, depth: int) -> str:
        node_id = str(len(graph) + 1)
        inputs: dict[str, Any] = {}
        graph[node_id] = {"class_type": name, "inputs": inputs, "_meta": {"title": name}}
        sections = self.info[name]["input"]
        for section in ("required", "optional"):
            for key, spec in sections.get(section, {}).items():
                if section == "required" or self.dice.random() < 0.3:
                    inputs[key] = self._value(graph, spec, depth)
        return node_id

    def _value(self, graph: Graph, spec: list[Any], depth: int) -> Any:
        kind = spec[0]
        options = spec[1] if len(spec) > 1 else {}
        choices = kind if isinstance(kind, list) else options.get("options") if kind == "COMBO" else None
        if choices:
            return self.dice.choice(choices)
        if isinstance(kind, str) and kind not in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"):
            givers = [giver for each in kind.split(",") for giver in self.givers.get(each, [])]
            if givers and depth < DEPTH and len(graph) < 60:
                name, slot = self.dice.choice(givers)
                there = [key for key, node in graph.items() if node["class_type"] == name and int(key) > 1]
                source = (
                    self.dice.choice(there)
                    if there and self.dice.random() < 0.3
                    else self._node(graph, name, depth + 1)
                )
                return [source, slot]
            if "options" in options and options["options"] and isinstance(options["options"][0], dict):
                return options["options"][0]["key"]
        return options.get("default", {"INT": 1, "FLOAT": 1.0, "BOOLEAN": True}.get(str(kind), "x"))

    def _spoil(self, graph: Graph) -> None:
        """One mistake, or one oddity that may turn out to be none."""
        node_id = self.dice.choice(list(graph))
        node = graph[node_id]
        inputs = node["inputs"]
        key = self.dice.choice(sorted(inputs)) if inputs else "nothing"
        links = [(each, name) for each, one in graph.items() for name, value in one["inputs"].items() if isinstance(value, list) and len(value) == 2]  # fmt: skip
        match self.dice.choice(
            ["class", "missing", "odd", "odd", "list", "slot", "nobody", "cycle", "swap", "extra", "end"]
        ):
            case "class":
                node["class_type"] = self.dice.choice([node["class_type"] + "x", "NoSuchNode"])
            case "missing":
                inputs.pop(key, None)
            case "odd":
                inputs[key] = self.dice.choice(ODD)
            case "list":
                inputs[key] = self.dice.choice(
                    [[], [node_id], [node_id, 0, 0], [1, 0], [None, None], [[], 0]]
                )
            case "extra":
                inputs["no_such_input"] = self.dice.choice([1, ["999", 0]])
            case "end":
                self._node(graph, self.dice.choice(self.ends), DEPTH)
            case "slot" if links:
                where, name = self.dice.choice(links)
                slot = self.dice.choice([99, -1, -2, -99, "0", 0.0, None, True])
                graph[where]["inputs"][name] = [graph[where]["inputs"][name][0], slot]
            case "nobody" if links:
                where, name = self.dice.choice(links)
                graph[where]["inputs"][name] = ["999", 0]
            case "cycle" if links:
                where, name = self.dice.choice(links)
                graph[where]["inputs"][name] = [self.dice.choice(list(graph)), 0]
            case "swap" if links:
                where, name = self.dice.choice(links)
                graph[where]["inputs"][name] = [self.dice.choice(list(graph)), self.dice.choice([0, 1])]
