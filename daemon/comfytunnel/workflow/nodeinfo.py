"""What a node class takes and gives, read from its entry in ComfyUI's /object_info. Pure.

The entry is the far side's: each field is type-checked, and what cannot be read makes the class one of which nothing is known (`opaque`), so
that nothing is held against a workflow. An entry does not tell everything that ComfyUI goes by: a class may have a validation of its own
(VALIDATE_INPUTS), which switches off the comparison with limits and choices, or types that equal whatever they are compared with. `sure` says
that neither is so, which is known of ComfyUI's own classes only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from comfytunnel.decoding import decoder

DYNAMIC = frozenset({"COMFY_AUTOGROW_V3", "COMFY_DYNAMICCOMBO_V3", "COMFY_DYNAMICSLOT_V3"})
"""Types that stand for other inputs, which depend on the values given (read, 0.33)."""

UPLOADS = frozenset(
    {"image_upload", "video_upload", "audio_upload", "file_upload", "animated_image_upload", "upload"}
)
"""Options of an input that takes files: its class looks for the file itself, and the choices do not count."""

OWN_JUDGES = frozenset(
    {
        "ComfySwitchNode",
        "CustomCombo",
        "LoadLatent",
        "ModelAttentionBackend",
        "SelectCLIPDevice",
        "SelectModelDevice",
        "SelectVAEDevice",
    }
)
"""Classes of ComfyUI's own with a validation of their own, besides those that take files (read, 0.33)."""


@dataclass(frozen=True, slots=True)
class InputInfo:
    """One input. `kind`: its type ("INT", "IMAGE,MASK", "*"), None for what is only compared whole; `choices`: what a value must be one of;
    `low`, `high`, `step`: of a number. `multiline`: a text of several lines. `picture`: it takes the name of an uploaded picture. `dynamic`: it stands
    for others; nothing is known of it."""

    required: bool
    kind: str | None
    choices: list[Any] | None = None
    low: float | None = None
    high: float | None = None
    multiselect: bool = False
    dynamic: bool = False
    step: float | None = None
    multiline: bool = False
    picture: bool = False


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """One class. `outputs`: the type of each, None for one that is no text; None: unknown. `sure`: see the module's docstring. `title`: what people
    see it under ("" if that is not told)."""

    inputs: Mapping[str, InputInfo] = field(default_factory=dict)
    outputs: tuple[str | None, ...] | None = None
    output_node: bool = False
    sure: bool = False
    opaque: bool = False
    title: str = ""


OPAQUE = NodeInfo(opaque=True)


class _Entry(msgspec.Struct):
    """The fields that validation reads; descriptions and the like are skipped and never built."""

    input: Any = None
    output: Any = None
    output_node: Any = False
    python_module: Any = None
    display_name: Any = None


_decode = decoder(_Entry).decode


def read_node(class_type: str, raw: bytes) -> NodeInfo:
    """Read one class's entry, JSON as it came. OPAQUE for what is not as ComfyUI writes it."""
    try:
        entry = _decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return OPAQUE
    if not isinstance(entry.input, dict):
        return OPAQUE
    inputs: dict[str, InputInfo] = {}
    takes_files = False
    for section in ("optional", "required"):  # where a name stands in both, required counts
        listed = entry.input.get(section, {})
        if not isinstance(listed, dict):
            return OPAQUE
        for name, spec in listed.items():
            inputs[name] = _input(spec, required=section == "required")
            takes_files = takes_files or bool(UPLOADS & _options(spec).keys())
    module = entry.python_module
    own = isinstance(module, str) and (module == "nodes" or module.startswith("comfy_extras."))
    return NodeInfo(
        inputs=inputs,
        outputs=_outputs(entry.output),
        output_node=entry.output_node is True,
        sure=own and not takes_files and class_type not in OWN_JUDGES,
        title=entry.display_name[:200] if isinstance(entry.display_name, str) else "",
    )


def both(one: NodeInfo, other: NodeInfo) -> NodeInfo:
    """The one class, with the choices that it has in either of two ComfyUIs: which models lie there differs."""
    inputs = dict(one.inputs)
    for name, info in other.inputs.items():
        mine = inputs.get(name)
        if (
            mine is not None
            and mine.choices is not None
            and info.choices is not None
            and mine.choices != info.choices
        ):
            more = [choice for choice in info.choices if choice not in mine.choices]
            inputs[name] = replace(mine, choices=[*mine.choices, *more])
    return replace(one, inputs=inputs)


def _options(spec: Any) -> dict[str, Any]:
    found = spec[1] if isinstance(spec, list) and len(spec) > 1 else None
    return found if isinstance(found, dict) else {}


def _input(spec: Any, *, required: bool) -> InputInfo:
    kind = spec[0] if isinstance(spec, list) and spec else None
    options = _options(spec)
    if not isinstance(kind, str | list) or (isinstance(kind, str) and kind in DYNAMIC):
        return InputInfo(required=False, kind=None, dynamic=True)
    choices = options.get("options") if kind == "COMBO" else kind
    if "remote" in options:
        choices = None
    return InputInfo(
        required=required,
        kind=kind if isinstance(kind, str) else None,
        choices=choices if isinstance(choices, list) else None,
        low=_number(options.get("min")),
        high=_number(options.get("max")),
        multiselect=bool(options.get("multiselect")),
        step=_number(options.get("step")),
        multiline=options.get("multiline") is True,
        picture=options.get("image_upload") is True,
    )


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _outputs(found: Any) -> tuple[str | None, ...] | None:
    if not isinstance(found, list):
        return None
    return tuple(each if isinstance(each, str) else None for each in found)
