"""How a job is carried through trouble: try again, say what it waits for and since when, wait for the road.

Trouble with the road, with ComfyUI, our disk or our database never fails a job. What is done, and what an answer means, is run.py's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

import msgspec
import structlog

from comfytunnel.comfy.errors import ComfyError
from comfytunnel.errors import StateError
from comfytunnel.jobs.landing import Trouble
from comfytunnel.jobs.marker import Marker
from comfytunnel.jobs.model import Job, Waits
from comfytunnel.jobs.place import JobsSettings, Place

log = structlog.get_logger(__name__)

T = TypeVar("T")

RETRY_MIN = 0.25
"""Seconds of the first pause after trouble; each further one is twice as long."""


class Patience:
    """What a Run is besides its steps. `waits`: what it waits for now; `wake` ends a pause at once."""

    job: Job

    def __init__(
        self,
        place: Place,
        marker: Marker,
        settings: JobsSettings,
        *,
        now: Callable[[], datetime],
        changed: Callable[[], None],
    ) -> None:
        self.waits: Waits | None = None
        self.wake = asyncio.Event()
        self.settings = settings
        self._place = place
        self._marker = marker
        self._now = now
        self._changed = changed
        self._troubles = 0

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do `work` again until it goes through: trouble with the road, our disk or our database never fails a job."""
        while True:
            try:
                return await work()
            except (ComfyError, StateError, Trouble) as error:
                await self._trouble(error)

    async def _trouble(self, error: ComfyError | StateError | Trouble) -> None:
        """Say what is wrong and wait a moment, longer each time."""
        self._doubt(error)
        self._troubles += 1
        self.wake.clear()
        if isinstance(error, Trouble):
            await self._pause(
                self.settings.retry_max
            )  # a disk does not mend in a moment, and each try begins a download
            return
        await self._pause(min(RETRY_MIN * 2 ** min(self._troubles - 1, 10), self.settings.retry_max))

    def _doubt(self, error: ComfyError | StateError | Trouble) -> None:
        """Say what is wrong; if it is not ours, have ComfyUI looked at."""
        if isinstance(error, ComfyError):
            self._marker.doubt()
            self._place.doubted()
            self._wait_for(Waits("no_answer", f"ComfyUI did not answer: {error.message}.", error.hint))
        elif isinstance(error, StateError):
            log.warning("state", job=self.job.id, why=error.message)
            self._wait_for(Waits(error.code_on_wire, error.message, error.hint))
        else:
            self._wait_for(Waits(error.code, error.message, error.hint))

    async def _gate_open(self) -> int:
        """The number of the link, once there is one and ComfyUI serves."""
        gate = self._place.gate.value
        if not gate.open:
            async for gate in self._place.gate.changes():
                if gate.open:
                    break
                self._wait_for(gate.why or Waits("not_serving", "The tunnel or ComfyUI is not there."))
            self._settle_down()
        assert gate.link is not None
        return gate.link

    async def _pause(self, seconds: float) -> bool:
        """Wait; True if somebody woke us."""
        try:
            async with asyncio.timeout(seconds):
                await self.wake.wait()
        except TimeoutError:
            return False
        return True

    def _wait_for(self, waits: Waits) -> None:
        same = self.waits is not None and self.waits.code == waits.code
        since = self.waits.since if self.waits is not None and same else waits.since or self._now()
        if self.waits != (waits := msgspec.structs.replace(waits, since=since)):
            self.waits = waits
            self._changed()

    def _settle_down(self) -> None:
        self._troubles = 0
        if self.waits is not None:
            self.waits = None
            self._changed()
