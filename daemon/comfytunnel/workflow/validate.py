"""Would ComfyUI take this workflow? Judged as its own `validate_prompt` does (read and compared, 0.33), from what /object_info says. Pure.

Never stricter than ComfyUI: it takes a prompt when one of its output nodes and all that feeds it is right, so only what is surely wrong with
every one of them refuses a workflow. What may be wrong, or concerns a part that ComfyUI would leave out, is told and refuses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from comfytunnel.printable import printable
from comfytunnel.workflow.close import close_matches
from comfytunnel.workflow.nodeinfo import InputInfo, NodeInfo

MAX_CYCLES = 20
"""Cycles that are written out; further ones are found and count."""
MAX_HINTED = 8
"""Problems for which close matches are looked for: some 20 ms each among thousands of names."""
TEXT = 300
"""Characters of a value that are shown."""

CASTS: Mapping[str, Callable[[Any], object]] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}

ANY = frozenset({"*", "COMFY_MATCHTYPE_V3"})
"""Types that go with every other."""


@dataclass(frozen=True, slots=True)
class Problem:
    """`reason` and wording are ComfyUI's where it has them. `node_id` None: it concerns the whole. `surely`: ComfyUI will say so, too.
    `installed`: it depends on what is installed over there (nodes, models), which comes and goes."""

    node_id: str | None
    class_type: str | None
    reason: str
    message: str
    field: str | None = None
    close: tuple[str, ...] = ()
    surely: bool = True
    installed: bool = False

    def __str__(self) -> str:
        text = self.message
        if self.close:
            text += f" Close: {', '.join(repr(name) for name in self.close)}."
        return f"Node {_shown(self.node_id)} ({_shown(self.class_type)}): {text}" if self.node_id else text


@dataclass(frozen=True, slots=True)
class Verdict:
    """`problems`: those of the nodes that some output needs. `skipped`: output nodes that ComfyUI would leave out in silence."""

    refused: bool
    problems: tuple[Problem, ...] = ()
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """The classes of one ComfyUI: `node` gives one by its name, None if there is none of that name. `stale`: it may be another ComfyUI, or
    have been changed, since."""

    node: Callable[[str], NodeInfo | None]
    names: Callable[[], Collection[str]]
    stale: bool = False


def judge(
    workflow: Mapping[str, Any], known: Known, ours: Collection[tuple[str, str]] = frozenset()
) -> Verdict:
    """Judge a workflow that `parse_api_graph` has passed. `ours`: (node id, input) whose value is a file of ours: what ComfyUI will get there
    is not known yet."""
    return _Judge(workflow, known, ours).verdict()


class _Judge:
    def __init__(self, workflow: Mapping[str, Any], known: Known, ours: Collection[tuple[str, str]]) -> None:
        self.workflow = workflow
        self.known = known
        self.ours = ours
        self.hints = MAX_HINTED
        self.infos: dict[str, NodeInfo | None] = {}
        self.found: dict[str, list[Problem]] = {}
        """By node; every node that was looked at is in it."""
        self.needs: dict[str, list[str]] = {}
        self.cycles = 0

    def verdict(self) -> Verdict:
        missing = [self._missing(node_id) for node_id in self.workflow if self._info(node_id) is None]
        infos = {node_id: self._info(node_id) for node_id in self.workflow}
        outputs = [node_id for node_id, info in infos.items() if info is not None and info.output_node]
        unknown = any(info is None or info.opaque for info in infos.values())
        for node_id in outputs:
            self._walk(node_id)
        bad = self._bad()
        problems = [*missing, *(problem for each in self.found.values() for problem in each)]
        if not outputs and not unknown:
            text = "Prompt has no outputs: none of its nodes saves or shows anything."
            problems.append(Problem(None, None, "prompt_no_outputs", text))
        hopeless = not unknown and all(node_id in bad for node_id in outputs)
        refused = hopeless or any(problem.surely for problem in missing)
        return Verdict(
            refused,
            tuple(problems),
            () if refused else tuple(node_id for node_id in outputs if node_id in bad),
        )

    def _info(self, node_id: str) -> NodeInfo | None:
        class_type = self.workflow[node_id]["class_type"]
        if class_type not in self.infos:
            self.infos[class_type] = self.known.node(class_type)
        return self.infos[class_type]

    def _missing(self, node_id: str) -> Problem:
        """A class that is not there refuses the whole prompt, whether or not anything needs the node."""
        node = self.workflow[node_id]
        close = self._close(node["class_type"], self.known.names())
        text = f"Node {_shown(node['class_type'])!r} not found. The custom node may not be installed."
        problem = self._problem(node_id, "missing_node_type", text, close=close, installed=True)
        # What resembles nothing that was there may have been installed since; what does is a slip of the pen.
        return replace(problem, surely=not self.known.stale or bool(close))

    # --- who needs whom ---------------------------------------------------------------------------------------------

    def _walk(self, output: str) -> None:
        """Look at a node and all that feeds it. Without recursion: a graph may be thousands of nodes deep."""
        if output in self.found:
            return
        path: list[str] = []
        on_path: dict[str, int] = {}
        todo: list[tuple[str, bool]] = [(output, False)]
        while todo:
            node_id, leaving = todo.pop()
            if leaving:
                path.pop()
                del on_path[node_id]
            elif node_id in on_path:
                self._cycle(path[on_path[node_id] :])
            elif node_id not in self.found:
                self._look(node_id)
                on_path[node_id] = len(path)
                path.append(node_id)
                todo.append((node_id, True))
                todo += [(other, False) for other in self.needs[node_id]]

    def _cycle(self, members: list[str]) -> None:
        self.cycles += 1
        shown = members if self.cycles <= MAX_CYCLES else members[:1]
        names = [f"{_shown(each)} ({_shown(self.workflow[each]['class_type'])})" for each in shown[:20]]
        text = f"Dependency cycle detected: {' -> '.join([*names, names[0]])}."
        for node_id in shown:
            if not any(problem.reason == "dependency_cycle" for problem in self.found[node_id]):
                self.found[node_id].append(self._problem(node_id, "dependency_cycle", text))

    def _bad(self) -> set[str]:
        """The nodes that are surely wrong, and those that need them."""
        needed_by: dict[str, list[str]] = {}
        for node_id, others in self.needs.items():
            for other in others:
                needed_by.setdefault(other, []).append(node_id)
        bad: set[str] = set()
        todo = [node_id for node_id, found in self.found.items() if any(each.surely for each in found)]
        while todo:
            node_id = todo.pop()
            if node_id not in bad:
                bad.add(node_id)
                todo += needed_by.get(node_id, [])
        return bad

    # --- one node ---------------------------------------------------------------------------------------------------

    def _look(self, node_id: str) -> None:
        problems = self.found[node_id] = []
        needs = self.needs[node_id] = []
        info = self._info(node_id)
        if info is None or info.opaque:
            return
        inputs = self.workflow[node_id].get("inputs")
        if inputs is None:
            problems.append(self._problem(node_id, "required_input_missing", "It has no `inputs`."))
            return
        for name, spec in info.inputs.items():
            problem: Problem | None = None
            if name not in inputs:
                if spec.required:
                    text = f"Required input is missing: {_shown(name)}."
                    problem = self._problem(node_id, "required_input_missing", text, field=name)
            elif spec.dynamic or (node_id, name) in self.ours:
                continue
            elif isinstance(inputs[name], list):
                problem = self._link(node_id, name, spec, inputs[name], info, needs)
            else:
                problem = self._value(node_id, name, spec, inputs[name], info)
            if problem is not None:
                problems.append(problem)

    def _link(
        self, node_id: str, name: str, spec: InputInfo, value: list[Any], info: NodeInfo, needs: list[str]
    ) -> Problem | None:
        if len(value) != 2:
            text = f"Bad linked input, must be a length-2 list of [node_id, slot_index]: {_shown(name)}."
            return self._problem(node_id, "bad_linked_input", text, field=name)
        source, slot = value
        if not isinstance(source, str) or source not in self.workflow:
            text = f"Takes {_shown(name)!r} from node {_shown(source)!r}, which is not there."
            return self._problem(node_id, "bad_linked_input", text, field=name)
        giver = self._info(source)
        if giver is None or giver.opaque:
            return None  # told there, or of nobody's knowledge
        if giver.outputs is not None:
            number = len(giver.outputs)
            if not isinstance(slot, int) or not -number <= slot < number:
                text = f"Takes {_shown(name)!r} from output {_shown(slot)} of node {_shown(source)!r}, which has {number}, counted from 0."
                return self._problem(node_id, "bad_linked_input", text, field=name, surely=giver.sure)
            received = giver.outputs[slot]
            if received is not None and not _fits(received, spec):
                wanted = spec.kind or "a choice"
                text = f"Return type mismatch between linked nodes: {_shown(name)}, received_type({_shown(received)}) mismatch input_type({_shown(wanted)})."
                surely = info.sure and giver.sure and spec.kind is not None
                problem = self._problem(node_id, "return_type_mismatch", text, field=name, surely=surely)
                if surely:
                    return problem
                needs.append(source)
                return problem
        needs.append(source)
        return None

    def _value(self, node_id: str, name: str, spec: InputInfo, value: Any, info: NodeInfo) -> Problem | None:
        if isinstance(value, dict) and "__value__" in value:
            value = value["__value__"]
        cast = CASTS.get(spec.kind or "")
        if cast is not None:
            try:
                value = cast(value)
            except (TypeError, ValueError, OverflowError, RecursionError) as error:
                text = f"Failed to convert an input value to a {spec.kind} value: {_shown(name)}, {_shown(value)}, {_shown(error)}."
                return self._problem(node_id, "invalid_input_type", text, field=name)
        if spec.kind in ("INT", "FLOAT"):
            for limit, wrong, reason, word in (
                (spec.low, spec.low is not None and value < spec.low, "value_smaller_than_min", "smaller than min"),
                (spec.high, spec.high is not None and value > spec.high, "value_bigger_than_max", "bigger than max"),
            ):  # fmt: skip
                if wrong:
                    text = f"Value {_shown(value)} {word} of {_shown(limit)}: {_shown(name)}."
                    return self._problem(node_id, reason, text, field=name, surely=info.sure)
        if spec.choices is None:
            return None
        several = spec.multiselect and isinstance(value, list)
        strange = [each for each in (value if several else [value]) if each not in spec.choices]
        if not strange:
            return None
        first = strange[0]
        names = [choice for choice in spec.choices if isinstance(choice, str)]
        close = self._close(first, names) if isinstance(first, str) else ()
        text = f"Value not in list: {_shown(name)}: {_shown(strange[:5])[1:-1]} not in "
        text += _shown(spec.choices) if len(spec.choices) <= 20 else f"(list of length {len(spec.choices)})"
        return self._problem(
            node_id,
            "value_not_in_list",
            f"{text}.",
            field=name,
            close=close,
            surely=info.sure and not self.known.stale,
            installed=True,
        )

    def _close(self, word: str, among: Iterable[str]) -> tuple[str, ...]:
        self.hints -= 1
        if self.hints < 0:
            return ()
        return tuple(_shown(name) for name in close_matches(word, among))

    def _problem(self, node_id: str, reason: str, text: str, **more: Any) -> Problem:
        return Problem(node_id, self.workflow[node_id]["class_type"], reason, text, **more)


def _fits(received: str, spec: InputInfo) -> bool:
    """ComfyUI's `validate_node_input`: unions overlap, "*" goes with all."""
    if spec.kind is None:
        return False  # choices in the old form; their owner may compare them in its own way
    ours, theirs = ({each.strip() for each in kind.split(",")} for kind in (received, spec.kind))
    return received == spec.kind or bool(ours & theirs) or bool(ANY & (ours | theirs))


def _shown(value: object) -> str:
    """Of anybody's value: printable, on one line, not too long."""
    try:
        text = str(value)[: 2 * TEXT]
    except (RecursionError, ValueError):  # nested too deeply, or a number of thousands of digits
        text = f"({type(value).__name__})"
    return printable(text if len(text) <= TEXT else f"{text[:TEXT]}...")
