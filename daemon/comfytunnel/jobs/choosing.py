"""Lets the stations agree on which of them takes a job: asks what has to be asked, keeps what was learnt, has choice.py decide.

Every station looks at the same facts, so they come to the same answer; the one that is not chosen wakes the one that is. A job is taken
out of the line by its station without a pause in between, so it is never taken twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog

from comfytunnel.comfy.client import Client
from comfytunnel.comfy.errors import ComfyError
from comfytunnel.errors import StateError
from comfytunnel.jobs.choice import Offer, Wish, best, wish_of
from comfytunnel.jobs.store import Store

if TYPE_CHECKING:
    from comfytunnel.jobs.station import Station

log = structlog.get_logger(__name__)

FRESH = 2.0
"""Seconds for which the length of a queue is believed; jobs of ours that are there look at it at least as often."""
PATIENCE = 1.0
"""Seconds that a ComfyUI gets to say how long its queue is; one that takes longer comes after those that have said it."""
MAX_THERE = 2000
"""Hashes of inputs that are remembered of a place."""
MAX_WISHES = 8


class Known:
    """What is known of one ComfyUI: its queue, and what the jobs that it was given have left there."""

    def __init__(self, client: Client) -> None:
        self.foreign: int | None = 0
        self.loaded: frozenset[str] = frozenset()
        self._there: dict[str, None] = {}  # in the order in which they came
        self._client = client
        self._at = float("-inf")

    @property
    def there(self) -> frozenset[str]:
        return frozenset(self._there)

    def counted(self, prompts: int, ours: int) -> None:
        """So many prompts run or wait there, of which so many are ours."""
        self.foreign = max(prompts - ours, 0)
        self._at = asyncio.get_running_loop().time()

    async def ask(self, ours: int) -> None:
        """Count the prompts of others, if that has not been done just now."""
        now = asyncio.get_running_loop().time()
        if now - self._at < FRESH:
            return
        self._at = now  # a silent one is not asked again at once
        try:
            async with asyncio.timeout(PATIENCE):
                prompts = await self._client.remaining()
        except (ComfyError, TimeoutError):
            prompts = None
        if prompts is None:
            self.foreign = None
        else:
            self.counted(prompts, ours)

    def took(self, wish: Wish) -> None:
        """It was given a job: one without models leaves those of the job before where they are."""
        self.loaded = wish.models or self.loaded
        for digest in wish.inputs or {}:
            self._there.pop(digest, None)
            self._there[digest] = None
        while len(self._there) > MAX_THERE:
            del self._there[next(iter(self._there))]

    def restarted(self) -> None:
        """ComfyUI went down: its memory is empty, its folders are not."""
        self.loaded = frozenset()


class Choosing:
    """`stations` is the scheduler's own mapping, by the name of the place and in the order of the config."""

    def __init__(self, store: Store, stations: Mapping[str, Station]) -> None:
        self._store = store
        self._stations = stations
        self._wishes: dict[str, Wish] = {}

    async def falls_to(self, station: Station, job_id: str) -> bool:
        """Whether this station is the one that takes a job which may go anywhere. If not, the one that does has been woken."""
        if len(self._stations) < 2:
            return True
        offers = self._offers()
        if len(offers) > 1:
            await station.known.ask(station.ours())
            wish = await self._wish(job_id)
            offers = self._offers()
            chosen = best(offers, wish)
            if chosen is not None and chosen != station.place.name:
                self._stations[chosen].stir.set()
                return False
        return True

    async def given(self, station: Station, job_id: str) -> None:
        """A station's ComfyUI was given a job: remember what that has left there."""
        if len(self._stations) > 1:
            station.known.took(await self._wish(job_id))
        self._wishes.pop(job_id, None)

    def stir(self) -> None:
        """Something has changed: those that left a job to another may have to take it."""
        for station in self._stations.values():
            if station.deferring:
                station.stir.set()

    def _offers(self) -> list[Offer]:
        found = [station.offer() for station in self._stations.values()]
        return [offer for offer in found if offer is not None]

    async def _wish(self, job_id: str) -> Wish:
        known = self._wishes.get(job_id)
        if known is not None:
            return known
        try:
            _, workflow, inputs = await self._store.brief(job_id)
        except StateError as error:
            log.warning("state", job=job_id, why=error.message)
            return Wish()
        while len(self._wishes) >= MAX_WISHES:
            del self._wishes[next(iter(self._wishes))]
        self._wishes[job_id] = wish = wish_of(workflow, inputs)
        return wish
