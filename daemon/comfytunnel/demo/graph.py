"""A workflow in API format, judged as ComfyUI judges it: what POST /prompt refuses, in which order nodes run, cache keys.

Pure but for the files that a node's own check looks at. The shapes of the errors were measured on 0.33. Input that is not
shaped like a workflow raises whatever Python raises: on the real server, too, that becomes a 500.
"""

from __future__ import annotations

import hashlib
import json
import traceback
from typing import Any

from comfytunnel.demo.folders import Folders
from comfytunnel.demo.nodes import NODES, REPLACED

Graph = dict[str, Any]
Problem = dict[str, Any]


class Verdict:
    """What validation found: `error` is None when at least one output can run; `outputs` are the ones that can."""

    def __init__(self, error: Problem | None, outputs: list[str], node_errors: dict[str, Any]) -> None:
        self.error = error
        self.outputs = outputs
        self.node_errors = node_errors


def is_link(value: Any) -> bool:
    """Whether an input's value is [node id, output number]."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and type(value[1]) is int


def validate(prompt: Graph, folders: Folders) -> Verdict:
    """Judge a whole workflow. Converts literal inputs to their types in place, as the real one does."""
    outputs = []
    for node_id in prompt:
        node = prompt[node_id]
        kind = node.get("class_type")
        if kind in REPLACED:
            kind = node["class_type"] = REPLACED[kind]
        if "class_type" not in node or kind not in NODES:
            return Verdict(_missing_type(node_id, node), [], {})
        if NODES[kind].output_node:
            outputs.append(node_id)
    if not outputs:
        return Verdict(_problem("prompt_no_outputs", "Prompt has no outputs", ""), [], {})

    checker = _Checker(prompt, folders)
    good: list[str] = []
    complaints: list[Problem] = []
    node_errors: dict[str, Any] = {}
    for output in outputs:
        try:
            problems, valid = checker.check(output, [])
        except Exception as error:  # noqa: BLE001 (a broken graph is reported with its traceback, as the real one does)
            problems, valid = (
                [_crash("exception_during_validation", "Exception when validating node", error)],
                False,
            )
            checker.done[output] = (problems, valid)
        if valid:
            good.append(output)
            continue
        complaints += problems
        for node_id, (reasons, fine) in checker.done.items():
            if not fine and reasons:
                entry = {
                    "errors": reasons,
                    "dependent_outputs": [],
                    "class_type": prompt[node_id]["class_type"],
                }
                node_errors.setdefault(node_id, entry)["dependent_outputs"].append(output)
    if good:
        return Verdict(None, good, node_errors)
    details = "\n".join(f"{problem['message']}: {problem['details']}" for problem in complaints)
    failed = _problem("prompt_outputs_failed_validation", "Prompt outputs failed validation", details)
    return Verdict(failed, [], node_errors)


class _Checker:
    """Checks nodes from an output upwards, each once; `done` holds (problems, valid) of each node that was looked at."""

    def __init__(self, prompt: Graph, folders: Folders) -> None:
        self.prompt = prompt
        self.folders = folders
        self.done: dict[str, tuple[list[Problem], bool]] = {}

    def check(self, node_id: str, path: list[str]) -> tuple[list[Problem], bool]:
        if node_id in self.done:
            return self.done[node_id]
        if node_id in path:
            return self._cycle([*path[path.index(node_id) :], node_id])
        node = self.prompt[node_id]
        kind = NODES[node["class_type"]]
        inputs = node["inputs"]
        problems: list[Problem] = []
        valid = True
        for name, spec in kind.required(self.folders).items():
            if name not in inputs:
                problems.append(
                    _problem("required_input_missing", "Required input is missing", name, input_name=name)
                )
            elif isinstance(inputs[name], list):
                valid = self._link(name, spec, inputs[name], [*path, node_id], problems) and valid
            elif problem := _literal(name, spec, inputs, compare=kind.check is None):
                problems.append(problem)
        if kind.check and not problems and (complaint := kind.check(self.folders, inputs)):
            name, what = complaint
            text = "Custom validation failed for node"
            problems.append(_problem("custom_validation_failed", text, f"{name} - {what}", input_name=name))
        earlier, fine = self.done.get(node_id, ([], True))  # a cycle may have condemned this node already
        self.done[node_id] = (
            earlier + [p for p in problems if p not in earlier],
            fine and valid and not problems,
        )
        return self.done[node_id]

    def _link(self, name: str, spec: Any, value: list[Any], path: list[str], problems: list[Problem]) -> bool:
        """Follow one link; False when something upstream is wrong (which is reported there)."""
        config = _config(spec)
        if len(value) != 2:
            text = "Bad linked input"
            extra = {"input_name": name, "input_config": config, "received_value": value}
            problems.append(_problem("bad_linked_input", text, name, **extra))
            return True
        received = NODES[self.prompt[value[0]]["class_type"]].returns[value[1]]
        if received != spec[0]:
            details = f"{name}, received_type({received}) mismatch input_type({spec[0]})"
            text = "Return type mismatch between linked nodes"
            extra = {
                "input_name": name,
                "input_config": config,
                "received_type": received,
                "linked_node": value,
            }
            problems.append(_problem("return_type_mismatch", text, details, **extra))
            return True
        try:
            return self.check(value[0], path)[1]
        except Exception as error:  # noqa: BLE001 (as in validate)
            text = "Exception when validating inner node"
            problem = _crash(
                "exception_during_inner_validation", text, error, input_name=name, linked_node=value
            )
            self.done[value[0]] = ([problem], False)
            return False

    def _cycle(self, path: list[str]) -> tuple[list[Problem], bool]:
        shown = " -> ".join(f"{node_id} ({self.prompt[node_id]['class_type']})" for node_id in path)
        members = list(dict.fromkeys(path))
        for node_id in members:
            extra = {"node_id": node_id, "cycle_nodes": members}
            self.done[node_id] = (
                [_problem("dependency_cycle", "Dependency cycle detected", shown, **extra)],
                False,
            )
        return self.done[path[0]]


def _literal(name: str, spec: Any, inputs: dict[str, Any], *, compare: bool) -> Problem | None:
    """Convert one literal input in place and compare it with its limits or choices."""
    kind, config = spec[0], _config(spec)
    options = config[1]
    value = inputs[name]
    try:
        if isinstance(kind, str) and kind in ("INT", "FLOAT", "STRING", "BOOLEAN"):
            value = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}[kind](value)
            inputs[name] = value
    except (TypeError, ValueError, OverflowError) as error:
        text = f"Failed to convert an input value to a {kind} value"
        extra = {
            "input_name": name,
            "input_config": config,
            "received_value": value,
            "exception_message": str(error),
        }
        return _problem("invalid_input_type", text, f"{name}, {value}, {error}", **extra)
    extra = {"input_name": name, "input_config": config, "received_value": value}
    if "min" in options and value < options["min"]:
        text = f"Value {value} smaller than min of {options['min']}"
        return _problem("value_smaller_than_min", text, name, **extra)
    if "max" in options and value > options["max"]:
        return _problem(
            "value_bigger_than_max", f"Value {value} bigger than max of {options['max']}", name, **extra
        )
    if compare and isinstance(kind, list) and value not in kind:
        return _problem("value_not_in_list", "Value not in list", f"{name}: {value!r} not in {kind}", **extra)
    return None


def _config(spec: Any) -> tuple[Any, dict[str, Any]]:
    return spec[0], spec[1] if len(spec) > 1 else {}


def _problem(kind: str, message: str, details: str, **extra: Any) -> Problem:
    return {"type": kind, "message": message, "details": details, "extra_info": extra}


def _crash(kind: str, message: str, error: Exception, **extra: Any) -> Problem:
    trace = traceback.format_tb(error.__traceback__)
    return _problem(kind, message, str(error), **extra, exception_type=type(error).__name__, traceback=trace)


def _missing_type(node_id: str, node: dict[str, Any]) -> Problem:
    kind = node.get("class_type")
    title = node.get("_meta", {}).get("title", kind)
    if kind is None:
        message = f"Node '{title or f'ID #{node_id}'}' has no class_type."
    else:
        message = f"Node '{title}' not found."
    extra = {"node_id": node_id, "class_type": kind, "node_title": title}
    return _problem("missing_node_type", message, f"Node ID '#{node_id}'", **extra)


def signatures(prompt: Graph, folders: Folders) -> dict[str, str]:
    """Each node's cache key: its type, its inputs and everything upstream; node ids don't count."""
    known: dict[str, str] = {}

    def sign(node_id: str) -> str:
        if node_id not in known:
            node = prompt[node_id]
            kind, inputs = NODES[node["class_type"]], node["inputs"]
            content = kind.changed(folders, inputs) if kind.changed else ""
            signed = {
                name: ["link", sign(value[0]), value[1]] if is_link(value) else value
                for name, value in inputs.items()
            }
            whole = json.dumps([node["class_type"], content, signed], sort_keys=True)
            known[node_id] = hashlib.sha256(whole.encode()).hexdigest()
        return known[node_id]

    for node_id in prompt:
        try:
            sign(node_id)
        except (KeyError, OSError, RecursionError, TypeError):
            known[node_id] = ""  # not valid, so it is not part of what runs; never cached
    return known


class Order:
    """The nodes that still have to run for some outputs; outputs and what feeds them first, as the real one picks."""

    def __init__(self, prompt: Graph, outputs: list[str], cached: set[str]) -> None:
        self._prompt = prompt
        self._waits_for: dict[str, set[str]] = {}
        todo = list(outputs)
        while todo:
            node_id = todo.pop(0)
            if node_id in self._waits_for:
                continue
            upstream = {value[0] for value in prompt[node_id]["inputs"].values() if is_link(value)} - cached
            self._waits_for[node_id] = upstream
            todo += sorted(upstream)

    def take(self) -> str | None:
        """The next node, or None when nothing is left."""
        ready = [node_id for node_id, upstream in self._waits_for.items() if not upstream]
        return min(ready, key=lambda node_id: self._distance(node_id, 3)) if ready else None

    def finish(self, node_id: str) -> None:
        del self._waits_for[node_id]
        for upstream in self._waits_for.values():
            upstream.discard(node_id)

    def _distance(self, node_id: str, left: int) -> int:
        """Steps to the nearest output node, at most `left`."""
        if NODES[self._prompt[node_id]["class_type"]].output_node or left == 0:
            return 0
        feeds = [other for other, upstream in self._waits_for.items() if node_id in upstream]
        return 1 + min((self._distance(other, left - 1) for other in feeds), default=left - 1)
