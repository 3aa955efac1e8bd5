"""One life of the stand-in's inside: the queue, the one worker, the cache, the history. All of it dies with the process.

Queue and history are written here and nowhere else. The order of the websocket events, their shapes, and what goes wrong
(heap order, a worker that dies of two equal keys, interrupts between ticks only) were measured on 0.33. No HTTP here.
"""

from __future__ import annotations

import asyncio
import copy
import heapq
import struct
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from comfytunnel.demo.faults import Faults
from comfytunnel.demo.folders import Folders
from comfytunnel.demo.graph import Graph, Order, is_link, signatures
from comfytunnel.demo.nodes import NODES, Ui
from comfytunnel.demo.pictures import jpeg, png

Item = tuple[Any, str, Graph, dict[str, Any], list[str], dict[str, Any]]
"""(number, prompt id, workflow, extra_data, outputs, {}): a heap of plain tuples, as in the real one, with its flaw."""

HISTORY_LIMIT = 10_000
"""Entries kept (read, 0.33)."""

PREVIEW, PREVIEW_WITH_METADATA, JPEG, PNG = 1, 4, 1, 2
"""Types of binary frames, and the format number of JPEG (measured, 0.33)."""


class Interrupted(Exception):  # noqa: N818 (not an error: the user's wish)
    pass


class Audience(Protocol):
    """Where events go; client id None means everybody."""

    def send(self, event: str | int, data: Any, client: str | None = None) -> None: ...
    def wants_metadata(self, client: str | None) -> bool: ...


@dataclass(frozen=True, slots=True)
class Cached:
    outputs: tuple[Any, ...]
    ui: dict[str, Any] | None


