"""ComfyUI's JSON, type-checked field by field into values of ours. Pure.

The far side is not trusted: a field of the wrong type is taken as absent, text loses its terminal escapes and what is longer
than a cap, and only an answer that is not ComfyUI's at all raises NotComfyUI. Shapes measured on 0.33.0 and 0.3.64.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Any

from comfytunnel.comfy.errors import NotComfyUI

JOB_KEY = "comfytunnel_job"
"""Where our id stands in `extra_data`, beside prompt_id: servers before about 0.3.45 ignore the prompt_id that we send."""

PARTNER_KEY = "api_key_comfy_org"
"""Where ComfyUI's partner nodes find the user's key in `extra_data`: the one name that Comfy API v2 allows there."""

MESSAGE_CHARS = 2_000
TRACEBACK_CHARS = 16_000
TEXT_CHARS = 1_000_000
"""Caps of what is kept of a server's texts: an error's line, a traceback (its end tells most), a text output."""
TEXTS_BYTES = 4 * 1024**2
MAX_OUTPUTS = 20_000
LAST_TIME = 1e14
"""Caps of what is kept of one prompt: its texts together (they stand in the database until they are files), its outputs, its time in ms."""

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])?")

_PROMPT_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")


def plain(text: object, limit: int = MESSAGE_CHARS, *, keep_end: bool = False) -> str:
    """`text` without terminal escapes, control and invisible formatting characters (tab and newline stay), at most `limit` long."""
    if not isinstance(text, str):
        return ""
    text = text[-2 * limit :] if keep_end else text[: 2 * limit]
    text = _ESCAPES.sub("", text)
    text = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co"))
    return text[-limit:] if keep_end else text[:limit]


def line(text: object, limit: int = 200) -> str:
    """As `plain`, on one line: for versions, ids and types, which are shown in the middle of a sentence."""
    return re.sub(r"[\n\t]", " ", plain(text, limit)).strip()


def prompt_id(value: object) -> str | None:
    """The id of a prompt, or None for what cannot be one (it becomes part of a path and of our database)."""
    return value if isinstance(value, str) and _PROMPT_ID.fullmatch(value) else None


@dataclass(frozen=True, slots=True)
class QueueItem:
    """`prompt_id`: None if it is none. `job`: our id out of extra_data, if it is one of ours."""

    number: float
    prompt_id: str | None
    job: str | None


@dataclass(frozen=True, slots=True)
class Queue:
    """`pending` in the order in which it will run (the server sends heap order)."""

    running: tuple[QueueItem, ...]
    pending: tuple[QueueItem, ...]

    def __len__(self) -> int:
        return len(self.running) + len(self.pending)


class Outcome(StrEnum):
    SUCCESS = "success"
    ERROR = "error"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class NodeFailure:
    message: str
    node_id: str | None = None
    class_type: str | None = None
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class RemoteOutput:
    """A file as ComfyUI names it, or (`text` not None) a text that stands in the history itself. `group`: images, gifs, ..."""

    node_id: str
    group: str
    filename: str
    subfolder: str
    type: str
    text: str | None = None
    cached: bool = False


@dataclass(frozen=True, slots=True)
class History:
    """One finished prompt. `job` and `number` as in QueueItem, `finished` seconds since the epoch by the server's clock; None if it was not said.
    `failure` only with ERROR."""

    prompt_id: str
    outcome: Outcome
    job: str | None
    failure: NodeFailure | None
    outputs: tuple[RemoteOutput, ...]
    number: float | None = None
    finished: float | None = None


def read_version(answer: Any) -> str | None:
    """The version out of /system_stats; None for servers that don't say. Raises NotComfyUI."""
    system = answer.get("system") if isinstance(answer, dict) else None
    if not isinstance(system, dict) or not isinstance(answer.get("devices"), list):
        raise NotComfyUI("/system_stats is not ComfyUI's: JSON of another program answers on this port")
    version = system.get("comfyui_version")
    return line(version, 40) or None


