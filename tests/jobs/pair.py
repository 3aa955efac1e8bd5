"""A bench with a second instance: `default` is the bench's own, `other` another stand-in with a gate of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from comfytunnel.comfy.client import Client
from comfytunnel.demo.comfyui import ComfyUI
from comfytunnel.feed import Feed
from comfytunnel.jobs.model import Waits
from comfytunnel.jobs.scheduler import Gate, Place
from tests.jobs.bench import Bench
from tests.tunnel.conftest import becomes

AWAY = Waits("connection_lost", "The connection was lost.")


class Pair(Bench):
    """`other_far` and `other_gate` are the second instance's; it serves from the beginning."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.other_far = ComfyUI(folder / "other")
        self.other_gate = Feed(Gate(1, True))
        self.other_client: Client

    async def start(self, **given: Any) -> None:
        await super().start(**given)
        self.other_client = Client(self.other_far.url)
        self.scheduler.add_place(Place("other", self.other_client, self.other_gate))

    async def kill(self) -> None:
        await super().kill()
        await self.other_client.close()

    def other_up(self) -> None:
        self.links += 1
        self.other_gate.set(Gate(self.links, True))

    def other_down(self) -> None:
        self.other_gate.set(Gate(None, False, AWAY))


@asynccontextmanager
async def pair(folder: Path, **settings: Any) -> AsyncIterator[Pair]:
    """Both serve, the scheduler runs, and both could be given a job."""
    made = Pair(folder)
    await made.far.start()
    await made.other_far.start()
    await made.start(**settings)
    made.link_up()
    try:
        stations = made.scheduler._stations
        await becomes(
            lambda: len(stations) == 2 and all(each.offer() is not None for each in stations.values()),
            "both offer",
        )
        yield made
    finally:
        await made.stop()
        await made.other_far.stop()
