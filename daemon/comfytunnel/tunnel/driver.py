"""Runs the machine: an inbox of events, and one slot each for the link, the question and the timer.

The driver decides nothing. It takes one event after the other, steps the machine, carries out the effects in order and
publishes the record with the live link. A slot holds at most one task; to fill it is to cancel what was in it. All tasks
belong to run()'s TaskGroup, so cancelling run() aborts the link and leaves nothing behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

from comfytunnel.feed import Feed
from comfytunnel.tunnel.link import TEXT_LIMIT, Link, LinkError, Opener
from comfytunnel.tunnel.machine import Policy, step
from comfytunnel.tunnel.outages import Moved
from comfytunnel.tunnel.state import (
    Answered,
    Ask,
    Cause,
    Code,
    Demand,
    DropLink,
    Effect,
    Elapsed,
    Event,
    Lost,
    Opened,
    OpenLink,
    Phase,
    Timer,
    Tunnel,
    Unanswered,
)

log = structlog.get_logger(__name__)

LEAVE_DEADLINE = 1.0  # seconds for a dropped link to be closed; an abort takes milliseconds


@dataclass(frozen=True, slots=True)
class View:
    """What readers see: the machine's record, and the link if it may be used for new channels now."""

    tunnel: Tunnel
    link: Link | None = None


class Driver:
    """One tunnel's driver. `tell` may be called at any time from the event loop; run() is called once."""

    def __init__(
        self,
        name: str,
        opener: Opener,
        policy: Policy | None = None,
        *,
        clock: Callable[[], float] | None = None,
        on_move: Callable[[Moved], None] = lambda _: None,
    ) -> None:
        """`on_move` hears of every step, in order; readers of `view` may miss some."""
        self._name = name
        self._opener = opener
        self._policy = policy or Policy()
        self._clock = clock or asyncio.get_running_loop().time
        self._on_move = on_move
        self._inbox: asyncio.Queue[Event | asyncio.Future[None]] = asyncio.Queue()
        self._demands: set[str] = set()
        self._live: tuple[int, Link] | None = None
        self._slots: dict[str, asyncio.Task[None]] = {}
        self._leaving: set[asyncio.Task[None]] = set()  # cancelled and not ended yet
        self.view: Feed[View] = Feed(View(Tunnel(since=self._clock())))

    def tell(self, event: Event) -> None:
        """Put an event into the inbox. Never blocks."""
        self._inbox.put_nowait(event)

    async def taken(self) -> None:
        """Wait until all that was told has been taken, so that the view shows it, and until what was dropped for it is closed
        (LEAVE_DEADLINE at most): whoever lets the machine sleep after this leaves no link behind. No wait for new links or answers."""
        await self._inbox.join()
        if self._leaving:
            await asyncio.wait(set(self._leaving), timeout=LEAVE_DEADLINE)

    async def beat(self) -> None:
        """Return when run() has come to this: it takes what it is told. Nothing is changed by it."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._inbox.put_nowait(turn)
        await turn

    def demand(self, source: str, waiting: bool) -> None:
        """`source` has somebody who waits for the link, or not any more. The machine hears of the sum."""
        before = bool(self._demands)
        (self._demands.add if waiting else self._demands.discard)(source)
        if bool(self._demands) != before:
            self.tell(Demand(bool(self._demands)))

    def aim(self, opener: Opener, policy: Policy) -> None:
        """Use another endpoint for the links to come. The caller tells ConfigChanged if the present one must go."""
        self._opener, self._policy = opener, policy

    async def run(self) -> None:
        """Take events for ever. Cancel it to stop; the link is aborted then."""
        async with asyncio.TaskGroup() as group:
            while True:
                event = await self._inbox.get()
                if isinstance(event, asyncio.Future):
                    if not event.done():  # who asked has not left meanwhile
                        event.set_result(None)
                    self._inbox.task_done()
                    continue
                before, now = self.view.value.tunnel, self._clock()
                heard = self._live[1].heard if self._live else None
                after, effects = step(before, event, now, self._policy)
                self._on_move(Moved(before, event, after, now, heard))
                for effect in effects:
                    self._carry_out(effect, group)
                link = self._live[1] if self._live and self._live[0] == after.link else None
                self.view.set(View(after, link if after.phase is Phase.UP else None))
                self._log(before, after, event)
                self._inbox.task_done()

    # --- effects ----------------------------------------------------------------------------------------------------

    def _carry_out(self, effect: Effect, group: asyncio.TaskGroup) -> None:
        match effect:
            case OpenLink(link):
                self._fill("link", self._hold(link), group)
            case DropLink():
                self._live = None
                self._empty("link")
                self._empty("question")
            case Ask(ask, after, patience, deadline):
                if self._live is not None:
                    work = self._question(self._live[1], ask, after, patience, deadline)
                    self._fill("question", work, group)
            case Timer(ask, seconds):
                self._fill("timer", self._timer(ask, seconds), group)

    def _fill(self, slot: str, work: Coroutine[Any, Any, None], group: asyncio.TaskGroup) -> None:
        self._empty(slot)
        self._slots[slot] = group.create_task(work, name=f"{self._name}/{slot}")

    def _empty(self, slot: str) -> None:
        task = self._slots.pop(slot, None)
        if task is not None:
            task.cancel()
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _hold(self, number: int) -> None:
        """One link's whole life. Says Opened at most once and Lost exactly once, unless it is cancelled."""
        try:
            async with self._opener() as link:
                self._live = (number, link)
                self.tell(Opened(number, link.rtt))
                cause = await link.ended()
        except LinkError as error:
            cause = error.cause
        except Exception as error:
            # asyncssh hands on whatever a hostile far side made it stumble over: that ends a link, never the daemon.
            log.exception("link", tunnel=self._name)
            cause = Cause(Code.PROTOCOL_ERROR, f"{type(error).__name__}: {str(error)[:TEXT_LIMIT]}.")
        self.tell(Lost(number, cause))

    async def _question(self, link: Link, ask: int, after: float, patience: float, deadline: float) -> None:
        try:
            await link.silence(after, patience)
            rtt = await link.ask(deadline)
        except TimeoutError:
            self.tell(Unanswered(ask))
        except LinkError:
            pass  # the task that holds the link says Lost, with the cause
        else:
            self.tell(Answered(ask, rtt))

    async def _timer(self, ask: int, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.tell(Elapsed(ask))

    # --- what people read -------------------------------------------------------------------------------------------

    def _log(self, before: Tunnel, after: Tunnel, event: Event) -> None:
        """One line for each change of phase; a try that fails as the one before did is only worth a debug line."""
        if before.phase is after.phase and before.link == after.link:
            return
        bad = after.cause is not None and after.phase not in (Phase.UP, Phase.DOWN)
        repeated = (
            bad
            and before.cause is not None
            and after.cause is not None
            and before.cause.code == after.cause.code
        )
        routine = after.phase is Phase.CONNECTING or (
            before.phase is Phase.DOUBTFUL and after.phase is Phase.UP
        )
        level = "debug" if repeated or routine else "warning" if bad else "info"
        fields: dict[str, Any] = {
            "tunnel": self._name,
            "phase": after.phase.value,
            "because": type(event).__name__,
        }
        if bad and after.cause is not None:
            fields |= {"cause": after.cause.code.value, "message": after.cause.message}
        getattr(log, level)("tunnel", **fields)
