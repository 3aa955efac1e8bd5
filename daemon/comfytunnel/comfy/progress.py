"""Websocket frames of ComfyUI -> a small union of progress events.

`parse` is pure and never raises: what it does not know or cannot trust is None. `listen` opens one socket and yields until it ends.
Progress is all that the websocket is for: queue and history are the truth, so a lost or invented frame costs a poll, never a job.
Protocol measured on 0.33.0 and 0.3.64.
"""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import aiohttp
import msgspec

from comfytunnel.comfy.client import Client
from comfytunnel.comfy.errors import Ambiguous
from comfytunnel.comfy.shapes import line, plain, prompt_id, read_remaining

PREVIEW_TYPES = {1: "image/jpeg", 2: "image/png"}
MAX_TEXT = 1024**2
"""Bytes of a JSON message that is decoded; what is longer carries some node's own output."""
SILENCE = 60.0
"""Seconds without any frame, pong included, after which the socket counts as dead (aiohttp pings every 20)."""


@dataclass(frozen=True, slots=True)
class QueueChanged:
    """`remaining`: running and pending prompts, of everybody; None if it was not said."""

    remaining: int | None


@dataclass(frozen=True, slots=True)
class Started:
    prompt_id: str


@dataclass(frozen=True, slots=True)
class Cached:
    """These nodes need not run: they count as done."""

    prompt_id: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NodeStarted:
    """`prompt_id` is None in the message that a server sends after a reconnect: it means the running job of this client id."""

    prompt_id: str | None
    node: str


@dataclass(frozen=True, slots=True)
class NodeDone:
    prompt_id: str
    node: str


@dataclass(frozen=True, slots=True)
class Step:
    """`step` of `steps` within a node."""

    prompt_id: str | None
    node: str | None
    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class Nodes:
    """The whole state as newer servers tell it: nodes that are finished, and (node, step, steps) of those that run."""

    prompt_id: str
    finished: tuple[str, ...]
    running: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """The prompt has ended, well or not. History may not know yet (2 of 100 times, measured)."""

    prompt_id: str


@dataclass(frozen=True, slots=True)
class PreviewFrame:
    """`prompt_id` and `node` are None on older servers: then it belongs to the running job of this client id."""

    prompt_id: str | None
    node: str | None
    content_type: str
    data: bytes


Event: TypeAlias = (
    QueueChanged | Started | Cached | NodeStarted | NodeDone | Step | Nodes | Finished | PreviewFrame
)


def parse(frame: str | bytes) -> Event | None:
    """One websocket message as an event, None if it says nothing to us."""
    if isinstance(frame, bytes):
        return _binary(frame)
    if len(frame) > MAX_TEXT:
        return None
    try:
        message = msgspec.json.decode(frame)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return None
    if not isinstance(message, dict) or not isinstance(message.get("data"), dict):
        return None
    return _text(message.get("type"), message["data"])


def _text(kind: Any, data: dict[str, Any]) -> Event | None:
    prompt, node = prompt_id(data.get("prompt_id")), _id(data.get("node"))
    if kind == "status":
        return QueueChanged(read_remaining(data.get("status")))
    if kind == "progress":
        steps = _count(data.get("max"))
        return Step(prompt, node, min(_count(data.get("value")), steps), steps) if steps else None
    if kind == "executing" and node is not None:
        return NodeStarted(prompt, node)
    if prompt is None:
        return None
    if kind == "execution_start":
        return Started(prompt)
    if kind == "execution_cached":
        return Cached(prompt, _ids(data.get("nodes")))
    if kind == "executed" and node is not None:
        return NodeDone(prompt, node)
    if kind == "progress_state" and isinstance(data.get("nodes"), dict):
        return _nodes(prompt, data["nodes"])
    if kind in ("execution_success", "execution_error", "execution_interrupted", "executing"):
        return Finished(prompt)  # `executing` with node null, after the history entry has been made
    return None


def _nodes(prompt: str, nodes: dict[str, Any]) -> Nodes:
    finished, running = [], []
    for key, node in nodes.items():
        if not isinstance(node, dict):
            continue
        node_id = (
            _id(node.get("real_node_id")) or key
        )  # a node that a subgraph made counts as the one that the user drew
        if node.get("state") == "finished" and node_id == key:
            finished.append(node_id)
        elif node.get("state") == "running":
            running.append((node_id, _count(node.get("value")), _count(node.get("max"))))
    return Nodes(prompt, tuple(finished), tuple(running))


def _binary(frame: bytes) -> PreviewFrame | None:
    """Big-endian u32 type; 1: u32 format and a picture; 4: u32 length, JSON and a picture."""
    if len(frame) < 8:
        return None
    kind, second = struct.unpack_from(">II", frame)
    if kind == 1 and second in PREVIEW_TYPES:
        return PreviewFrame(None, None, PREVIEW_TYPES[second], frame[8:])
    if kind != 4 or second > min(len(frame) - 8, MAX_TEXT):
        return None
    try:
        about = msgspec.json.decode(frame[8 : 8 + second])
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return None
    if not isinstance(about, dict) or about.get("image_type") not in PREVIEW_TYPES.values():
        return None
    node = _id(about.get("real_node_id")) or _id(about.get("node_id"))
    return PreviewFrame(prompt_id(about.get("prompt_id")), node, about["image_type"], frame[8 + second :])


def _id(value: Any) -> str | None:
    return line(value) or None


def _ids(value: Any) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _count(value: Any) -> int:
    fine = type(value) in (int, float) and math.isfinite(value) and 0 <= value < 2**31
    return int(value) if fine else 0


@asynccontextmanager
async def listen(client: Client, client_id: str) -> AsyncIterator[AsyncIterator[Event]]:
    """One websocket: `async with listen(...) as events`. Leaving closes it properly (a server keeps no hung client).

    Raises ComfyError if it cannot be opened, and out of the iterator when it breaks.
    """
    socket = await client.websocket(client_id)
    try:
        await socket.send_str('{"type":"feature_flags","data":{"supports_preview_metadata":true}}')
        async with aclosing(_events(socket)) as events:
            yield events
    except (aiohttp.ClientError, OSError) as error:
        raise Ambiguous(f"the websocket broke ({plain(str(error), 200)})") from error
    finally:
        await socket.close()


async def _events(socket: aiohttp.ClientWebSocketResponse[bool]) -> AsyncGenerator[Event, None]:
    while True:
        try:
            async with asyncio.timeout(SILENCE):
                message = await socket.receive()
        except TimeoutError:
            # a quiet server is normal: aiohttp's heartbeat has checked that it still answers pings
            continue
        if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            event = parse(message.data)
            if event is not None:
                yield event
        elif message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED):
            raise Ambiguous("the websocket was closed")
        elif message.type is aiohttp.WSMsgType.ERROR:
            raise Ambiguous("the websocket broke")
