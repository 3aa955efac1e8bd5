"""ComfyUI's own state, kept apart from the link's: unknown, starting, serving, down, wrong_port, error.

One loop asks /system_stats through the link: every 10 s while there is work, every 60 s without, at once when the link is new and when
somebody pokes. Its answer never touches the link: SSH is not reconnected to cure ComfyUI.

ComfyUI binds its port only when everything has loaded, so a closed or refused connection means "starting" until it has served
through this link, at most STARTING_LIMIT long, and "down" after that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog

from comfytunnel.comfy.client import Client
from comfytunnel.comfy.errors import Ambiguous, ComfyError, NotComfyUI, Unreachable
from comfytunnel.feed import Feed
from comfytunnel.words import ComfyState

BUSY_INTERVAL = 10.0
IDLE_INTERVAL = 60.0
"""Seconds between questions while it serves."""
IMPATIENT_INTERVAL = 2.0
"""Seconds between questions while it does not serve and jobs wait: a refused channel costs one round trip."""
STARTING_LIMIT = 600.0
"""Seconds after which "starting" becomes "down": custom nodes and a first download of models take minutes."""
POKE_PAUSE = 0.2
"""Seconds between two questions at least, however often it is poked."""


@dataclass(frozen=True, slots=True)
class Report:
    """`detail`: what was seen, fit to be shown. `queue`: running and pending prompts there. `since`: of this state."""

    state: ComfyState = ComfyState.UNKNOWN
    version: str | None = None
    queue: int | None = None
    detail: str | None = None
    since: datetime | None = None


def classify(seen: ComfyError | None, *, served: bool, waited: float) -> tuple[ComfyState, str | None]:
    """What one question says. `seen` is None for a good answer; `served`: it has served through this link; `waited`: seconds
    since the link came up."""
    if seen is None:
        return ComfyState.SERVING, None
    if isinstance(seen, NotComfyUI):
        return ComfyState.WRONG_PORT, seen.message
    if isinstance(seen, Ambiguous) and seen.status is not None and seen.status != 503:
        return ComfyState.ERROR, seen.message
    if isinstance(seen, Ambiguous) and seen.silent:
        return ComfyState.DOWN, "ComfyUI takes connections and does not answer within 10 s"
    if isinstance(seen, Ambiguous | Unreachable):
        young = not served and waited < STARTING_LIMIT
        return (ComfyState.STARTING if young else ComfyState.DOWN), seen.message
    return ComfyState.ERROR, seen.message


class Health:
    """Run `run()` as a task; read `state`."""

    def __init__(
        self,
        client: Client,
        link: Feed[int | None],
        *,
        busy: Callable[[], bool] = lambda: False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`link`: the number of the live link, None while there is none. `busy`: whether jobs want this ComfyUI."""
        self.state: Feed[Report] = Feed(Report(since=now()))
        self._client = client
        self._link = link
        self._busy = busy
        self._now = now
        self._poked = asyncio.Event()
        self._log = structlog.get_logger()

    def poke(self) -> None:
        """Ask at once: a channel was refused or closed, a job arrived, a request failed."""
        self._poked.set()

    async def run(self) -> None:
        """Ask for ever; one link at a time."""
        async for link in self._link.changes():
            if link is None:
                self._tell(Report())
                continue
            asking = asyncio.create_task(self._ask_through(link), name=f"health of link {link}")
            gone = asyncio.create_task(self._other_than(link), name=f"end of link {link}")
            try:
                await asyncio.wait([asking, gone], return_when=asyncio.FIRST_COMPLETED)
            finally:
                asking.cancel()
                gone.cancel()
                await asyncio.wait([asking, gone])
            if not asking.cancelled():
                asking.result()  # a mistake of ours must not pass in silence

    async def _other_than(self, link: int) -> None:
        await self._link.until(lambda now: now != link)

    async def _ask_through(self, link: int) -> None:
        clock = asyncio.get_running_loop().time
        up_since = clock()
        served = False
        while True:
            self._poked.clear()
            report = await self._ask(served=served, waited=clock() - up_since)
            if self._link.value != link:
                return  # the answer is about a link that is gone
            served = served or report.state is ComfyState.SERVING
            self._tell(report)
            await asyncio.sleep(POKE_PAUSE)
            try:
                async with asyncio.timeout(self._interval(report.state)):
                    await self._poked.wait()
            except TimeoutError:
                continue

    async def _ask(self, *, served: bool, waited: float) -> Report:
        version = queue = None
        seen: ComfyError | None = None
        try:
            version = await self._client.version()
            queue = await self._client.remaining()
        except ComfyError as error:
            seen = error
        state, detail = classify(seen, served=served, waited=waited)
        return Report(state, version, queue, detail)

    def _interval(self, state: ComfyState) -> float:
        busy = self._busy()
        if state is ComfyState.SERVING:
            return BUSY_INTERVAL if busy else IDLE_INTERVAL
        return IMPATIENT_INTERVAL if busy else BUSY_INTERVAL

    def _tell(self, report: Report) -> None:
        before = self.state.value
        changed = before.state is not report.state
        self.state.set(replace(report, since=self._now() if changed else before.since))
        if changed:
            self._log.info("comfyui", state=report.state.value, version=report.version, detail=report.detail)
