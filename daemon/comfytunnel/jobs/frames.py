"""The pictures that a job's nodes send over the websocket and nowhere else (SaveImageWebsocket): kept until they can be put down.

History says nothing of them and nothing is sent twice, so they are all here for certain only if one and the same socket heard the job begin and
end; else the job says that one may be missing. Frames as measured on 0.33: one PNG for each picture, without their number.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime

from comfytunnel.comfy.progress import Event, Finished, NodeStarted, PreviewFrame, Started
from comfytunnel.jobs.listener import Listener
from comfytunnel.jobs.model import Failure, Status
from comfytunnel.jobs.transitions import Changes
from comfytunnel.jobs.verdict import ended
from comfytunnel.workflow.graph import Graph

SENDERS = frozenset({"SaveImageWebsocket"})
"""Node classes whose PNG frames are outputs. What others send are previews."""
MOST_BYTES = 256 * 1024**2
"""Bytes of one job's pictures that are kept in memory; what is more counts as missing."""
MOST = 1000
"""Pictures of one job that are kept."""
OPENING = 10.0
"""Seconds that a job waits for the socket before it is given to ComfyUI without one."""
SILENCE = 30.0
"""Seconds without a frame after the job's end in history, until what has not come is given up: a large picture on a thin line comes
late, and the end is said after it."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One PNG as `node_id` sent it."""

    node_id: str
    data: bytes


class Frames:
    """One job's. `expect` a graph, then `feed` events that are about this job."""

    def __init__(self) -> None:
        self.pictures: list[Picture] = []
        self._senders: frozenset[str] = frozenset()
        self._size = 0
        self._session: int | None = None
        self._current: str | None = None
        self._whole = False
        self._stirred = asyncio.Event()

    def expect(self, graph: Graph) -> None:
        self._senders = frozenset(key for key, node in graph.nodes.items() if node.class_type in SENDERS)

    def feed(self, event: Event, session: int) -> None:
        """`session`: which of the listener's sockets it came through."""
        match event:
            case _ if not self._senders:
                return
            case Started():
                self._session = session
            case NodeStarted(node=node):
                self._current = node
            case PreviewFrame(node=node, content_type="image/png", data=data):
                sender = node or self._current  # older servers do not say whose it is
                if sender in self._senders:
                    self._keep(Picture(sender, data))
            case Finished():
                self._whole = self._session == session
        self._stirred.set()

    def _keep(self, picture: Picture) -> None:
        self._size += len(picture.data)
        if self._size > MOST_BYTES or len(self.pictures) >= MOST:
            self._session = None
        else:
            self.pictures.append(picture)

    async def first(self, listener: Listener) -> None:
        """The job is about to be given to ComfyUI: wait a moment for the socket, if it depends on it."""
        if self._senders:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(OPENING):
                    await listener.open.until(bool)

    async def last(self, listener: Listener) -> None:
        """The job has ended: wait for what is still on its way, while it comes."""
        while self._session == listener.session and listener.open.value and not self._whole:
            self._stirred.clear()
            try:
                async with asyncio.timeout(SILENCE):
                    await self._stirred.wait()
            except TimeoutError:
                return

    def verdict(self, here: AbstractSet[str], now: datetime) -> Changes:
        """The end of a job whose other outputs have come home; `here`: nodes of which something is on disk."""
        if self._whole or not self._senders:
            return ended(Status.SUCCEEDED, now)
        without = sorted(self._senders - here)
        if without:
            text = (
                f"Node {without[0]} sends its pictures over the websocket only, and comfytunnel did not hear it from beginning to end: "
                "nothing of it came. Retry the job, or save with SaveImage, whose files can be fetched at any time."
            )
            return ended(Status.FAILED, now, Failure("output_missed", text, without[0]))
        changes = ended(Status.SUCCEEDED, now)
        changes["note"] = (
            "Some of its pictures are sent over the websocket only, which was not heard from beginning to end: one may be missing. "
            "SaveImage makes files that can be fetched at any time."
        )
        return changes
