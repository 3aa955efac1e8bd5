"""The saved values of one node of ComfyUI's page: whose they are, and what the page makes of them when it exports. Pure.

Values stand by position, so a widget too many or too few would shift all that follow: of classes that are not ComfyUI's own everything must fit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from comfytunnel.workflow.uigraph import UiNode, unclear
from comfytunnel.workflow.widgets import Shape, Widget, brought

_COMMENTS = re.compile(r"/\*[\s\S]*?\*/|//[^\n\r\u2028\u2029]*")
_ESCAPED = re.compile(r"\\([{}|])")
_REPLACED = re.compile(r"%(date:[^%]*|[^%.]*\.[^%.]*)%")


def kept_aside(node: UiNode) -> dict[str, Any]:
    """Values of a subgraph node by the names of its inputs, which the page once could not assign and kept aside."""
    entries = node.properties.get("proxyWidgetErrorQuarantine")
    found: dict[str, Any] = {}
    for each in entries if isinstance(entries, list) else []:
        origin = each.get("originalEntry") if isinstance(each, dict) else None
        if not isinstance(origin, list) or len(origin) < 2 or not isinstance(origin[1], str):
            raise unclear(f"{node} has widgets that the page could not find again.")
        if origin[0] == "-1" and each.get("hostValue") is not None:
            found.setdefault(origin[1], each["hostValue"])
    return found


def filled(node: UiNode, shape: Shape) -> list[tuple[Widget, Any]]:
    """The widgets of a node with the values that were saved, by position; what a dynamic choice brings comes right after it."""
    values = node.values
    if isinstance(values, dict):
        return _by_name(node, shape, values)
    given = list(values or [])
    if any(shape.forced) and len(shape.forced) == len(given):
        given = [value for value, forced in zip(given, shape.forced, strict=True) if not forced]
    left = list(reversed(given))
    found: list[tuple[Widget, Any]] = []
    waiting = list(reversed(shape.widgets))
    while waiting:
        widget = waiting.pop()
        value = left.pop() if left and widget.saved else widget.default
        if shape.foreign and not _plausible(widget, value):
            raise unclear(f"the value of {node} for {widget.name!r} is of another kind than its class takes.")
        if value is None and widget.kind in ("COMBO", "COMFY_DYNAMICCOMBO_V3"):
            value = widget.first
        found.append((widget, value))
        waiting += reversed(list(brought(widget, value)))
    if shape.foreign and len(given) != len(found):
        raise unclear(f"{node} has {len(given)} saved values, and its class {len(found)}.")
    return found


def _by_name(node: UiNode, shape: Shape, values: Mapping[str, Any]) -> list[tuple[Widget, Any]]:
    """Some packs save their values by name; ComfyUI's own classes never."""
    if not shape.foreign or not all(widget.name in values for widget in shape.widgets if widget.sent):
        raise unclear(f"the values of {node} cannot be told apart.")
    return [(widget, values.get(widget.name)) for widget in shape.widgets]


def _plausible(widget: Widget, value: Any) -> bool:
    match widget.kind:
        case "INT" | "FLOAT":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "BOOLEAN":
            return isinstance(value, bool)
        case "STRING":
            return isinstance(value, str)
    return not widget.sent or value is None or isinstance(value, str | int | float)


def exported(node: UiNode, widget: Widget, value: Any) -> Any:
    """What the page makes of a value when it exports."""
    if (
        node.type in ("KSampler", "KSamplerAdvanced")
        and widget.name == "sampler_name"
        and isinstance(value, str)
    ):
        return value.removeprefix("sample_")
    if widget.blank and value not in ("", None):
        raise unclear(f"{node} is of a class whose values the page makes when it exports.")
    if not isinstance(value, str):
        return value
    if widget.prefix and _REPLACED.search(value):
        raise unclear(f"{node} has a file name in which the page replaces something: {value!r}.")
    if widget.dynamic:
        text = _COMMENTS.sub("", value)
        bare = re.sub(r"\\[\s\S]", "", text)
        if "{" in bare or bare.endswith("\\"):
            raise unclear(f"{node} has a text of which the page draws one part: {{a|b}}.")
        return _ESCAPED.sub(r"\1", text)
    return value
