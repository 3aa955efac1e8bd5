"""What a person may set in a workflow: found by the part that each value plays in it (prompt, seed, size, steps), or by the title of its node. Pure.

Two calls for the same graph find the same, in the same order, under the same names. What plays the same part and has the same value is one
parameter with several targets: the prompt of two encoders, the steps of base and refiner. Limits and choices are those of ComfyUI's classes where these are
known, else what ComfyUI's own classes had (0.33).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from comfytunnel.printable import printable
from comfytunnel.wireworkflows import Parameter, Target
from comfytunnel.words import ParameterKind
from comfytunnel.workflow.nodeinfo import InputInfo
from comfytunnel.workflow.prompts import NEGATIVE, POSITIVE, Prompts
from comfytunnel.workflow.tracing import Known, Spot, Tracer

MAX_PARAMETERS = 64
MAX_TARGETS = 64
MAX_TEXT = 100_000
"""Characters; a longer text is no prompt."""
MAX_CHOICES = 2_000
MAX_CHOICE = 500
"""Characters of one of them; it is the name of a file, mostly."""
MAX_WHOLE = 2**53 - 1
"""The largest number that a browser reads exactly."""
MAX_NAME = 40

LABELS = {
    POSITIVE: "Positive prompt",
    NEGATIVE: "Negative prompt",
    "image": "Image",
    "mask": "Mask",
    "seed": "Seed",
    "width": "Width",
    "height": "Height",
    "length": "Length",
    "batch_size": "Batch size",
    "steps": "Steps",
    "cfg": "CFG",
    "guidance": "Guidance",
    "sampler": "Sampler",
    "scheduler": "Scheduler",
    "denoise": "Denoise",
}
ORDER = list(LABELS)

INTEGER: Final = "integer"
NUMBER: Final = "number"
ROLES: Mapping[str, tuple[str, ParameterKind]] = {
    "seed": ("seed", "seed"),
    "noise_seed": ("seed", "seed"),
    "width": ("width", INTEGER),
    "height": ("height", INTEGER),
    "length": ("length", INTEGER),
    "batch_size": ("batch_size", INTEGER),
    "steps": ("steps", INTEGER),
    "cfg": ("cfg", NUMBER),
    "guidance": ("guidance", NUMBER),
    "sampler_name": ("sampler", "choice"),
    "scheduler": ("scheduler", "choice"),
    "denoise": ("denoise", NUMBER),
}
"""The inputs that play a part: which, and of what kind it is."""
SIZE = frozenset({"width", "height", "length", "batch_size"})
LIMITS: Mapping[str, tuple[float, float, float]] = {
    "width": (16, 16384, 8),
    "height": (16, 16384, 8),
    "batch_size": (1, 4096, 1),
    "steps": (1, 10_000, 1),
    "cfg": (0, 100, 0.1),
    "guidance": (0, 100, 0.1),
    "denoise": (0, 1, 0.01),
    "seed": (0, MAX_WHOLE, 1),
}
"""Least, most and step where nothing is known."""
SAME_SIZE = frozenset({"ModelSamplingFlux", "Flux2Scheduler"})
"""Classes that are told the size of the picture once more."""

_SAMPLES = re.compile(r"sampler|scheduler|guider|guidance|noise", re.IGNORECASE)
_EMPTY = re.compile(r"empty.*(latent|image|video|audio)", re.IGNORECASE)
_FIGURES = (int, float)


@dataclass(frozen=True, slots=True)
class _Spotted:
    """One input that somebody may set. `role`: "" for one that is known by its node's title only; `node_id` of `owner` is the node that it is named after."""

    role: str
    kind: ParameterKind
    spot: Spot
    owner: str
    default: Any
    spec: InputInfo | None
    label: str


def find_parameters(workflow: Mapping[str, Any], known: Known = lambda _: None) -> list[Parameter]:
    """Of a graph that `parse_api_graph` has passed: at most MAX_PARAMETERS, prompts first. `known` is asked once for each class."""
    return _Finder(Tracer(workflow, known)).parameters()


