"""Bells and clocks -> RouteChanged, Woke, AboutToSleep. One World for the process; each tunnel registers a Subject.

A ring only says "look": after a moment of quiet each tunnel gets a fresh snapshot, and what differs decides (snapshot.py). Three signs
tell of a sleep, any one suffices, and one sleep is told once. What the events mean for a link is the machine's affair.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from comfytunnel.tunnel.state import AboutToSleep, RouteChanged, Woke
from comfytunnel.watch import bell_linux, bell_macos, bell_poll
from comfytunnel.watch.bell_socket import Bell
from comfytunnel.watch.logind import Logind
from comfytunnel.watch.sleep import Sleep, sign
from comfytunnel.watch.snapshot import Snapshot, compare, take
from comfytunnel.watch.tick import TICK, tick

log = structlog.get_logger(__name__)

QUIET = 0.2  # seconds without a ring before we look: a move from Wi-Fi to Ethernet is some twenty messages in 10 ms
MOST = 2.0  # seconds after the first ring that we look at the latest, however restless the network is
FAREWELL = 1.0  # seconds for the websockets to close before sleep; half of what logind lets us have
SAME_SLEEP = 5.0  # seconds awake; logind's word that comes so soon after another sign of waking is about the same sleep

WorldEvent = RouteChanged | Woke | AboutToSleep


class Subject(Protocol):
    """What the world needs of a tunnel. Nothing here may block."""

    def peer(self) -> str | None:
        """The IP address of the first hop last used; None if not known, or behind a proxy."""
        ...

    def local(self) -> str | None:
        """The local IP address of the live link; None without one, or if it cannot be told."""
        ...

    def streaming(self) -> bool:
        """Whether some caller has data in flight."""
        ...

    def tell(self, event: WorldEvent) -> None:
        """Take an event."""
        ...

    async def taken(self) -> None:
        """Wait until the events that were told have been acted upon."""
        ...


class Announcer(Protocol):
    """Says that the machine will sleep and that it woke: see Logind."""

    async def run(self, on_sleep: Callable[[], Awaitable[None]], on_wake: Callable[[], None]) -> None: ...


async def _nothing() -> None:
    pass


BELLS: dict[str, Bell] = {"linux": bell_linux.bell, "darwin": bell_macos.bell}


class World:
    """run() is called once; add() and remove() from the event loop at any time.

    `goodbye` is awaited before sleep, while the links still live: what must reach the far side first (the websocket's close)
    belongs there, and gets FAREWELL seconds. `on_wake` is called after each sleep, when the tunnels have been told. The rest is for tests: the platform's own is the default.
    """

    def __init__(
        self,
        *,
        goodbye: Callable[[], Awaitable[None]] = _nothing,
        on_wake: Callable[[], None] = lambda: None,
        bell: Bell | None = None,
        sleep: Sleep | None = None,
        announcer: Announcer | None = None,
        interval: float = TICK,
    ) -> None:
        self._goodbye = goodbye
        self._after_waking = on_wake
        self._bell = bell or BELLS.get(sys.platform, bell_poll.bell)
        self._sleep = sleep or Sleep()
        self._announcer = announcer or Logind()
        self._interval = interval
        self._subjects: dict[str, tuple[Subject, Snapshot]] = {}
        self._rung = asyncio.Event()
        self._announced = False  # a sleep was announced, and no waking told since
        self._woken_at: float | None = (
            None  # when the last waking was told, by the clock that stands still in sleep
        )

    def add(self, name: str, subject: Subject) -> None:
        """Watch for a tunnel. The network as it is now is what later changes are compared with."""
        self._subjects[name] = subject, take(subject.peer(), subject.local())

    def remove(self, name: str) -> None:
        self._subjects.pop(name, None)

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(), name="world/bell")
            group.create_task(self._look_when_rung(), name="world/look")
            group.create_task(tick(self.on_tick, self._interval), name="world/tick")
            group.create_task(self._announcer.run(self.on_sleep, self.on_wake), name="world/sleep")

    # --- the network ------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        try:
            await self._bell(self._rung.set)
        except OSError as error:
            log.warning(
                "The system does not tell of network changes, so I look every few seconds.",
                seconds=TICK,
                error=str(error),
            )
            await bell_poll.bell(self._rung.set)

    async def _look_when_rung(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._rung.wait()
            latest = loop.time() + MOST
            try:
                while True:
                    self._rung.clear()
                    async with asyncio.timeout_at(min(loop.time() + QUIET, latest)):
                        await self._rung.wait()
            except TimeoutError:
                pass  # quiet, or it has been restless for long enough
            self._rung.clear()
            self.look()

    def look(self) -> None:
        """Compare the network with what it was, tunnel by tunnel, and tell those whom the difference concerns."""
        for name, (subject, before) in list(self._subjects.items()):
            after = take(subject.peer(), subject.local())
            found = compare(before, after)
            self._subjects[name] = subject, after
            if found.event is None:
                log.debug("Looked at the network: nothing to this tunnel.", tunnel=name, reason=found.reason)
            else:
                log.info("The network changed.", tunnel=name, reason=found.reason)
                subject.tell(found.event)

    # --- sleep ------------------------------------------------------------------------------------------------------

    def on_tick(self) -> None:
        """The clocks' two signs."""
        seen = sign(self._sleep.look(), self._interval)
        if seen is not None:
            self._wake(*seen)

    async def on_sleep(self) -> None:
        """logind says that the machine will sleep, and waits for us."""
        self._announced = True
        log.info("The machine is about to sleep.")
        try:
            async with asyncio.timeout(FAREWELL):
                await self._goodbye()
        except TimeoutError:
            log.warning("The websockets were not closed in time for the sleep.", seconds=FAREWELL)
        for subject, _ in list(self._subjects.values()):
            subject.tell(AboutToSleep(subject.streaming()))
            await subject.taken()

    def on_wake(self) -> None:
        """logind says that the machine woke, or that the announced sleep did not come."""
        seen = sign(self._sleep.look(), self._interval)
        awake = None if self._woken_at is None else self._sleep.now() - self._woken_at
        if seen is not None:
            self._wake(*seen)
        elif self._announced or awake is None or awake >= SAME_SLEEP:
            self._wake(0.0, "logind")

    def _wake(self, slept: float, by: str) -> None:
        """Tell it once: the looks have moved both clocks on, so no other sign of this sleep is left but logind's."""
        self._announced = False
        self._woken_at = self._sleep.now()
        log.info("The machine woke.", slept=round(slept, 1), sign=by)
        for subject, _ in list(self._subjects.values()):
            subject.tell(Woke(slept))
        self._after_waking()
        self.look()  # the network may be another, and its bell may have rung to nobody
