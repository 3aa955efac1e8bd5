"""Which input of a workflow somebody means by NODE.INPUT, and what value by the text that they typed. Pure.

NODE is an id, else a title, else a class; upper and lower case count only where that helps. What fits nothing, or several, is never guessed: the
error names what was probably meant. A value takes the type of the one that stands there; `:=` instead of `=` says it in JSON, and only so
is a link replaced or an input added that the workflow has not got.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from comfytunnel.errors import UsageError
from comfytunnel.printable import printable
from comfytunnel.workflow.close import close_matches
from comfytunnel.workflow.graph import is_link

MAX_LISTED = 12
"""Nodes or inputs that an error lists."""
FILE_INPUTS = ("image", "mask", "video", "audio", "file", "model_file")
"""What ComfyUI's own loaders call the input that names their file (read, 0.33)."""

_WHOLE = re.compile(r"[+-]?\d{1,30}")
_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """An input of a node that is in the workflow; the input need not be there yet."""

    node_id: str
    input: str

    def __str__(self) -> str:
        return f"{self.node_id}.{self.input}"


@dataclass(frozen=True, slots=True)
class Assignment:
    """One NODE.INPUT=VALUE as it was typed. `exact`: with `:=`, so the value is JSON and may replace anything."""

    where: str
    text: str
    exact: bool = False


def read_assignment(option: str, text: str, form: str) -> Assignment:
    """Split what an option was given. UsageError says how it is written (`form`)."""
    at = -1
    while (at := text.find("=", at + 1)) > 0:
        where, exact = text[:at], text[at - 1] == ":"
        where = where[:-1] if exact else where
        if "." in where.strip("."):
            return Assignment(where, text[at + 1 :], exact)
    raise UsageError(
        f"{option} {text!r} does not fit.", hint=f"Write it as {option} {form}, for example 3.steps=20."
    )


def find(workflow: Mapping[str, Any], where: str, *, new: bool = False, assigns: bool = True) -> Target:
    """Return the one input that `where` means; with `new` it need not be in the node yet. UsageError says what else may have been meant, and, where NODE.INPUT:=VALUE
    is understood (`assigns`), how to add it."""
    splits = list(_splits(where))
    for same in (str.__eq__, _same_but_for_case):
        named: dict[str, list[str]] = {}  # by node: the input's name, as typed
        for node, name in splits:
            for node_id in _nodes(workflow, node, same):
                named.setdefault(node_id, []).append(name)
        there = [
            Target(node_id, own)
            for node_id, names in named.items()
            for name in names
            for own in _inputs(workflow[node_id])
            if same(own, name)
        ]
        if len(there) == 1:
            return there[0]
        if there:
            raise _ambiguous(workflow, where, [target.node_id for target in there])
        if new and len(named) > 1:
            raise _ambiguous(workflow, where, list(named))
        if new and named:
            [(node_id, names)] = named.items()
            return Target(node_id, names[0])
    raise _nothing(workflow, where, splits, assigns)


def find_file(workflow: Mapping[str, Any], where: str) -> Target:
    """Like `find`, but a NODE alone will do if it is one that loads a file."""
    for same in (str.__eq__, _same_but_for_case):
        nodes = _nodes(workflow, where, same)
        if len(nodes) > 1:
            raise _ambiguous(workflow, where, nodes)
        for node_id in nodes:
            inputs = _inputs(workflow[node_id])
            found = [name for name in FILE_INPUTS if isinstance(inputs.get(name), str | dict)]
            if len(found) == 1:
                return Target(node_id, found[0])
    return find(workflow, where, assigns=False)


def read_value(workflow: Mapping[str, Any], target: Target, given: Assignment) -> Any:
    """Return the value that `given` means for this input. UsageError where the text is no such value, or a link stands there."""
    if given.exact:
        return _json(target, given.text)
    present = _inputs(workflow[target.node_id]).get(target.input)
    if isinstance(present, list) and is_link(present):
        source = workflow.get(present[0])
        values = [name for name, value in _inputs(source).items() if not is_link(value)]
        instead = f"Set that: {present[0]}.{values[0]}=... " if len(values) == 1 else ""
        raise UsageError(
            f"{_shown(target)} takes its value from node {_node(workflow, present[0])}, output {present[1]}.",
            hint=f"{instead}To cut that link, write {_shown(target)}:=VALUE with the value in JSON.",
        )
    return _typed(target, present, given.text)


def put(workflow: dict[str, Any], target: Target, value: Any) -> None:
    """Set the input, in place."""
    workflow[target.node_id].setdefault("inputs", {})[target.input] = value


def title_of(node: object) -> str | None:
    meta = node.get("_meta") if isinstance(node, dict) else None
    title = meta.get("title") if isinstance(meta, dict) else None
    return title if isinstance(title, str) and title else None


def name_of(node: Mapping[str, Any]) -> str:
    """The title, or the class where there is none; of hostile length, as all of a workflow."""
    return (title_of(node) or str(node.get("class_type")))[:80]


