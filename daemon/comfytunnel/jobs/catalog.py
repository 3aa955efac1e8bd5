"""The node classes of one place's ComfyUI: learnt when it begins to serve and again when it is another process, kept on disk (shelf.py), and
asked whether a workflow would be taken.

Fresh is what the process that serves now has told: its temp marker says so. All else is stale, and refuses less. A refusal is confirmed first:
models come and go within one process, so the classes in question are asked for again. Nothing of it lies in memory while nobody submits.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import structlog

from comfytunnel.comfy.errors import ComfyError
from comfytunnel.feed import Feed
from comfytunnel.jobs import shelf
from comfytunnel.jobs.disk import on_thread
from comfytunnel.jobs.marker import Marker
from comfytunnel.jobs.place import Place
from comfytunnel.jobs.shelf import Index, Shelf, Told
from comfytunnel.workflow.nodeinfo import OPAQUE, NodeInfo, read_node
from comfytunnel.workflow.validate import Known, Verdict, judge

log = structlog.get_logger(__name__)

RETRY_MIN, RETRY_MAX = 5.0, 300.0
"""Seconds between attempts to learn while it serves."""
CONFIRM_DEADLINE = 3.0
"""Seconds for which a refusal waits for ComfyUI's confirmation; without it, it counts as stale."""
CONFIRMED = 8
"""Classes that are asked for again; each is a round trip."""
FORGET = 60.0
"""Seconds without a question after which what was read from the file is forgotten."""
MAX_NODES = 2_000
"""Classes that are kept in memory meanwhile: a workflow has some tens."""


class _Read(msgspec.Struct):
    """What has been read of one file."""

    identity: tuple[int, int, int]
    index: Index
    nodes: dict[str, NodeInfo]


