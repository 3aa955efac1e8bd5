"""Rids a ComfyUI of the prompts that jobs have left behind there when they were moved to another place: each by its id, nothing else.

Nothing is fetched of them: their jobs are somewhere else, or at their end. A stray is gone when the ComfyUI that had it is another process, or
when it is neither running nor waiting there twice, with the settle time between, through one living link (run.py says why).
"""

from __future__ import annotations

import asyncio

import structlog

from comfytunnel.comfy.errors import ComfyError
from comfytunnel.errors import StateError
from comfytunnel.jobs.marker import Marker
from comfytunnel.jobs.place import JobsSettings, Place
from comfytunnel.jobs.store import Store
from comfytunnel.jobs.strays import Stray
from comfytunnel.jobs.verdict import Process

log = structlog.get_logger(__name__)

LOOK = 1.0
"""Seconds between two looks while there is something to be rid of: as long as between two interrupts (run.py)."""


class Straying:
    """One place's. `bell`: something was left behind."""

    def __init__(self, place: Place, store: Store, marker: Marker, settings: JobsSettings) -> None:
        self.bell = asyncio.Event()
        self.settings = settings
        self._place = place
        self._store = store
        self._marker = marker
        self._absent: dict[Stray, tuple[int | None, float]] = {}

    async def run(self) -> None:
        """For ever."""
        while True:
            self.bell.clear()
            try:
                left = await self._sweep()
            except (ComfyError, StateError) as error:
                log.debug("strays", place=self._place.name, why=error.message)
                if isinstance(error, ComfyError):
                    self._place.doubted()
                left = True
            if left:
                await asyncio.sleep(min(LOOK, self.settings.poll_max))
                await self._place.gate.until(lambda gate: gate.open)
            else:
                await self.bell.wait()

    async def _sweep(self) -> bool:
        """One look at each; whether any are left."""
        strays = await self._store.strays(self._place.name)
        if not self._place.gate.value.open:
            return bool(strays)
        for stray in strays:
            if await self._is_gone(stray):
                await self._store.gone(stray)
                self._absent.pop(stray, None)
                log.info("stray gone", place=self._place.name, prompt=stray.prompt_id)
        return bool(strays)

    async def _is_gone(self, stray: Stray) -> bool:
        link = self._place.gate.value.link
        if not await self._store.doom(stray):
            return False  # its job waits, and may come back to it
        if await self._marker.process(stray.server) is Process.OTHER:
            return True
        queue = await self._place.client.queue()
        for running, items in ((True, queue.running), (False, queue.pending)):
            for item in items:
                if item.prompt_id == stray.prompt_id or item.job == stray.given_id:
                    self._absent.pop(stray, None)
                    await self._cancel(item.prompt_id or stray.prompt_id, running=running)
                    return False
        now = asyncio.get_running_loop().time()
        since = self._absent.get(stray)
        if since is None or since[0] != link or self._place.gate.value.link != link:
            self._absent[stray] = (self._place.gate.value.link, now)
            return False
        return now - since[1] >= self.settings.settle

    async def _cancel(self, prompt_id: str, *, running: bool) -> None:
        if running:
            await self._place.client.interrupt(prompt_id)
        else:
            await self._place.client.delete_pending(prompt_id)
