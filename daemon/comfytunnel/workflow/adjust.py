"""What a person says of a workflow in the TOML beside it: its title, and how its parameters shall be shown, bounded or preset. Pure.

Every mistake is found at once, as in the config; a key that is not known is one. What is said of a parameter goes over what was found in the graph;
a parameter with `target` is a new one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import msgspec

from comfytunnel.decoding import convert
from comfytunnel.errors import ConfigError, Problem, UsageError
from comfytunnel.printable import printable
from comfytunnel.wireworkflows import Parameter, Target
from comfytunnel.words import ParameterKind
from comfytunnel.workflow.close import close_matches
from comfytunnel.workflow.graph import is_link
from comfytunnel.workflow.parameters import LABELS, MAX_PARAMETERS, MAX_WHOLE
from comfytunnel.workflow.select import find
from comfytunnel.workflow.values import checked, with_values

KINDS: tuple[ParameterKind, ...] = get_args(ParameterKind)
KEYS = ("title", "description", "parameters")
FIELDS: Mapping[str, Any] = {
    "label": str, "hidden": bool, "default": Any, "min": int | float, "max": int | float, "step": int | float,
    "choices": list[str | int | float], "multiline": bool, "target": str | list[str], "kind": str,
}  # fmt: skip
FITTING: Mapping[str, tuple[ParameterKind, ...]] = {
    **dict.fromkeys(("min", "max", "step"), ("integer", "number", "seed")), "choices": ("choice",), "multiline": ("text",),
}  # fmt: skip
"""What may be said of some kinds only: of the others it would change nothing."""
MAX_LISTED = 30
"""Parameters that a hint names."""
MAX_TITLE = 200
MAX_DESCRIPTION = 4000

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Adjusted:
    """`workflow`: the graph with the defaults in it that the TOML names."""

    title: str
    description: str
    parameters: list[Parameter]
    workflow: dict[str, Any]


def adjust(
    workflow: dict[str, Any], parameters: list[Parameter], table: Mapping[str, Any], source: str
) -> Adjusted:
    """Raises ConfigError with every mistake; `source` is the file's path."""
    problems = [_unknown(printable(key[:80]), key, KEYS) for key in table if key not in KEYS]
    found = {each.name: each for each in parameters}
    preset: list[tuple[Parameter, Any]] = []
    said = table.get("parameters", {})
    if not isinstance(said, dict):
        problems.append(Problem("parameters", "must be a table.", "Write [parameters.NAME]."))
        said = {}
    for name, fields in said.items():
        path = f"parameters.{name if _NAME.fullmatch(name) else repr(printable(name[:80]))}"
        values = _fields(path, fields, problems)
        if values is None:
            continue
        try:
            made = _parameter(workflow, found, name, values)
            if "default" in values:
                preset.append((made, made.default))
            found[name] = made
        except UsageError as error:
            problems.append(Problem(path, error.message, error.hint))
    if len(found) > 2 * MAX_PARAMETERS:
        problems.append(Problem("parameters", f"are more than {2 * MAX_PARAMETERS}."))
    texts = {}
    for key, most in (("title", MAX_TITLE), ("description", MAX_DESCRIPTION)):
        text = table.get(key, "")
        if not isinstance(text, str) or len(text) > most:
            problems.append(Problem(key, f"must be a text of at most {most} characters."))
        else:
            texts[key] = printable(text.strip(), lines=key == "description")
    if problems:
        raise ConfigError(problems, source=source)
    return Adjusted(texts["title"], texts["description"], list(found.values()), with_values(workflow, preset))


def _fields(path: str, fields: Any, problems: list[Problem]) -> dict[str, Any] | None:
    if not isinstance(fields, dict):
        problems.append(Problem(path, "must be a table.", f"Write [{path}] on a line of its own."))
        return None
    before = len(problems)
    values: dict[str, Any] = {}
    for key, value in fields.items():
        if key not in FIELDS:
            problems.append(_unknown(f"{path}.{printable(key[:80])}", key, tuple(FIELDS)))
            continue
        try:
            values[key] = convert(value, FIELDS[key])
            _check_figures(value)
        except (msgspec.ValidationError, ValueError) as error:
            problems.append(Problem(f"{path}.{key}", f"does not fit: {error}."))
    return None if len(problems) > before else values