def read_remaining(answer: Any) -> int | None:
    """The number of running and pending prompts out of GET /prompt or a `status` message; None if it does not say."""
    info = answer.get("exec_info") if isinstance(answer, dict) else None
    remaining = info.get("queue_remaining") if isinstance(info, dict) else None
    return remaining if type(remaining) is int and remaining >= 0 else None


def read_queue(answer: Any) -> Queue:
    """Raises NotComfyUI."""
    if not isinstance(answer, dict):
        raise NotComfyUI("/queue is not ComfyUI's")
    running, pending = answer.get("queue_running"), answer.get("queue_pending")
    if not isinstance(running, list) or not isinstance(pending, list):
        raise NotComfyUI("/queue is not ComfyUI's")
    in_order = sorted(_items(pending), key=lambda item: (item.number, item.prompt_id or ""))
    return Queue(tuple(_items(running)), tuple(in_order))


def _items(rows: list[Any]) -> Iterator[QueueItem]:
    for row in rows:
        if isinstance(row, list) and len(row) > 1 and isinstance(row[1], str):
            number = row[0] if type(row[0]) in (int, float) else 0
            yield QueueItem(number, prompt_id(row[1]), _our_id(row))


def _our_id(row: Any) -> str | None:
    """Our job's id in a queue item or in the `prompt` of a history entry: [number, id, graph, extra_data, ...]."""
    extra = row[3] if isinstance(row, list) and len(row) > 3 else None
    job = extra.get(JOB_KEY) if isinstance(extra, dict) else None
    return job if isinstance(job, str) else None


def read_history(answer: Any) -> dict[str, History]:
    """Every entry of an answer of /history, oldest first. Raises NotComfyUI."""
    if not isinstance(answer, dict):
        raise NotComfyUI("/history is not ComfyUI's")
    return {
        key: _entry(key, value) for key, value in answer.items() if prompt_id(key) and isinstance(value, dict)
    }


def _entry(prompt_id: str, entry: dict[str, Any]) -> History:
    status = entry.get("status")
    status = status if isinstance(status, dict) else {}
    messages = dict(_messages(status.get("messages")))
    outcome = Outcome.ERROR if status.get("status_str") == "error" else Outcome.SUCCESS
    failure = None
    if outcome is Outcome.ERROR:
        if "execution_interrupted" in messages:
            outcome = Outcome.INTERRUPTED
        else:
            failure = read_failure(messages.get("execution_error", {}))
    nodes = messages.get("execution_cached", {}).get("nodes")
    cached = {node for node in nodes if isinstance(node, str)} if isinstance(nodes, list) else set()
    outputs = entry.get("outputs")
    found = tuple(islice(_outputs(outputs, cached), MAX_OUTPUTS)) if isinstance(outputs, dict) else ()
    row = entry.get("prompt")
    number = row[0] if isinstance(row, list) and row and type(row[0]) in (int, float) else None
    return History(prompt_id, outcome, _our_id(row), failure, found, number, _finished(messages))


def _finished(messages: dict[str, dict[str, Any]]) -> float | None:
    for kind in ("execution_success", "execution_error", "execution_interrupted"):
        at = messages.get(kind, {}).get("timestamp")  # milliseconds (measured, 0.33)
        if isinstance(at, int | float) and not isinstance(at, bool) and 0 < at < LAST_TIME:
            return at / 1000
    return None


def _messages(rows: Any) -> Iterable[tuple[str, dict[str, Any]]]:
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) and isinstance(row[1], dict):
            yield row[0], row[1]


