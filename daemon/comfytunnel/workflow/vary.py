"""From one workflow to several: other seeds, repeats, every combination of the values that are to be tried. Pure.

The order is that of the options, the last one varying fastest, then the repeats. Nothing here draws a number by itself: `draw` does.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from comfytunnel.errors import UsageError
from comfytunnel.workflow.graph import is_link
from comfytunnel.workflow.select import Assignment, Target, find, put, read_value

MAX_JOBS = 1000
"""Of one command: more is a slip of the keyboard, or wants a script that looks at what comes back."""
MAX_SEED = 2**32
"""Seeds are drawn below it, as many nodes take no larger ones."""
SEEDS = frozenset({"seed", "noise_seed"})

Seed = Literal["random", "fixed"] | int


@dataclass(frozen=True, slots=True)
class Variation:
    """An input and the values that it takes one after the other."""

    target: Target
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Variant:
    """One workflow to run. `chosen`: what is its own in it, by NODE.INPUT, `seed` for the number that all seeds have."""

    workflow: dict[str, Any]
    chosen: Mapping[str, Any] = field(default_factory=dict)


def read_seed(text: str) -> Seed:
    """`random`, `fixed` or a number from 0 to 2**64-1, which is ComfyUI's range (read, 0.33). UsageError."""
    word = text.strip().lower()
    if word in ("random", "fixed"):
        return "random" if word == "random" else "fixed"
    if word.isascii() and word.isdigit() and len(word) <= 20 and int(word) < 2**64:
        return int(word)
    raise UsageError(f"{text!r} is no seed.", hint="Give random, fixed, or a number from 0.")


def read_variation(workflow: Mapping[str, Any], given: Assignment) -> Variation:
    """The values stand between commas, one that belongs to a value after a backslash; with `:=` they are a JSON array. UsageError."""
    target = find(workflow, given.where, new=given.exact)
    if given.exact:
        values = read_value(workflow, target, given)
        if not isinstance(values, list) or not values:
            raise UsageError(f"{target} takes a JSON array of values there, as in [1, 2].")
        return Variation(target, tuple(values))
    texts = split_values(given.text)
    return Variation(
        target, tuple(read_value(workflow, target, Assignment(given.where, text)) for text in texts)
    )


def split_values(text: str) -> list[str]:
    r"""The values between commas. `\,` is a comma of a value, `\\` a backslash before one; any other backslash stays as it is."""
    found, at = [""], 0
    while at < len(text):
        if text[at] == "\\" and text[at + 1 : at + 2] in (",", "\\"):
            found[-1] += text[at + 1]
            at += 1
        elif text[at] == ",":
            found.append("")
        else:
            found[-1] += text[at]
        at += 1
    return found


def seeds(workflow: Mapping[str, Any]) -> list[Target]:
    """The inputs that hold a seed as a number: in the node itself, or in a node that does nothing but hand its one number to seeds."""
    found: dict[Target, None] = {}
    others: set[str] = set()  # nodes that give something else than a seed
    through: dict[str, None] = {}
    for node_id, inputs in _all_inputs(workflow):
        for name, value in inputs.items():
            if name in SEEDS and _is_whole(value):
                found[Target(node_id, name)] = None
            elif is_link(value) and name in SEEDS:
                through[value[0]] = None
            elif is_link(value):
                others.add(value[0])
    for node_id, inputs in _all_inputs(workflow):
        if node_id in through and node_id not in others and list(inputs) == ["value"]:
            found |= {Target(node_id, "value"): None} if _is_whole(inputs["value"]) else {}
    return list(found)


def variants(
    workflow: dict[str, Any],
    variations: Sequence[Variation],
    *,
    seed: Seed | None,
    repeat: int,
    kept: Collection[Target],
    draw: Callable[[], int],
) -> Iterator[Variant]:
    """Return every workflow to run. `kept`: inputs whose value was given, so that no seed replaces it. `seed` None: as in the workflow, but
    for repeats another one each, because ComfyUI does not run again what it has just run. UsageError before the first one."""
    total = repeat
    for each in variations:
        total *= len(each.values)
    if total > MAX_JOBS:
        raise UsageError(f"That would be {total} jobs; at most {MAX_JOBS} are taken at once.")
    targets = [each.target for each in variations]
    if len(set(targets)) < len(targets):
        raise UsageError("One input is varied twice.", hint="Give all its values in one --vary.")
    seeded = [target for target in seeds(workflow) if target not in kept and target not in targets]
    if seed is None:
        seed = "random" if repeat > 1 else "fixed"
    elif seed != "fixed" and not seeded:
        if seeds(workflow):
            raise UsageError(
                "All seeds of the workflow are set or varied already.",
                hint="Leave out --seed, or what sets them.",
            )
        raise UsageError(
            "The workflow has no seed that could be set: no input called seed or noise_seed with a number.",
            hint="Set the input that is one with --set NODE.INPUT=NUMBER.",
        )
    if isinstance(seed, int) and seed + repeat > 2**64:
        raise UsageError(f"The seed {seed} has no {repeat - 1} seeds after it.")
    return _variants(workflow, variations, seed, repeat, seeded, draw)


def _variants(
    workflow: dict[str, Any],
    variations: Sequence[Variation],
    seed: Seed,
    repeat: int,
    seeded: Sequence[Target],
    draw: Callable[[], int],
) -> Iterator[Variant]:
    for values in itertools.product(*(each.values for each in variations)):
        for number in range(repeat):
            graph = copy.deepcopy(workflow)
            chosen: dict[str, Any] = {}
            for variation, value in zip(variations, values, strict=True):
                put(graph, variation.target, copy.deepcopy(value))
                chosen[str(variation.target)] = value
            if seed != "fixed" and seeded:
                chosen["seed"] = seed + number if isinstance(seed, int) else draw()
                for target in seeded:
                    put(graph, target, chosen["seed"])
            yield Variant(graph, chosen)


def _all_inputs(workflow: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for node_id, node in workflow.items():
        inputs = node.get("inputs") if isinstance(node, dict) else None
        if isinstance(inputs, dict):
            yield node_id, inputs


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
