"""Values for a workflow's parameters: judged, the seeds drawn, and put into the graph. Pure but for the number that the caller draws.

And the way back: what a graph was made from. What is refused names the parameter and, where there is one, what may have been meant. A picture's value is not judged here: what a caller may name
as a picture is the API's business, and comes as the value that the node is to get.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from comfytunnel.errors import UsageError
from comfytunnel.printable import printable
from comfytunnel.wirejobs import GeneratedRequest
from comfytunnel.wireworkflows import Parameter, Target, Workflow
from comfytunnel.workflow.close import close_matches
from comfytunnel.workflow.parameters import MAX_TEXT, MAX_WHOLE

DRAWN_MOST = 2**32 - 1
"""Seeds are drawn up to it, as many nodes take no larger ones."""

Draw = Callable[[int, int], int]
"""A random whole number from the first to the second, both included."""


@dataclass(frozen=True, slots=True)
class Applied:
    """`workflow`: the graph with the values in it; the one that was given stays as it is. `params`: what was asked for, and the seeds."""

    workflow: dict[str, Any]
    params: dict[str, Any]


def apply_values(
    workflow: Mapping[str, Any], parameters: Iterable[Parameter], values: Mapping[str, Any], draw: Draw
) -> Applied:
    """Put `values` into the graph. None, and what is left out, stays as the workflow has it; a seed is drawn. Raises UsageError (`details.path`)."""
    there = {parameter.name: parameter for parameter in parameters}
    for name in values:
        named(there, name)
    params: dict[str, Any] = {}
    for name, parameter in there.items():
        value = values.get(name)
        if value is not None:
            params[name] = checked(parameter, value)
        elif parameter.kind == "seed":
            low = max(0, int(parameter.min or 0))
            high = MAX_WHOLE if parameter.max is None else int(parameter.max)
            params[name] = draw(low, max(low, min(high, DRAWN_MOST)))
    return Applied(with_values(workflow, [(there[name], value) for name, value in params.items()]), params)


def made_from(kept: Workflow, graph: Mapping[str, Any], asked: Collection[str]) -> GeneratedRequest:
    """What `graph` was made from, when it began as that workflow and its values may have been changed in any way since. Its `params` are the values in it of the
    parameters that were `asked` for, of seeds, and of all that differ from the workflow's."""
    params: dict[str, Any] = {}
    again = []
    for parameter in kept.parameters:
        first, *others = (_at(graph, target) for target in parameter.targets)
        value = first["info"].get("id") if _is_file(first) else first
        if any(each != first for each in others) or not _is_plain(value):
            continue  # no one value says it
        if parameter.name in asked or parameter.kind == "seed" or value != parameter.default:
            params[parameter.name] = value
            if _may_be_asked(parameter, first):
                again.append((parameter, first))
    changed = with_values(kept.workflow or {}, again) != graph
    return GeneratedRequest(workflow=kept.name, params=params, changed=changed)


def _at(graph: Mapping[str, Any], target: Target) -> Any:
    return graph[target.node_id].get("inputs", {}).get(target.input)


def _is_file(value: Any) -> bool:
    """Whether it means an uploaded file, as select.py and the API write that."""
    return isinstance(value, dict) and isinstance(value.get("info"), dict)


def _is_plain(value: Any) -> bool:
    """Whether it can be told of a parameter; a link, or a number that a browser would not read exactly, cannot."""
    if isinstance(value, int | float):
        return -MAX_WHOLE <= value <= MAX_WHOLE
    return isinstance(value, str) and len(value) <= MAX_TEXT


def _may_be_asked(parameter: Parameter, value: Any) -> bool:
    """Whether POST /api/generate would put it there: a picture that only ComfyUI has it takes for the workflow's own alone."""
    if parameter.kind == "image":
        return _is_file(value) or value == parameter.default
    try:
        checked(parameter, value)
    except UsageError:
        return False
    return True


def with_values(workflow: Mapping[str, Any], values: Iterable[tuple[Parameter, Any]]) -> dict[str, Any]:
    """The graph with a value at each target of these parameters."""
    graph = dict(workflow)
    for parameter, value in values:
        for target in parameter.targets:
            node = graph[target.node_id]
            graph[target.node_id] = {**node, "inputs": {**node.get("inputs", {}), target.input: value}}
    return graph


def named(parameters: Mapping[str, Parameter], name: str, path: str = "$.params") -> Parameter:
    """The parameter of that name. Raises UsageError with close matches."""
    found = parameters.get(name)
    if found is None:
        close = close_matches(name, parameters)
        known = ", ".join(list(parameters)[:30]) or "none"
        raise _wrong(
            f"The workflow has no parameter {_shown(name)}.",
            f"{path}.{name}"[:200],
            f"Did you mean {close[0]!r}?" if close else f"It has {known}.",
        )
    return found


def checked(parameter: Parameter, value: Any) -> Any:
    """The value as it goes into the graph. Raises UsageError."""
    match parameter.kind:
        case "text":
            if not isinstance(value, str) or len(value) > MAX_TEXT:
                raise _unfit(parameter, value, f"a text of at most {MAX_TEXT} characters")
        case "boolean":
            if not isinstance(value, bool):
                raise _unfit(parameter, value, "true or false")
        case "choice":
            _check_choice(parameter, value)
        case "integer" | "seed" | "number":
            return _number(parameter, value)
    return value


def _check_choice(parameter: Parameter, value: Any) -> None:
    if parameter.choices is None:
        if not isinstance(value, str | int | float) or len(str(value)) > MAX_TEXT:
            raise _unfit(parameter, value, "one of its choices")
        return
    if not any(type(value) is type(each) and value == each for each in parameter.choices):
        close = close_matches(value, map(str, parameter.choices)) if isinstance(value, str) else ()
        some = ", ".join(_shown(each) for each in parameter.choices[:20])
        raise _wrong(
            f"The parameter {parameter.name} is {_shown(value)}, which is none of its choices.",
            f"$.params.{parameter.name}",
            f"Did you mean {_shown(close[0])}?" if close else f"Choose one of {some}.",
        )


def _number(parameter: Parameter, value: Any) -> int | float:
    whole = parameter.kind != "number"
    what = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _unfit(parameter, value, what)
    if isinstance(value, float) and (not math.isfinite(value) or (whole and value != int(value))):
        raise _unfit(parameter, value, what)
    number: int | float = int(value) if whole else value
    least = 0 if parameter.kind == "seed" else -MAX_WHOLE
    low = least if parameter.min is None else parameter.min
    high = MAX_WHOLE if parameter.max is None else parameter.max
    if not low <= number <= high:
        raise _unfit(parameter, value, f"{what} from {_figure(low)} to {_figure(high)}")
    return number


def _figure(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def _unfit(parameter: Parameter, value: Any, wanted: str) -> UsageError:
    return _wrong(
        f"The parameter {parameter.name} is {_shown(value)}, and must be {wanted}.",
        f"$.params.{parameter.name}",
        "Leave it out to have it as the workflow does."
        if parameter.kind != "seed"
        else "Leave it out to have one drawn.",
    )


def _wrong(message: str, path: str, hint: str) -> UsageError:
    return UsageError(message, hint=hint, details={"path": path})


def _shown(value: Any) -> str:
    """Of anybody's value: printable and short."""
    text = (
        repr(value)
        if isinstance(value, str | int | float | bool) or value is None
        else f"a {type(value).__name__}"
    )
    return printable(text if len(text) <= 80 else f"{text[:80]}...")
