"""The jobs room on a test bench: a real store and scheduler here, the ComfyUI stand-in there, and a gate that the test opens and closes.

`kill` ends the scheduler as a kill -9 would as far as the disk is concerned: nothing is said or written any more, and `start` goes
on with a new Store on the same file.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from comfytunnel.comfy.client import Client
from comfytunnel.demo.comfyui import ComfyUI
from comfytunnel.feed import Feed
from comfytunnel.jobs.model import Job, NewJob, Stage, Status, Waits
from comfytunnel.jobs.names import MANIFEST
from comfytunnel.jobs.scheduler import Gate, JobsSettings, Place, Scheduler
from comfytunnel.jobs.store import Store

DEADLINE = 20.0


def picture(
    color: int = 0xFF0000, *, prefix: str = "pic", seconds: float = 0.0, steps: int = 4
) -> dict[str, Any]:
    """A workflow that saves one PNG, after `seconds` of work in so many steps."""
    graph: dict[str, Any] = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 32, "height": 32, "batch_size": 1, "color": color},
        },
        "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }
    if seconds:
        graph["2"] = {
            "class_type": "DemoSlow",
            "inputs": {"image": ["1", 0], "seconds": seconds, "steps": steps},
            "_meta": {"title": "Patience"},
        }
        graph["9"]["inputs"]["images"] = ["2", 0]
    return graph


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.far = ComfyUI(folder / "far")
        self.settings = JobsSettings(
            output_dir=folder / "pictures", settle=0.3, poll_min=0.05, poll_max=0.2, retry_max=0.3
        )
        self.gate = Feed(Gate(None, False, Waits("connecting", "The tunnel is still connecting.")))
        self.links = 0
        self.address = "one"
        self.store: Store
        self.scheduler: Scheduler
        self._client: Client | None = None
        self._running: asyncio.Task[Any] | None = None

    async def start(self, *, running: bool = True, **settings: Any) -> None:
        """A new process of ours on the same files; not `running`: it answers, and carries no jobs yet."""
        self.settings = replace(self.settings, **settings)
        self.store = await Store.open(self.folder / "jobs.db")
        self.client = Client(self.far.url if self.far.port else "http://127.0.0.1:9")
        self.place = Place("default", self.client, self.gate, address=lambda: self.address)
        self.scheduler = Scheduler(self.store, {"default": self.place}, self.settings)
        self._running = asyncio.create_task(self.scheduler.run() if running else asyncio.Event().wait())

    async def kill(self) -> None:
        assert self._running is not None
        self._running.cancel()
        await asyncio.wait([self._running])
        await self.client.close()
        await self.store.close()
        self._running = None

    async def stop(self) -> None:
        if self._running is not None:
            running = self._running
            await self.kill()
            if not running.cancelled():
                running.result()
        await self.stop_far()

    async def restart_far(self) -> None:
        """Another ComfyUI process on the same port and folders."""
        await self.stop_far()
        await self.far.start(port=self.far.port)

    async def stop_far(self) -> None:
        """End the ComfyUI process as a kill does."""
        await self.far.stop()
        # A kill closes every socket; the stand-in overlooks a connection that comes while it ends, and the collector would complain.
        for _ in range(5):
            await asyncio.sleep(0.005)
            for found in gc.get_objects():
                if isinstance(found, asyncio.Transport) and not found.is_closing():
                    name = found.get_extra_info("sockname")
                    if isinstance(name, tuple) and name[1] == self.far.port:
                        found.abort()

    def link_up(self) -> None:
        """A new link, and ComfyUI serves through it."""
        self.links += 1
        self.gate.set(Gate(self.links, True))

    def link_down(self, code: str = "connection_lost") -> None:
        self.gate.set(Gate(None, False, Waits(code, "The tunnel is down.")))

    async def submit(self, workflow: dict[str, Any], **given: Any) -> Job:
        return await self.scheduler.submit(self.new(workflow, **given))

    @staticmethod
    def new(workflow: dict[str, Any], **given: Any) -> NewJob:
        return NewJob(workflow=workflow, **given)

    async def job(self, job: Job) -> Job:
        found = await self.store.get(job.id)
        assert found is not None
        return found

    async def reaches(self, job: Job, *wanted: Stage | Status) -> Job:
        """Wait until the job is in one of these stages or statuses."""
        async with asyncio.timeout(DEADLINE):
            async for _ in self.store.revision.changes():
                found = await self.job(job)
                if found.stage in wanted or found.status in wanted:
                    return found
        raise AssertionError

    async def changes(self) -> AsyncIterator[None]:
        """Now, and after each change of any job."""
        async with asyncio.timeout(DEADLINE):
            async for _ in self.store.revision.changes():
                yield

    async def ends(self, job: Job) -> Job:
        return await self.reaches(job, Stage.ENDED)

    async def files(self) -> list[Path]:
        """Every file below the output folder, hidden ones too, but for the manifests."""
        found = (self.folder / "pictures").rglob("*")
        return sorted(path for path in found if path.is_file() and not path.name.startswith(MANIFEST))