def _check_figures(value: Any) -> None:
    """Raise ValueError for a number that JSON, or a browser, would not keep as it is."""
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, int | float) and not -MAX_WHOLE <= each <= MAX_WHOLE:
            raise ValueError("a number that is too large")


def _parameter(
    workflow: Mapping[str, Any], parameters: Mapping[str, Parameter], name: str, values: dict[str, Any]
) -> Parameter:
    """Raises UsageError."""
    found = parameters.get(name)
    target = values.pop("target", None)
    kind = values.pop("kind", None)
    if isinstance(values.get("label"), str):
        values["label"] = printable(values["label"].strip())[:MAX_TITLE]
    if target is not None:
        found = _new(workflow, name, [target] if isinstance(target, str) else target, kind)
    elif found is None:
        there = f"It has {', '.join(list(parameters)[:MAX_LISTED])}. " if parameters else ""
        raise UsageError(
            "is no parameter of the workflow.",
            hint=_meant(name, parameters) or f'{there}A new one needs target = "NODE.INPUT".',
        )
    elif kind is not None:
        raise UsageError("is of a kind that cannot be changed.", hint="Leave kind out.")
    if values.get("choices") is not None and found.kind in ("text", "integer", "number"):
        found = msgspec.structs.replace(found, kind="choice")
    strange = [key for key, kinds in FITTING.items() if key in values and found.kind not in kinds]
    if strange:
        raise UsageError(
            f"takes no {' and no '.join(strange)}: it is of the kind {found.kind}.",
            hint="min, max and step are for numbers, choices for a text or a number, multiline for a text.",
        )
    made = msgspec.structs.replace(found, **values)
    if made.min is not None and made.max is not None and made.min > made.max:
        raise UsageError("has a min above its max.")
    if "default" in values:
        if made.kind == "image":
            raise UsageError("is a picture, which has no default here.", hint="Set it in the workflow.")
        made = msgspec.structs.replace(made, default=checked(made, made.default))
    return made


def _new(workflow: Mapping[str, Any], name: str, targets: list[str], kind: str | None) -> Parameter:
    if not _NAME.fullmatch(name):
        raise UsageError("is not a name for a parameter.", hint="A name has up to 64 of a-z, 0-9, _ and -.")
    if kind is not None and kind not in KINDS:
        said = printable(kind[:80])
        raise UsageError(
            f"has an unknown kind {said!r}.", hint=_meant(kind, KINDS) or f"Known: {', '.join(KINDS)}."
        )
    if not targets:
        raise UsageError("has no target.", hint='Write target = "NODE.INPUT".')
    spots = [
        Target(found.node_id, found.input)
        for found in (find(workflow, target, assigns=False) for target in targets)
    ]
    default = workflow[spots[0].node_id].get("inputs", {}).get(spots[0].input)
    return Parameter(
        name=name,
        kind=kind or _kind(spots[0].input, default),
        label=LABELS.get(name, name.replace("_", " ").capitalize()),
        targets=spots,
        default=None if is_link(default) else default,
    )


def _kind(name: str, default: Any) -> ParameterKind:
    match default:
        case bool():
            return "boolean"
        case int():
            return "seed" if name in ("seed", "noise_seed") else "integer"
        case float():
            return "number"
        case str():
            return "text"
    raise UsageError("has a target that holds no plain value.", hint='Say its kind, such as kind = "number".')


def _unknown(path: str, key: str, known: tuple[str, ...]) -> Problem:
    return Problem(path, "is not known.", _meant(key, known) or f"Known: {', '.join(known)}.")


def _meant(word: str, among: Iterable[str]) -> str:
    close = close_matches(word, among)
    return f"Did you mean {close[0]}?" if close else ""
