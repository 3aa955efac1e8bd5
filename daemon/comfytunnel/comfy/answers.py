"""JSON that may be megabytes, as small Python values: what nobody reads (everybody's workflows) is skipped and never built.

The values have the shape of ComfyUI's own, with holes, so shapes.py reads them as it reads everything. Decoding is C code that holds
Python's lock: a thread does not free the event loop from it. So no piece that is decoded without a type is longer than PIECE (some 0.4 s
at worst, measured); the typed parts stop at the first value that does not fit. Raises ValueError or RecursionError for what is not JSON.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

from comfytunnel.comfy.shapes import JOB_KEY
from comfytunnel.decoding import decode

LARGE = 16 * 1024**2
MAX_VALUES = 4_000_000
"""An answer of more bytes may have so many quotes and brackets: large for the sake of a few large texts, such as pictures in a workflow."""
PIECE = 4 * 1024**2
"""Bytes that are decoded whatever they hold."""
MAX_PROMPTS = 100_000
"""A longer queue is an error: reading a part of it would call jobs absent that are there."""

T = TypeVar("T")


class _Extra(msgspec.Struct, rename={"job": JOB_KEY}):
    job: str | None = None


class _Row(msgspec.Struct, array_like=True):
    """[number, id, graph, extra_data, ...] of a queue, and of `prompt` in a history entry."""

    number: float
    prompt_id: str
    graph: msgspec.Raw = msgspec.Raw()
    extra: msgspec.Raw = msgspec.Raw()

    def value(self) -> list[Any]:
        extra = _typed(self.extra, _Extra) if len(memoryview(self.extra)) else None
        return [self.number, self.prompt_id, None, {} if extra is None else {JOB_KEY: extra.job}]


class _Queue(msgspec.Struct):
    queue_running: list[_Row]
    queue_pending: list[_Row]


class _Status(msgspec.Struct):
    status_str: str | None = None
    messages: msgspec.Raw = msgspec.Raw(b"null")


class _Entry(msgspec.Struct):
    prompt: msgspec.Raw = msgspec.Raw()
    status: msgspec.Raw = msgspec.Raw(b"null")
    outputs: msgspec.Raw = msgspec.Raw(b"null")


class _Message(msgspec.Struct, omit_defaults=True):
    """What is read of the data of a message; the inputs and outputs that an error carries are not."""

    nodes: list[str] | None = None
    exception_type: str | None = None
    exception_message: str | None = None
    traceback: list[str] | None = None
    node_id: str | None = None
    node_type: str | None = None
    timestamp: float | None = None


def any_json(raw: bytes | msgspec.Raw) -> Any:
    """JSON as Python writes it: msgspec is strict, and ComfyUI sends NaN and lone surrogates."""
    if len(memoryview(raw)) > PIECE:
        raise ValueError("it is too long for what it is")
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return json.loads(bytes(raw))


def _checked(raw: bytes) -> bytes:
    if len(raw) > LARGE and sum(raw.count(sign) for sign in (b'"', b"[", b"{")) > MAX_VALUES:
        raise ValueError("too much of it")
    return raw


def queue(raw: bytes) -> Any:
    """An answer of /queue."""
    found = _typed(_checked(raw), _Queue)
    if found is None:
        return any_json(raw)
    if len(found.queue_running) + len(found.queue_pending) > MAX_PROMPTS:
        raise ValueError("too many prompts")
    return {
        "queue_running": [row.value() for row in found.queue_running],
        "queue_pending": [row.value() for row in found.queue_pending],
    }


def history(raw: bytes, *, only: str | None = None, last: int | None = None) -> Any:
    """An answer of /history or /history/{id}: all of it, the entry of that id alone, or the last few."""
    found = _typed(_checked(raw), dict[str, msgspec.Raw])
    if found is None:
        return any_json(raw)
    if only is not None:
        found = {only: found[only]} if only in found else {}
    kept = list(found.items())
    return {key: _entry(value) for key, value in (kept if last is None else kept[-last:])}


def _entry(raw: msgspec.Raw) -> Any:
    entry = _typed(raw, _Entry)
    if entry is None:
        return None
    row = _typed(entry.prompt, _Row)
    return {
        "prompt": None if row is None else row.value(),
        "status": _status(entry.status),
        "outputs": _outputs(entry.outputs),
    }


def _status(raw: msgspec.Raw) -> Any:
    status = _typed(raw, _Status)
    if status is None:
        return _small(raw)
    messages = _small(status.messages)
    if messages is None:
        rows = _typed(status.messages, list[tuple[str, _Message]]) or []
        messages = [[kind, msgspec.to_builtins(message)] for kind, message in rows]
    return {"status_str": status.status_str, "messages": messages}


def _outputs(raw: msgspec.Raw) -> Any:
    """Group by group: what is large and not text is no list of files (nodes put pictures in there as base64)."""
    nodes = _typed(raw, dict[str, msgspec.Raw]) or {}
    found: dict[str, Any] = {}
    for node_id, node in nodes.items():
        groups = _typed(node, dict[str, msgspec.Raw]) or {}
        found[node_id] = {
            group: _typed(rows, list[str])
            if group == "text" and len(memoryview(rows)) > PIECE
            else _small(rows)
            for group, rows in groups.items()
        }
    return found


def _small(raw: msgspec.Raw) -> Any:
    """None for what is too long, or no JSON."""
    try:
        return any_json(raw)
    except (ValueError, RecursionError):
        return None


def _typed(raw: bytes | msgspec.Raw, wanted: type[T]) -> T | None:
    """None if it is not of that type, or not JSON as msgspec wants it."""
    try:
        return decode(raw, wanted)
    except (msgspec.DecodeError, RecursionError):
        return None
