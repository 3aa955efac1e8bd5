"""What an outage is: from the machine's steps to records of when no link was there that should have been. Pure, as the machine is.

An outage begins when a link is lost for another reason than the user's word, or when a try to get one fails; it ends with the next
link, or unrecovered when the user takes the tunnel down or the daemon stops. `reconnect` and a changed config begin none: only if the
link that they ask for cannot be had. Decides nothing about links, and knows no clock: both times are handed in. Seconds are those
of the machine's clock, which stands still while the computer sleeps.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from comfytunnel.tunnel.state import (
    AboutToSleep,
    Cause,
    ConfigChanged,
    Event,
    Lost,
    Phase,
    Reconnect,
    RouteChanged,
    Tunnel,
    Unanswered,
    Woke,
)
from comfytunnel.words import Sign as Sign

SLEEP = "sleep"
"""The code of an outage that is nobody's fault: the machine went to sleep, and the link was closed before."""

_ALIVE = (Phase.UP, Phase.DOUBTFUL)


@dataclass(frozen=True, slots=True)
class Moved:
    """One step of the machine, as the driver tells it. `heard`: when the last sign of life came from the far side."""

    before: Tunnel
    event: Event
    after: Tunnel
    now: float
    heard: float | None = None


@dataclass(frozen=True, slots=True)
class Callers:
    """The door's count of callers that had to wait and of those that lost their connection, at one moment."""

    held: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Outage:
    """`heard`: the last sign of life, or when the try that failed began. `known`: when we knew. `cause` None: the machine slept."""

    began: datetime
    sign: Sign
    cause: Cause | None
    heard: float
    known: float
    link: int  # number of the link before the first that was tried for its sake
    callers: Callers  # before it began
    attempts: int = 0
    held: int = 0
    lost: int = 0
    last_failure: Cause | None = None  # of the tries since
    until: float | None = None
    ended: datetime | None = None
    recovered: bool = False

    @property
    def code(self) -> str:
        return SLEEP if self.cause is None else self.cause.code.value

    def seconds(self, now: float) -> float:
        """How long no link was there, until its end or until now."""
        return (now if self.until is None else self.until) - self.heard


class Ledger:
    """The outages of one tunnel: the one that goes on, and the sums since the daemon's start. saw() hears of every step."""

    def __init__(self) -> None:
        self.open: Outage | None = None
        self.reconnects: Counter[str] = Counter()
        """Links that took the place of a lost one, by the code of the outage's cause."""
        self._seconds = 0.0
        self._doubt = Sign.QUESTION
        self._calm = Callers()

    def down_seconds(self, now: float) -> float:
        """All outages together, with what has passed of the one that goes on."""
        return self._seconds + (self.open.seconds(now) if self.open else 0.0)

    def current(self, callers: Callers, link: int) -> Outage | None:
        """The outage that goes on, counted up to this moment."""
        return None if self.open is None else _counted(self.open, callers, link)

    def saw(self, moved: Moved, at: datetime, callers: Callers) -> Outage | None:
        """Take note of a step; returns the outage that it ended. `at` is now on the wall's clock."""
        before, after = moved.before, moved.after
        self._watch_doubt(moved)
        if after.phase is Phase.DOWN:
            return self.close(moved.now, at, callers, after.link)
        if after.phase is Phase.UP:
            ended = self.close(moved.now, at, callers, after.link, recovered=True)
            opened = before.phase is Phase.CONNECTING
            # Callers are lost a moment before we know that the link is dead, so that count is kept from when it came up.
            self._calm = Callers(callers.held, callers.lost if opened else self._calm.lost)
            return ended
        failure = _failure(moved)
        if self.open is not None:
            if failure is not None:
                cause = failure if self.open.sign is Sign.TRY else self.open.cause
                self.open = replace(self.open, cause=cause, last_failure=failure)
            return None
        if before.phase in _ALIVE and (after.phase not in _ALIVE or after.link != before.link):
            self._begin_lost(moved, at)
        elif failure is not None:
            heard = before.since if before.phase is Phase.CONNECTING else moved.now
            self._begin(moved, at, Sign.TRY, failure, heard, before.link - 1, failure)
        return None

    def close(
        self, now: float, at: datetime, callers: Callers, link: int, *, recovered: bool = False
    ) -> Outage | None:
        """End the outage that goes on, if there is one, and return it. `link`: the number of the newest link."""
        if self.open is None:
            return None
        ended = replace(_counted(self.open, callers, link), until=now, ended=at, recovered=recovered)
        self.open = None
        self._seconds += ended.seconds(now)
        if recovered:
            self.reconnects[ended.code] += 1
        return ended

    def _watch_doubt(self, moved: Moved) -> None:
        """Remember what raised the question that is under way."""
        if moved.after.phase is not Phase.DOUBTFUL:
            if moved.after.phase is Phase.UP:
                self._doubt = Sign.QUESTION
        elif moved.after.ask != moved.before.ask:
            self._doubt = _DOUBTS.get(type(moved.event), Sign.QUESTION)

    def _begin_lost(self, moved: Moved, at: datetime) -> None:
        before, now = moved.before, moved.now
        heard = now if moved.heard is None else min(moved.heard, now)
        match moved.event:
            case Reconnect() | ConfigChanged():
                return
            case AboutToSleep():
                self._begin(moved, at, Sign.SLEEP, None, now, before.link)
            case RouteChanged():
                self._begin(moved, at, Sign.ADDRESS_GONE, moved.after.cause, heard, before.link)
            case Unanswered():
                self._begin(moved, at, self._doubt, moved.after.cause, heard, before.link)
            case _:
                self._begin(moved, at, Sign.CLOSED, moved.after.cause, heard, before.link)

    def _begin(
        self,
        moved: Moved,
        at: datetime,
        sign: Sign,
        cause: Cause | None,
        heard: float,
        link: int,
        failure: Cause | None = None,
    ) -> None:
        began = at - timedelta(seconds=moved.now - heard)
        self.open = Outage(began, sign, cause, heard, moved.now, link, self._calm, last_failure=failure)


_DOUBTS: dict[type[Event], Sign] = {Woke: Sign.WAKE, RouteChanged: Sign.ROUTE}


def _counted(outage: Outage, callers: Callers, link: int) -> Outage:
    return replace(
        outage,
        attempts=link - outage.link,
        held=callers.held - outage.callers.held,
        lost=callers.lost - outage.callers.lost,
    )


def _failure(moved: Moved) -> Cause | None:
    """Why there is no link, if this step has found it out by trying, or by seeing that there is no way to try."""
    if moved.before.phase in _ALIVE or moved.after is moved.before:
        return None
    if isinstance(moved.event, Lost):
        return moved.event.cause
    entered = moved.after.phase is Phase.OFFLINE and moved.before.phase is not Phase.OFFLINE
    return moved.after.cause if entered else None
