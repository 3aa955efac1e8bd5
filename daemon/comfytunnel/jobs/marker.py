"""The proof that ComfyUI is, or is no longer, the process that was given a job.

ComfyUI keeps queue and history in memory and wipes temp/ when it starts. So at first contact a tiny file with a nonce in its name is
left in temp/: as long as it is there it is the same process, and once it is gone it is another. (Process ids prove nothing: restarts by
ComfyUI-Manager are execv.) The marker's name is written into each job before its POST.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import uuid4

import structlog

from comfytunnel.comfy.client import Client
from comfytunnel.comfy.errors import Ambiguous, NotComfyUI, Refused
from comfytunnel.jobs.verdict import Process

log = structlog.get_logger(__name__)


class Marker:
    """One place's. Without a marker (the server takes no uploads) losses stay unproven."""

    def __init__(self, client: Client, renewed: Callable[[], None] = lambda: None) -> None:
        """`renewed` is called when a marker was left: the process that answers is not the one before."""
        self._client = client
        self._renewed = renewed
        self._ensuring = asyncio.Lock()
        self._name: str | None = None
        self._version: str | None = None
        self._fresh = False
        self._number = float("-inf")

    def doubt(self) -> None:
        """Something happened after which it may be another process: look before the next job is given out."""
        self._fresh = False

    def numbered(self, number: float | None) -> None:
        """A prompt got this number. Numbers only grow within a process (we never ask for a number or for the front)."""
        if number is not None:
            if number <= self._number:
                self.doubt()
            self._number = number

    async def ensure(self) -> str | None:
        """The marker of the process that answers now, left there if need be; None if it takes none. Raises ComfyError."""
        async with self._ensuring:
            return await self._ensure()

    async def _ensure(self) -> str | None:
        if self._name is not None:
            if self._fresh:
                return self._name
            if await self._client.has_temp(self._name):
                self._fresh = True
                return self._name
        self._name = None
        self._number = float("-inf")
        try:
            for _ in range(2):  # it may be restarted just between the two
                name = f"comfytunnel-{uuid4().hex}.txt"
                given = await self._client.upload_temp(
                    name, b"comfytunnel looks for this file to notice a restart\n"
                )
                if await self._client.has_temp(given):  # believed only once seen: its absence will be a proof
                    self._name, self._fresh, self._version = given, True, None
                    self._renewed()
                    self._version = await self._client.version()
                    break
        except (Refused, NotComfyUI) as error:
            log.warning("marker refused", why=error.message)
        except Ambiguous as error:
            if error.status is None:
                raise
            log.warning("marker refused", why=error.message)
        return self._name

    def version_of(self, marker: str | None) -> str | None:
        """The version of the ComfyUI where `marker` was left, None if it is not known."""
        return self._version if marker is not None and marker == self._name else None

    async def process(self, marker: str | None) -> Process:
        """Whether the ComfyUI that answers is the one where `marker` was left. Raises ComfyError."""
        if marker is None:
            return Process.UNKNOWN
        if await self._client.has_temp(marker):
            return Process.SAME
        self.doubt()
        return Process.OTHER