class _Finder:
    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self.taken: set[Spot] = set()
        self.names: set[str] = set()

    def parameters(self) -> list[Parameter]:
        spotted = [*self._prompts(), *self._pictures(), *self._parts()]
        spotted.sort(key=lambda each: ORDER.index(each.role))  # stable: within a role as the graph has it
        together: dict[Any, list[_Spotted]] = {}
        for number, each in enumerate([*spotted, *self._titled()]):
            alone = not each.role or each.kind == "image"
            key = number if alone else (each.role, type(each.default), each.default)
            together.setdefault(key, []).append(each)
        return [self._parameter(group) for group in list(together.values())[:MAX_PARAMETERS]]

    # --- spotting ---------------------------------------------------------------------------------------------------

    def _spot(
        self, role: str, kind: ParameterKind, spot: Spot, at: Spot, label: str = ""
    ) -> Iterator[_Spotted]:
        """An input whose value stands at `spot` and is used at `at`."""
        if spot in self.taken:
            return
        self.taken.add(spot)
        value = self.tracer.inputs(spot[0])[spot[1]]
        if isinstance(value, str) and len(value) > MAX_TEXT:
            return
        owner = spot[0] if self.tracer.title(spot[0]) else at[0]
        yield _Spotted(role, kind, spot, owner, value, self._spec(at), label)

    def _spec(self, spot: Spot) -> InputInfo | None:
        info = self.tracer.info(spot[0])
        return info.inputs.get(spot[1]) if info is not None else None

    def _prompts(self) -> Iterator[_Spotted]:
        for spot, role in Prompts(self.tracer).found.items():
            several = spot[1] not in ("text", "prompt") and not spot[1].startswith(("value", "string"))
            yield from self._spot(role, "text", spot, spot, _words(spot[1]) if several else "")

    def _pictures(self) -> Iterator[_Spotted]:
        for node_id in self.tracer.used:
            for name, value in self.tracer.inputs(node_id).items():
                spec, class_type = self._spec((node_id, name)), self.tracer.class_of(node_id)
                loads = (
                    spec.picture
                    if spec is not None
                    else class_type.startswith("LoadImage") and name == "image"
                )
                if loads and isinstance(value, str):
                    role = "mask" if "mask" in class_type.lower() else "image"
                    yield from self._spot(role, "image", (node_id, name), (node_id, name))

    def _parts(self) -> Iterator[_Spotted]:
        sized = self._sized()
        for node_id in self.tracer.used:
            for name in self.tracer.inputs(node_id):
                part = ROLES.get(name)
                if part is not None and self._plays(node_id, name, part[0], sized):
                    role, kind = part
                    wanted = str if kind == "choice" else _FIGURES
                    spot = self.tracer.source((node_id, name), wanted)
                    if spot is not None:
                        yield from self._spot(role, kind, spot, (node_id, name))

    def _plays(self, node_id: str, name: str, role: str, sized: set[str]) -> bool:
        class_type = self.tracer.class_of(node_id)
        if role == "seed":
            return bool(self.tracer.inputs(node_id).get("add_noise") != "disable")
        if name in SIZE:
            return node_id in sized
        links = {each for each, _ in self.tracer.links(node_id)}
        return "positive" in links or bool(_SAMPLES.search(class_type))

    def _sized(self) -> set[str]:
        """The nodes that say how large the picture becomes: what begins empty; else what makes one or changes its size."""
        every = [each for each in self.tracer.used if {"width", "height"} <= self.tracer.inputs(each).keys()]
        found = [each for each in every if _EMPTY.search(self.tracer.class_of(each))]
        if not found:
            found = [each for each in every if {"length", "batch_size"} & self.tracer.inputs(each).keys()]
        if not found:
            found = [each for each in every if "scale" in self.tracer.class_of(each).lower()]
        return {*found, *(each for each in every if self.tracer.class_of(each) in SAME_SIZE and found)}

    def _titled(self) -> Iterator[_Spotted]:
        """What plays no known part, but stands in a primitive or in a node to which somebody has given a title of its own."""
        for node_id in self.tracer.used:
            info, title = self.tracer.info(node_id), self.tracer.title(node_id)
            primitive = self.tracer.class_of(node_id).startswith("Primitive")
            if not primitive and (not title or info is None or info.output_node):
                continue
            free = [
                (name, kind)
                for name, value in self.tracer.inputs(node_id).items()
                if (node_id, name) not in self.taken
                and (kind := self._kind(node_id, value, self._spec((node_id, name)))) is not None
            ]
            for name, kind in free:
                label = title or _words(self.tracer.class_of(node_id))
                label = label if len(free) == 1 else f"{label}: {_words(name)}"
                yield from self._spot("", kind, (node_id, name), (node_id, name), label)

    def _kind(self, node_id: str, value: Any, spec: InputInfo | None) -> ParameterKind | None:
        if spec is not None and (spec.choices is not None or spec.kind == "COMBO"):
            return "choice" if isinstance(value, str) else None
        match value:
            case bool():
                return "boolean"
            case int() | float():
                broken = isinstance(value, float) or self.tracer.class_of(node_id) == "PrimitiveFloat"
                return NUMBER if broken or (spec is not None and spec.kind == "FLOAT") else INTEGER
            case str():
                return "text"
        return None

    # --- naming -----------------------------------------------------------------------------------------------------

    def _parameter(self, group: list[_Spotted]) -> Parameter:
        first = group[0]
        spec, role = first.spec, first.role
        kind = first.kind
        if kind == INTEGER and spec is not None and spec.kind == "FLOAT":
            kind = NUMBER
        low, high, step = self._limits(first, kind)
        title = self.tracer.title(first.owner)
        name, label = self._name(first, title)
        return Parameter(
            name=name,
            kind=kind,
            label=label,
            targets=[Target(*each.spot) for each in group[:MAX_TARGETS]],
            default=first.default,
            min=low,
            max=high,
            step=step,
            choices=_choices(spec) if kind == "choice" else None,
            hidden=not role and not title,  # a primitive to which nobody has given a title
            multiline=kind == "text"
            and (
                role in (POSITIVE, NEGATIVE) or "\n" in first.default or (spec is not None and spec.multiline)
            ),
        )

    def _limits(
        self, first: _Spotted, kind: ParameterKind
    ) -> tuple[float | None, float | None, float | None]:
        if kind not in (INTEGER, NUMBER, "seed"):
            return None, None, None
        usual: tuple[float | None, float | None, float | None] = LIMITS.get(first.role, (None, None, None))
        spec = first.spec
        told = (None, None, None) if spec is None else (spec.low, spec.high, spec.step)
        low, high, step = told if any(each is not None for each in told) else usual
        if kind != NUMBER:
            low = None if low is None else max(low, 0 if kind == "seed" else -MAX_WHOLE)
            high = None if high is None else min(high, MAX_WHOLE)
        if kind == "seed":
            return low or 0, MAX_WHOLE if high is None else high, 1
        return low, high, step

    def _name(self, first: _Spotted, title: str) -> tuple[str, str]:
        """The name and the label. The first of a role has the role's name, which programs may rely on; the others are called after their node or
        input, or counted."""
        role, usual = first.role, LABELS.get(first.role, first.label)
        primitive = self.tracer.class_of(first.owner).startswith("Primitive")
        titled = bool(title and role) and (first.kind in ("text", "image") or primitive)
        wanted, label = role or _slug(first.label) or "value", title if titled else usual
        if role in self.names:
            more = first.label or title
            if titled and not first.label:
                wanted = _slug(title) or role
            elif more:
                wanted, label = f"{role}_{_slug(more)}".rstrip("_"), f"{label} ({more})"
        name, number = wanted, 1
        while name in self.names:
            number += 1
            name = f"{wanted}_{number}"
        self.names.add(name)
        return name, label if number == 1 else f"{label} {number}"


def _choices(spec: InputInfo | None) -> list[Any] | None:
    if spec is None or spec.choices is None or not 0 < len(spec.choices) <= MAX_CHOICES:
        return None
    plain = all(isinstance(each, str | int | float) and len(str(each)) <= MAX_CHOICE for each in spec.choices)
    return spec.choices if plain else None


def _slug(text: str) -> str:
    bare = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "_", bare).strip("_")[:MAX_NAME].rstrip("_")


def _words(name: str) -> str:
    return printable(re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", name[:80])).strip().capitalize()