class Catalog:
    """One place's. `run` learns, until cancelled; the rest may be called without it. `folder`: where the files are kept."""

    def __init__(self, place: Place, folder: Path, now: Callable[[], datetime]) -> None:
        self.place = place
        self._folder = folder
        self._now = now
        self._stir = asyncio.Event()
        self._again = False
        self.link: Feed[int | None] = Feed(None)
        """The link through which the process that serves was seen to be the one that told."""
        self._read: _Read | None = None
        self._forgetting: asyncio.TimerHandle | None = None

    @property
    def path(self) -> Path:
        """Another ComfyUI, another file: `address` tells them apart."""
        name = f"{self.place.name}\n{self.place.address()}"
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.nodes"

    @property
    def fresh(self) -> bool:
        gate = self.place.gate.value
        return gate.open and gate.link == self.link.value

    def close(self) -> None:
        """Forget what is in memory."""
        if self._forgetting is not None:
            self._forgetting.cancel()
        self._forgetting = self._read = None

    # --- learning ---------------------------------------------------------------------------------------------------

    def doubt(self) -> None:
        """It may be another process: look."""
        self.link.set(None)
        self._stir.set()

    async def run(self, marker: Marker) -> None:
        """Learn whenever there may be something to learn, for ever. `doubt` is called when the gate opens."""
        pause = RETRY_MIN
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause if self.place.gate.value.open and not self.fresh else None):
                    await self._stir.wait()
                    pause = RETRY_MIN
            self._stir.clear()
            if not self.place.gate.value.open:
                continue
            try:
                await self._learn(marker)
            except (ComfyError, OSError, ValueError) as error:
                pause = min(pause * 2, RETRY_MAX)
                log.info("nodes not learnt", place=self.place.name, why=str(error), again_in=pause)

    async def _learn(self, marker: Marker) -> None:
        link, path, client = self.place.gate.value.link, self.path, self.place.client
        again, self._again = self._again, False
        name = await marker.ensure()
        before = await on_thread(lambda: _told(path))
        same = before is not None and before.marker is not None and (
            before.marker == name or await client.has_temp(before.marker)
        )  # fmt: skip
        if again or not same:
            raw = await client.object_info()
            told = Told(
                at=self._now(),
                marker=name,
                version=marker.version_of(name),
                replaced=await client.replaced_classes(),
            )
            if name is not None and not await client.has_temp(name):
                raise ValueError("it was restarted while it told")
            number = await on_thread(lambda: shelf.put(path, told, raw))
            log.info("nodes", place=self.place.name, classes=number, bytes=len(raw))
        if self.place.gate.value.link == link and self.path == path:
            self.link.set(link)

    # --- asked ------------------------------------------------------------------------------------------------------

    async def told(self) -> Told | None:
        """When and by which ComfyUI it was told; None: nothing is known."""
        return await on_thread(lambda: _told(self.path))

    async def entry(self, class_type: str) -> bytes | None:
        """A class's whole entry, JSON as ComfyUI told it; None if there is none. Every field of it is the far side's."""
        path = self.path

        def read() -> bytes | None:
            try:
                with Shelf(path) as file:
                    index = file.index()
                    return file.entry(index, class_type) if class_type in index.nodes else None
            except (OSError, ValueError):
                return None

        return await on_thread(read)

    async def nodes(self, names: Collection[str]) -> dict[str, NodeInfo]:
        """What was told of these classes; one of which nothing is known is absent."""
        path = self.path

        def read() -> dict[str, NodeInfo]:
            try:
                with Shelf(path) as file:
                    kept = self._opened(file)
                    found = {name: _node(kept, file, name) for name in names}
            except (OSError, ValueError):
                return {}
            return {name: info for name, info in found.items() if info is not None}

        found = await on_thread(read)
        self._forget_later()
        return found

    async def entries(self, class_types: Collection[str]) -> dict[str, bytes] | None:
        """Those of them that there are, as `entry`; None: nothing is known of this ComfyUI."""
        path = self.path

        def read() -> dict[str, bytes] | None:
            try:
                with Shelf(path) as file:
                    index = file.index()
                    found = {name: file.entry(index, name) for name in class_types if name in index.nodes}
            except (OSError, ValueError):
                return None
            return {name: entry for name, entry in found.items() if entry is not None}

        return await on_thread(read)

    async def judge(
        self, workflow: Mapping[str, Any], ours: Collection[tuple[str, str]]
    ) -> tuple[Verdict, Told, bool] | None:
        """The verdict, on whose word, and whether that was stale. None: nothing is known, so nothing is judged."""
        fresh, again = self.fresh, dict[str, NodeInfo | None]()
        found = await self._judged(workflow, ours, again, stale=not fresh)
        if found is None or not fresh or not found[0].refused:
            return None if found is None else (*found, not fresh)
        wrong = dict.fromkeys(
            each.class_type for each in found[0].problems if each.surely and each.class_type
        )
        try:
            async with asyncio.timeout(CONFIRM_DEADLINE):
                for class_type in list(wrong)[:CONFIRMED]:
                    entry = shelf.one(await self.place.client.object_info(class_type), class_type)
                    again[class_type] = None if entry is None else read_node(class_type, entry)
        except (ComfyError, TimeoutError, ValueError) as error:
            log.info("refusal not confirmed", place=self.place.name, why=str(error))
            self.place.doubted()
            fresh = False
        confirmed = await self._judged(workflow, ours, again, stale=not fresh)
        if confirmed is None:
            return None
        if fresh and confirmed[0] != found[0]:
            self._again = True  # it has changed since: learn it anew
            self._stir.set()
        return *confirmed, not fresh

    async def _judged(
        self,
        workflow: Mapping[str, Any],
        ours: Collection[tuple[str, str]],
        instead: Mapping[str, NodeInfo | None],
        *,
        stale: bool,
    ) -> tuple[Verdict, Told] | None:
        path = self.path

        def work() -> tuple[Verdict, Told] | None:
            try:
                with Shelf(path) as file:
                    read = self._opened(file)
                    told = read.index.told

                    def node(class_type: str) -> NodeInfo | None:
                        if class_type in instead and (instead[class_type] or class_type not in told.replaced):
                            return instead[class_type]
                        return _node(read, file, class_type)

                    known = Known(node, lambda: [*read.index.nodes, *told.replaced], stale)
                    return judge(workflow, known, ours), told
            except FileNotFoundError:
                return None
            except (OSError, ValueError) as error:
                log.warning("nodes not read", place=self.place.name, why=str(error))
                return None

        found = await on_thread(work)
        self._forget_later()
        return found

    def _forget_later(self) -> None:
        if self._forgetting is not None:
            self._forgetting.cancel()
        self._forgetting = asyncio.get_running_loop().call_later(FORGET, self.close)

    def _opened(self, file: Shelf) -> _Read:
        read = self._read
        if read is None or read.identity != file.identity or len(read.nodes) > MAX_NODES:
            read = self._read = _Read(file.identity, file.index(), {})
        return read


def _node(read: _Read, file: Shelf, class_type: str) -> NodeInfo | None:
    if class_type not in read.index.nodes:
        return OPAQUE if class_type in read.index.told.replaced else None
    if class_type not in read.nodes:
        entry = file.entry(read.index, class_type)
        read.nodes[class_type] = OPAQUE if entry is None else read_node(class_type, entry)
    return read.nodes[class_type]


def _told(path: Path) -> Told | None:
    try:
        with Shelf(path) as file:
            return file.index().told
    except (OSError, ValueError):
        return None
