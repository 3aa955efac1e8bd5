"""The widgets that ComfyUI's page gives a node of a class, in their order, read from the class's /object_info entry. Pure.

A saved workflow has the values of widgets by position, so all depends on the order (read, frontend 1.49, and compared with it for all 855 classes of
0.33). Classes whose widgets are made by code of the page are in a table; of those whose values it computes when it exports, nothing is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

PLAIN = frozenset({"INT", "FLOAT", "BOOLEAN", "STRING", "COMBO", "COLOR", "MARKDOWN", "TEXTAREA"})
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
DRAWN = frozenset(
    {"BOUNDING_BOX", "CHART", "GALLERIA", "PAINTER", "COMPOSITOR", "CURVE", "RANGE", "VIDEO_EDIT"}
    | {"BOUNDING_BOXES", "COLORS", "IMAGEUPLOAD"}
)  # fmt: skip
"""Widgets with more to them than a value; classes that have one are not converted."""
COMPUTED = frozenset(
    {"WebcamCapture", "RecordAudio", "Load3D", "Load3DAdvanced", "Preview3DAdvanced", "Save3DAdvanced"}
    | {"PreviewGaussianSplat", "PreviewPointCloud", "SaveGaussianSplat", "SavePointCloud", "CustomCombo"}
    | {"LoadImageOutput"}
)  # fmt: skip
"""Classes whose values the page makes when it exports, or whose widgets come and go by code of their own."""
VIEWED = frozenset({"Preview3D", "SaveGLB"})
"""Classes with a view of a model, which is sent as an empty text unless somebody has looked at one there."""
UPLOADS = frozenset({"image_upload", "video_upload", "audio_upload"})
PREFIXED = frozenset(
    {"SaveImage", "SaveImageAdvanced", "SaveSVGNode", "SaveVideo", "SaveAnimatedWEBP", "SaveWEBM", "SaveAudio"}
    | {"SaveAudioMP3", "SaveAudioOpus", "SaveAudioAdvanced", "SaveAnimatedPNG", "CLIPSave", "VAESave", "ModelSave"}
    | {"LoraSave", "SaveLatent", "SaveGLB"}
)  # fmt: skip
"""Classes in whose `filename_prefix` the page replaces %...% when it exports."""


class UnknownWidgetsError(Exception):
    """The widgets of this class are not known; the text says why, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Widget:
    """`sent`: it is in the export; else it only takes a place in the saved values (control_after_generate, an upload button).
    `first`: what a choice shows that has no value. `dynamic`: {a|b} and comments are resolved. `prefix`: %...% are replaced.
    `saved`: it has a place in the saved values. `blank`: nothing is known of it but the empty text. `options`: what a choice brings with it, by its value."""

    name: str
    default: Any = None
    sent: bool = True
    kind: str = ""
    first: Any = None
    dynamic: bool = False
    prefix: bool = False
    saved: bool = True
    blank: bool = False
    options: Mapping[str, Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Socket:
    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Shape:
    """One class as the page draws it. `sockets`: the inputs in their order, those of widgets after the others. `foreign`: not ComfyUI's own, so code
    of its page may do more than is known. `forced`: for each value that older pages saved, whether it was of an input that is only a socket now."""

    title: str
    widgets: tuple[Widget, ...]
    sockets: tuple[Socket, ...]
    outputs: tuple[str, ...]
    foreign: bool
    loose: bool
    forced: tuple[bool, ...]


def read_shape(class_type: str, raw: bytes) -> Shape:
    """Raises UnknownWidgetsError for a class whose widgets this cannot tell."""
    if class_type in COMPUTED:
        raise UnknownWidgetsError("whose values the page makes when it exports")
    try:
        entry = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise UnknownWidgetsError("which cannot be read") from error
    if not isinstance(entry, dict) or not isinstance(entry.get("input"), dict):
        raise UnknownWidgetsError("which cannot be read")
    specs = list(_ordered(entry))
    widgets: list[Widget] = []
    sockets: list[Socket] = []
    slots: list[Socket] = []
    forced: list[bool] = []
    loose = False
    for name, spec in specs:
        kind, options = _kind(spec), _options(spec)
        if kind.startswith("COMFY_") or options.get("forceInput"):
            loose = loose or kind.startswith("COMFY_")
        found = [] if options.get("forceInput") else list(_widgets(class_type, name, kind, options))
        if found:
            widgets += found
            slots.append(Socket(name, kind))
        else:
            sockets.append(Socket(name, kind))
        if found or options.get("forceInput"):
            forced += [
                bool(options.get("forceInput")),
                *([False] if options.get("control_after_generate") else []),
            ]
    widgets += [Widget("image", "", blank=True)] if class_type in VIEWED else []
    widgets += [Widget("upload", sent=False) for _, spec in specs if UPLOADS & _options(spec).keys()]
    outputs = entry.get("output")
    module = entry.get("python_module")
    own = isinstance(module, str) and (
        module == "nodes" or module.startswith(("comfy_extras.", "comfy_api_nodes."))
    )
    title = entry.get("display_name") or entry.get("name") or class_type
    return Shape(
        title=str(title),
        widgets=tuple(widgets),
        sockets=(*sockets, *slots),
        outputs=tuple(str(kind) for kind in outputs) if isinstance(outputs, list) else (),
        foreign=not own,
        loose=loose,
        forced=tuple(forced),
    )


def brought(widget: Widget, value: Any) -> Iterator[Widget]:
    """The widgets that a dynamic choice brings with this value, right after itself."""
    chosen = (widget.options or {}).get(value) if isinstance(value, str) else None
    for section in ("required", "optional"):
        listed = (chosen or {}).get(section)
        for name, spec in (listed if isinstance(listed, dict) else {}).items():
            options = _options(spec)
            if not options.get("forceInput"):
                yield from _widgets("", f"{widget.name}.{name}", _kind(spec), options)


def _ordered(entry: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The inputs in the order of `input_order`, then those that it does not name."""
    order = entry.get("input_order")
    for section in ("required", "optional"):
        listed = entry["input"].get(section)
        listed = listed if isinstance(listed, dict) else {}
        names = order.get(section) if isinstance(order, dict) else None
        first = [
            name
            for name in (names if isinstance(names, list) else [])
            if isinstance(name, str) and name in listed
        ]
        yield from ((name, listed[name]) for name in dict.fromkeys([*first, *listed]))


def _widgets(class_type: str, name: str, kind: str, options: Mapping[str, Any]) -> Iterator[Widget]:
    if kind == "IMAGECOMPARE":
        yield Widget(name, ["", ""], saved=False)
        return
    if kind in DRAWN:
        raise UnknownWidgetsError("which has an editor of its own in the page")
    if kind == DYNAMIC_COMBO:
        listed = options.get("options")
        listed = listed if isinstance(listed, list) else []
        found = {
            each["key"]: each["inputs"]
            for each in listed
            if isinstance(each, dict)
            and isinstance(each.get("key"), str)
            and isinstance(each.get("inputs"), dict)
        }
        if len(found) != len(listed) or not found:
            raise UnknownWidgetsError("which cannot be read")
        yield Widget(name, next(iter(found)), kind=kind, first=next(iter(found)), options=found)
        return
    if kind not in PLAIN:
        return
    if options.get("multi_select") or options.get("multiselect"):
        raise UnknownWidgetsError("which lets one choose several values")
    choices = options.get("options")
    first = choices[0] if kind == "COMBO" and isinstance(choices, list) and choices else None
    blank = {"INT": 0, "FLOAT": 0, "BOOLEAN": False, "STRING": ""}.get(kind)
    default = options.get("default", first if kind == "COMBO" else blank)
    yield Widget(
        name,
        default,
        kind=kind,
        first=first,
        dynamic=kind == "STRING" and options.get("dynamicPrompts") is True,
        prefix=name == "filename_prefix" and class_type in PREFIXED,
    )
    control = options.get("control_after_generate")
    if control is None and kind == "INT":
        control = name.rpartition(".")[2] in ("seed", "noise_seed") if "." not in name else False
    if control:
        yield Widget("control_after_generate", sent=False)
        if kind == "COMBO":
            yield Widget("control_filter_list", sent=False)


def _kind(spec: Any) -> str:
    kind = spec[0] if isinstance(spec, list) and spec else None
    options = _options(spec)
    if isinstance(options.get("widgetType"), str):
        return str(options["widgetType"])
    if isinstance(kind, list):
        return "COMBO"
    return kind if isinstance(kind, str) else ""


def _options(spec: Any) -> dict[str, Any]:
    found = dict(spec[1]) if isinstance(spec, list) and len(spec) > 1 and isinstance(spec[1], dict) else {}
    if isinstance(spec, list) and spec and isinstance(spec[0], list):
        found["options"] = spec[0]
    return found