class Engine:
    """Queue, worker and history. `started` gets each prompt id as its execution starts, `changed` says "look again"."""

    def __init__(
        self,
        folders: Folders,
        faults: Faults,
        audience: Audience,
        started: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        self.number = 0
        self.queue: list[Item] = []
        self.running: list[Item] = []
        self.history: dict[str, dict[str, Any]] = {}
        self.client: str | None = None
        self.last_node: str | None = None
        self._interrupt = False
        self._folders = folders
        self._faults = faults
        self._audience = audience
        self._started = started
        self._changed = changed
        self._arrived = asyncio.Event()
        self._cache: dict[str, Cached] = {}

    def info(self) -> dict[str, Any]:
        """The answer of GET /prompt."""
        return {"exec_info": {"queue_remaining": len(self.queue) + len(self.running)}}

    def put(self, item: Item) -> None:
        """Queue one item. Two items with equal number and id raise TypeError, and are queued all the same."""
        try:
            heapq.heappush(self.queue, item)
        finally:
            self._arrived.set()
        self._queue_changed()

    def delete(self, prompt_id: str) -> bool:
        """Take one pending item with this id out of the queue; it leaves no trace."""
        for index, item in enumerate(self.queue):
            if item[1] == prompt_id:
                del self.queue[index]
                heapq.heapify(self.queue)
                self._queue_changed()
                return True
        return False

    def clear(self) -> None:
        self.queue.clear()
        self._queue_changed()

    def interrupt(self, prompt_id: str | None = None) -> bool:
        """Ask the running job, if it has this id (None: whoever runs), to stop at its next tick or node."""
        if prompt_id is not None and not any(item[1] == prompt_id for item in self.running):
            return False
        if not self._faults.take("lose_interrupts"):
            self._interrupt = True
        return True

    async def work(self) -> None:
        """The worker: one item after the other, for ever."""
        while True:
            while not self.queue:
                self._arrived.clear()
                await self._arrived.wait()
            item = heapq.heappop(self.queue)
            self.running.append(copy.deepcopy(item))
            self._queue_changed()
            await asyncio.sleep(0)
            execution = _Execution(self, item)
            await execution.run()
            await asyncio.sleep(self._faults.history_late)
            self.running.clear()
            if len(self.history) > HISTORY_LIMIT:
                del self.history[next(iter(self.history))]
            self.history.pop(item[1], None)
            self.history[item[1]] = execution.entry()
            self._queue_changed()
            if self.client is not None:
                self._audience.send("executing", {"node": None, "prompt_id": item[1]}, self.client)

    def _queue_changed(self) -> None:
        self._audience.send("status", {"status": self.info()})
        self._changed()


class _Execution:
    """One run of one item; what its nodes see as their `Run`."""

    def __init__(self, engine: Engine, item: Item) -> None:
        self._engine = engine
        self._send = engine._audience.send
        _, self.prompt_id, self.prompt, self._extra, self._wanted, _ = self._item = item
        self.folders = engine._folders
        self.extra_pnginfo = self._extra.get("extra_pnginfo")
        self.padding = engine._faults.huge_output
        self._client: str | None = self._extra.get("client_id")
        self._node = ""
        self._states: dict[str, dict[str, Any]] = {}
        self._messages: list[tuple[str, dict[str, Any]]] = []
        self._ui: dict[str, dict[str, Any]] = {}
        self._executed: list[str] = []
        self._success = True
        self._results: dict[str, Cached] = {}

    def entry(self) -> dict[str, Any]:
        """The item's entry in history."""
        status = "success" if self._success else "error"
        return {
            "prompt": self._item[:5],
            "outputs": {node: ui["output"] for node, ui in self._ui.items()},
            "status": {"status_str": status, "completed": self._success, "messages": self._messages},
            "meta": {node: ui["meta"] for node, ui in self._ui.items()},
        }

    async def run(self) -> None:
        engine = self._engine
        engine._interrupt = False
        engine.client = self._client
        engine._started(self.prompt_id)
        engine._changed()
        self._message("execution_start")
        keys = signatures(self.prompt, self.folders)
        self._results = {node: engine._cache[key] for node, key in keys.items() if key in engine._cache}
        # What this workflow does not use is forgotten: so 0.33 does on machines with less than 128 GB (measured).
        engine._cache = {keys[node]: cached for node, cached in self._results.items()}
        self._message("execution_cached", nodes=list(self._results))
        order = Order(self.prompt, self._wanted, set(self._results))
        while (node := order.take()) is not None:
            await asyncio.sleep(0)
            if node in self._results:
                self._repeat(node)
            elif not await self._execute(node):
                break
            elif keys[node]:
                engine._cache[keys[node]] = self._results[node]
            order.finish(node)
        else:
            self._message("execution_success")
        engine.last_node = None

    def tick(
        self, value: int, total: int, preview: Image.Image | None = None, *, whole: bool = False
    ) -> None:
        self._throw_if_interrupted()
        self._state(self._node, float(value), float(total), "running")
        picture = (png if whole else jpeg)(preview) if preview else None
        metadata = self._engine._audience.wants_metadata(self._client)
        if picture and metadata:
            self._send(PREVIEW_WITH_METADATA, self._with_metadata(picture, whole=whole), self._client)
        place = {"prompt_id": self.prompt_id, "node": self._node}
        self._send("progress", {"value": value, "max": total, **place}, self._client)
        if picture and not metadata:
            self._send(PREVIEW, struct.pack(">I", PNG if whole else JPEG) + picture, self._client)

    async def _execute(self, node: str) -> bool:
        """Run one node; False when it failed or was interrupted, which has then been said."""
        kind = NODES[self.prompt[node]["class_type"]]
        self._node = node
        inputs: dict[str, Any] = {}
        self._state(node, 0.0, 1.0, "running")
        if self._client is not None:
            self._engine.last_node = node
            place = {"node": node, "display_node": node, "prompt_id": self.prompt_id}
            self._send("executing", place, self._client)
        try:
            for name, value in self.prompt[node]["inputs"].items():
                inputs[name] = self._results[value[0]].outputs[value[1]] if is_link(value) else value
            self._throw_if_interrupted()
            outputs, ui = await kind.run(self, inputs)
        except Interrupted:
            self._failed(node, "execution_interrupted")
            return False
        except Exception as error:  # noqa: BLE001 (a node may raise anything; it becomes the job's error)
            self._failed(
                node,
                "execution_error",
                exception_message=f"{error}\n",
                exception_type=type(error).__name__,
                traceback=traceback.format_tb(error.__traceback__),
                current_inputs={name: [_shown(value)] for name, value in inputs.items()},
                current_outputs=list(self.prompt),
            )
            return False
        shown = None
        if ui:
            meta = {"node_id": node, "display_node": node, "parent_node": None, "real_node_id": node}
            shown = self._ui[node] = {"meta": meta, "output": self._spoilt(ui)}
            self._say_executed(node, shown)
        self._results[node] = Cached(outputs, shown)
        self._finished(node)
        self._executed.append(node)
        return True

    def _repeat(self, node: str) -> None:
        """An output that is cached: its old files are named again, and only to a client that gave its id."""
        cached = self._results[node]
        if cached.ui:
            self._ui[node] = cached.ui
        self._say_executed(node, cached.ui)
        self._finished(node)

    def _say_executed(self, node: str, ui: dict[str, Any] | None) -> None:
        if self._client is not None:
            output = ui["output"] if ui else None
            place = {"node": node, "display_node": node, "output": output, "prompt_id": self.prompt_id}
            self._send("executed", place, self._client)

    def _finished(self, node: str) -> None:
        total = self._states.get(node, {"max": 1})["max"]
        self._state(node, total, total, "finished")

    def _failed(self, node: str, event: str, **details: Any) -> None:
        self._success = False
        place = {
            "node_id": node,
            "node_type": self.prompt[node]["class_type"],
            "executed": list(self._executed),
        }
        self._message(event, broadcast=event == "execution_interrupted", **place, **details)

    def _message(self, event: str, *, broadcast: bool = False, **data: Any) -> None:
        """Into the history; to the client if it gave its id; an interruption also to everybody otherwise."""
        whole = {"prompt_id": self.prompt_id, **data, "timestamp": int(time.time() * 1000)}
        self._messages.append((event, whole))
        if self._client is not None or broadcast:
            self._send(event, whole, self._client)

    def _state(self, node: str, value: float, total: float, state: str) -> None:
        names = {"node_id": node, "prompt_id": self.prompt_id, **_display(node)}
        self._states[node] = {"value": value, "max": total, "state": state, **names}
        self._send("progress_state", {"prompt_id": self.prompt_id, "nodes": dict(self._states)}, self._client)

    def _with_metadata(self, picture: bytes, *, whole: bool) -> tuple[dict[str, Any], bytes]:
        place = {"node_id": self._node, "prompt_id": self.prompt_id, "display_node_id": self._node}
        return place | {
            "parent_node_id": None,
            "real_node_id": self._node,
            "image_type": "image/png" if whole else "image/jpeg",
        }, picture

    def _throw_if_interrupted(self) -> None:
        if self._engine._interrupt:
            self._engine._interrupt = False
            raise Interrupted

    def _spoilt(self, ui: Ui) -> Ui:
        """What the node wrote, or what the faults make of it."""
        faults = self._engine._faults
        files: list[Mapping[str, Any]] = ui["images"]
        if faults.evil_filename:
            files = list(faults.evil_filename) * len(files)
        ghosts = [
            {"filename": f"ghost_{i:05}_.png", "subfolder": "", "type": "output"}
            for i in range(faults.many_outputs)
        ]
        return {"images": [*files, *ghosts]}


def _display(node: str) -> dict[str, str | None]:
    """How a node that belongs to no subgraph is named in progress events."""
    return {"display_node_id": node, "parent_node_id": None, "real_node_id": node}


def _shown(value: Any) -> Any:
    return value if isinstance(value, int | float | bool | str | None) else str(value)