def read_failure(data: dict[str, Any]) -> NodeFailure:
    """An `execution_error` message, from the history or the websocket."""
    lines = data.get("traceback")
    trace = "".join(line for line in lines if isinstance(line, str)) if isinstance(lines, list) else ""
    kind = line(data.get("exception_type"))
    message = plain(data.get("exception_message")).strip() or "ComfyUI reported an error without a message"
    return NodeFailure(
        message=f"{kind}: {message}" if kind and kind != "Exception" else message,
        node_id=line(data.get("node_id")) or None,
        class_type=line(data.get("node_type")) or None,
        traceback=plain(trace, TRACEBACK_CHARS, keep_end=True) or None,
    )


def _outputs(outputs: dict[str, Any], cached: set[str]) -> Iterator[RemoteOutput]:
    """Every list of dicts with a `filename` is files, whatever its key; `text` is texts."""
    room = TEXTS_BYTES
    for node_id, groups in outputs.items():
        for group, rows in groups.items() if isinstance(groups, dict) else ():
            if not isinstance(rows, list):
                continue
            kept = node_id in cached
            if group == "text":
                text = written("\n".join(row for row in rows if isinstance(row, str))[:TEXT_CHARS])
                text = text.encode()[:room].decode(errors="ignore")
                room -= len(text.encode())
                if text:
                    yield RemoteOutput(
                        line(node_id), group, f"text_{line(node_id, 80)}.txt", "", "text", text, kept
                    )
            for row in rows:
                if isinstance(row, dict) and isinstance(row.get("filename"), str) and row["filename"]:
                    subfolder, place = row.get("subfolder"), row.get("type")
                    yield RemoteOutput(
                        line(node_id),
                        group,
                        written(row["filename"]),
                        written(subfolder) if isinstance(subfolder, str) else "",
                        written(place) if isinstance(place, str) else "output",
                        cached=kept,
                    )


def written(text: str) -> str:
    """`text` as UTF-8 can carry it: a name that is not UTF-8 on the server comes with lone surrogates."""
    return text.encode("utf-8", "replace").decode()


def read_rejection(body: Any) -> NodeFailure:
    """What a 400 of POST /prompt complains about: the first node's first error, told as ComfyUI tells it, with all in `traceback`."""
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, str):
        return NodeFailure(plain(error))
    error = error if isinstance(error, dict) else {}
    general = plain(error.get("message")) or "ComfyUI rejected the workflow"
    details = plain(error.get("details")).strip()
    lines = []
    first: tuple[str, str | None, str] | None = None
    for node_id, class_type, text in _complaints(body):
        where = f"node {node_id} ({class_type})" if class_type else f"node {node_id}"
        lines.append(f"{where}: {text}")
        first = first or (node_id, class_type, f"{where}: {text}")
    if first is None:
        return NodeFailure(_joined(general, details) if details else general)
    return NodeFailure(
        _joined(general, first[2]), first[0], first[1], plain("\n".join(lines), TRACEBACK_CHARS)
    )


def _joined(general: str, detail: str) -> str:
    """One sentence: ComfyUI may have ended its own."""
    return f"{general} {detail}" if general.endswith(("?", "!", ":")) else f"{general.rstrip('.')}: {detail}"


def _complaints(body: Any) -> Iterator[tuple[str, str | None, str]]:
    nodes = body.get("node_errors") if isinstance(body, dict) else None
    for node_id, node in nodes.items() if isinstance(nodes, dict) else ():
        errors = node.get("errors") if isinstance(node, dict) else None
        for error in errors if isinstance(errors, list) else ():
            if isinstance(error, dict):
                message, details = plain(error.get("message"), 500), plain(error.get("details"), 500)
                text = f"{message} ({details})" if details else message
                yield line(node_id), line(node.get("class_type")) or None, text


def skipped_outputs(node_errors: Any) -> list[str]:
    """The nodes that a 200 with `node_errors` leaves out in silence, as "node 5 (SaveImage): why"."""
    found = _complaints({"node_errors": node_errors})
    return [
        f"node {node} ({kind}): {text}" if kind else f"node {node}: {text}" for node, kind, text in found
    ][:20]