# --- who is meant ---------------------------------------------------------------------------------------------------------


def _splits(where: str) -> Iterator[tuple[str, str]]:
    """Every way to read NODE.INPUT: a title may hold dots, and so may an input's name (`model.resolution`)."""
    at = -1
    while (at := where.find(".", at + 1)) >= 0:
        if where[:at] and where[at + 1 :]:
            yield where[:at], where[at + 1 :]


def _nodes(workflow: Mapping[str, Any], name: str, same: Callable[[str, str], bool]) -> list[str]:
    """The ids of the nodes that are called so. An id counts more than a title, and that more than a class."""
    if isinstance(workflow.get(name), dict):
        return [name]
    nodes = {node_id: node for node_id, node in workflow.items() if isinstance(node, dict)}
    titled = [node_id for node_id, node in nodes.items() if same(title_of(node) or "", name)]
    return titled or [
        node_id for node_id, node in nodes.items() if same(str(node.get("class_type", "")), name)
    ]


def _inputs(node: object) -> Mapping[str, Any]:
    found = node.get("inputs") if isinstance(node, dict) else None
    return found if isinstance(found, dict) else {}


def _same_but_for_case(one: str, other: str) -> bool:
    return one.casefold() == other.casefold()


def _ambiguous(workflow: Mapping[str, Any], where: str, node_ids: list[str]) -> UsageError:
    listed = ", ".join(_node(workflow, node_id) for node_id in node_ids[:MAX_LISTED])
    more = f" and {len(node_ids) - MAX_LISTED} more" if len(node_ids) > MAX_LISTED else ""
    return UsageError(f"{where!r} fits several nodes: {listed}{more}.", hint="Name the node by its id.")


def _nothing(
    workflow: Mapping[str, Any], where: str, splits: list[tuple[str, str]], assigns: bool
) -> UsageError:
    for node, name in reversed(splits):
        for node_id in _nodes(workflow, node, str.__eq__) or _nodes(workflow, node, _same_but_for_case):
            inputs = _inputs(workflow[node_id])
            near = close_matches(name, inputs)
            has = f"It has {', '.join(list(inputs)[:MAX_LISTED])}." if inputs else "It has none."
            added = f" One that is not in the workflow is added with {node}.{name}:=VALUE, in JSON."
            return UsageError(
                f"Node {_node(workflow, node_id)} has no input {name!r}.",
                hint=_meant(near) + printable(has) + (added if assigns else ""),
            )
    if not splits:
        return UsageError(f"{where!r} names no input.", hint="Write it as NODE.INPUT, for example 3.steps.")
    node = splits[-1][0]
    names = {
        each for node_id, its in workflow.items() for each in (node_id, title_of(its), _class(its)) if each
    }
    listed = ", ".join(_node(workflow, node_id) for node_id in list(workflow)[:MAX_LISTED])
    more = ", ..." if len(workflow) > MAX_LISTED else ""
    return UsageError(
        f"The workflow has no node {node!r}.",
        hint=f"{_meant(close_matches(node, sorted(names)))}It has {listed}{more}.",
    )


def _class(node: object) -> str | None:
    found = node.get("class_type") if isinstance(node, dict) else None
    return found if isinstance(found, str) else None


def _node(workflow: Mapping[str, Any], node_id: str) -> str:
    node = workflow.get(node_id)
    return printable(f"{node_id[:80]} ({name_of(node)})" if isinstance(node, dict) else node_id[:80])


def _meant(near: tuple[str, ...]) -> str:
    return f"Did you mean {' or '.join(repr(printable(name)) for name in near)}? " if near else ""


def _shown(target: Target) -> str:
    return printable(str(target))


# --- what is meant --------------------------------------------------------------------------------------------------------


def _typed(target: Target, present: object, text: str) -> Any:
    match present:
        case bool():
            found = _WORDS.get(text.strip().lower())
            if found is None:
                _unfit(target, text, "true or false")
            return found
        case int() | float():
            return _number(target, text)
        case str():
            return text
    return _json(target, text)


def _number(target: Target, text: str) -> int | float:
    """A whole number stays one, whatever stands there: JSON written by a browser has 8 for 8.0."""
    text = text.strip()
    if _WHOLE.fullmatch(text):
        return int(text)
    try:
        value = float(text)
    except ValueError:
        _unfit(target, text, "a number")
    if value != value or value in (float("inf"), float("-inf")) or "_" in text:
        _unfit(target, text, "a number that JSON has")
    return value


def _json(target: Target, text: str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda name: _unfit(target, name, "JSON"))
    except (ValueError, RecursionError):
        _unfit(target, text, 'JSON (a text stands in double quotes there: "...")')


def _unfit(target: Target, text: str, wanted: str) -> NoReturn:
    raise UsageError(f"{_shown(target)} takes {wanted}, and {text[:80]!r} is none.")
