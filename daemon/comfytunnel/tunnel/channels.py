"""The channels of one connection: opening them, the spares that are opened ahead, and the line of those who wait.

A spare is a confirmed channel that nobody uses yet: a caller who takes one saves a round trip. Receive windows come out of one
budget (flow.py); when it is spent, callers wait in line. What an opening yields goes to whoever has waited longest: one that its
caller no longer waits for serves another, becomes a spare, or is closed when it is confirmed (asyncssh#823: otherwise it would leak).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import asyncssh

from comfytunnel.config import Endpoint, Tcp
from comfytunnel.tunnel.channel import Session, SshChannel
from comfytunnel.tunnel.dial import hung_up
from comfytunnel.tunnel.flow import Flow
from comfytunnel.tunnel.inside import answer
from comfytunnel.tunnel.link import TEXT_LIMIT, ChannelRefused, LinkError, Sink
from comfytunnel.tunnel.state import Cause, Code
from comfytunnel.tunnel.waiting import Waiting
from comfytunnel.tunnel.window import LEAST

T = TypeVar("T")

REFILL_AFTER = 0.1  # seconds that a caller's answer may take before the next spare is opened beside it


class Channels:
    """Owned by one SshLink. `why_ended` tells why the connection is gone, once it is."""

    def __init__(
        self,
        conn: asyncssh.SSHClientConnection,
        remote: Endpoint,
        spares: int,
        why_ended: Callable[[], Cause],
        on_refused: Callable[[], None],
        waiting: Waiting,
    ) -> None:
        self.waiting = waiting
        self._conn = conn
        self._remote = remote
        self._wanted_spares = spares
        self._why_ended = why_ended
        self._on_refused = on_refused
        self._spares: deque[Session] = deque()
        self._line: deque[asyncio.Future[Session]] = deque()  # callers without a channel yet
        self._openings: set[asyncio.Task[Session]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._refilling: asyncio.Task[None] | None = None
        self._refill_timer: asyncio.TimerHandle | None = None  # a caller has got a channel and no answer yet
        self._probing: asyncio.Task[float] | None = None
        self._asking: asyncio.Task[None] | None = None
        self.flow = Flow(partial(answer, conn), self._spawn, self._serve_line)
        self.dead = False
        self.rtt: float | None = None

    @property
    def full(self) -> bool:
        """See link.Link.full."""
        return not self._spares and not self.flow.has_room

    async def open(self, sink: Sink) -> SshChannel:
        """See link.Link.open. A connection whose end the kernel knows already, and asyncio not yet, takes no caller any more."""
        if hung_up(self._conn.get_extra_info("socket")):
            raise LinkError(Cause(Code.CONNECTION_LOST))
        while self._spares:
            session = self._spares.popleft()
            if session.usable:
                return self._give(session, sink)
            session.abort()
        return self._give(await self._wait_in_line(), sink)

    def _give(self, session: Session, sink: Sink) -> SshChannel:
        """The next spare follows the caller's answer: a confirmation before it would have sshd keep the answer back until somebody's kernel has
        acknowledged the confirmation, and one between us and sshd takes 40 ms over that (decision 0003)."""
        if self._refill_timer is None:
            self._refill_timer = asyncio.get_running_loop().call_later(REFILL_AFTER, self._refill)
        return session.adopt(sink)

    async def probe(self, *, first: bool = False) -> float:
        """Open a channel and return how long the answer took, in seconds. A refusal is an answer too, except that on the
        first channel of a link a forbidden forward raises LinkError: the link is of no use."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            session = await (self._begin() if self.flow.free >= LEAST else self._wait_in_line())
            if self.flow.free >= LEAST:
                self._keep(session)
            else:
                session.abort()  # the next question needs its window
        except ChannelRefused as refused:
            if first and refused.cause.code is Code.FORWARD_DENIED:
                raise LinkError(refused.cause) from refused
        self.rtt = loop.time() - started
        if first:
            self._refill()
        return self.rtt

    def start_probe(self) -> asyncio.Task[float]:
        """A probe as a task; on a slow line the one before may still be under way and is then the one."""
        if self._probing is None or self._probing.done():
            self._probing = self._spawn(self.probe())
        return self._probing

    def question(self) -> None:
        """Let the far side say something, if it is there; one question at a time will do."""
        if not self.dead and (self._asking is None or self._asking.done()):
            self._asking = self._spawn(answer(self._conn))

    def reset(self) -> None:
        """The link is being aborted: whatever closes from here on did not end cleanly."""
        self.dead = True
        self._spares.clear()
        if self._refill_timer is not None:
            self._refill_timer.cancel()
        for task in self._tasks:
            task.cancel()
        while turn := self._next_in_line():
            turn.set_exception(LinkError(self._why_ended()))

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(
            lambda done: done.cancelled() or done.exception()
        )  # nobody may be left to ask it
        return task

    # --- opening ----------------------------------------------------------------------------------------------------

    async def _wait_in_line(self) -> Session:
        if self.dead:
            raise LinkError(self._why_ended())
        turn: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        self.waiting.spoke(turn)
        if self.flow.has_room:
            self._begin_for_caller()
        try:
            return await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.done() and turn.exception() is None:
                self._keep(turn.result())  # its turn and its leaving came together
            raise
        finally:
            self.waiting.done(turn)
            if turn in self._line:
                self._line.remove(turn)

    def _next_in_line(self) -> asyncio.Future[Session] | None:
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                return turn
        return None

    def _begin(self) -> asyncio.Task[Session]:
        opening = self._spawn(self._open_channel(Session(self, self.flow)))
        self._openings.add(opening)
        opening.add_done_callback(self._openings.discard)
        return opening

    def _begin_for_caller(self) -> None:
        self._begin().add_done_callback(self._hand_over)

    def _hand_over(self, opening: asyncio.Task[Session]) -> None:
        """An opening has ended: whoever has waited longest hears what came of it."""
        if opening.cancelled():
            return  # by reset(), which tells those who wait
        error = opening.exception()
        if error is None:
            self._keep(opening.result())
        elif turn := self._next_in_line():
            turn.set_exception(error)
        self._serve_line()

    def _serve_line(self) -> None:
        """A window may have come free: begin for those who have had to wait for one."""
        while not self.dead and self.flow.has_room and len(self._openings) < len(self._line):
            self._begin_for_caller()

    async def _open_channel(self, session: Session) -> Session:
        loop = asyncio.get_running_loop()
        started, quiet = loop.time(), self.flow.quiet
        factory: Any = lambda: session  # noqa: E731 - asyncssh has one type for each kind of socket, and we have one for both
        try:
            if isinstance(self._remote, Tcp):
                await self._conn.create_connection(
                    factory, self._remote.host, self._remote.port, window=LEAST
                )
            else:
                await self._conn.create_unix_connection(factory, str(self._remote.path), window=LEAST)
        except asyncssh.ChannelOpenError as error:
            if self.dead or self._conn.is_closed():
                raise LinkError(self._why_ended()) from error
            self._on_refused()
            denied = error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED
            code = Code.FORWARD_DENIED if denied else Code.REMOTE_REFUSED
            raise ChannelRefused(Cause(code, f"{self._remote}: {error.reason[:TEXT_LIMIT]}.")) from error
        except (asyncssh.Error, OSError) as error:
            raise LinkError(self._why_ended()) from error
        finally:
            if not session.opened:
                self.flow.release(session.meter)
        if quiet and self.flow.quiet:
            self.flow.rested(loop.time() - started)
        return session

    # --- spares -----------------------------------------------------------------------------------------------------

    def _keep(self, session: Session) -> None:
        """A confirmed channel: for whoever waits, even if it has ended already; else a spare."""
        if self.dead:
            return
        if turn := self._next_in_line():
            turn.set_result(session)
            return
        if not session.usable:
            session.abort()
            return
        self._spares.append(session)
        while len(self._spares) > self._wanted_spares:
            self._spares.popleft().abort()  # the oldest: what it is connected to may be gone soonest

    def _refill(self) -> None:
        """Open what is missing, in the background. A refusal ends it: the next probe tries again."""
        if self._refill_timer is not None:
            self._refill_timer.cancel()
            self._refill_timer = None
        if not self.dead and (self._refilling is None or self._refilling.done()):
            self._refilling = self._spawn(self._fill())

    async def _fill(self) -> None:
        for _ in range(
            2 * self._wanted_spares
        ):  # some may be taken meanwhile; what closes each at once is not chased
            if len(self._spares) >= self._wanted_spares or not self.flow.has_room:
                return
            self._keep(await self._begin())

    def session_answered(self) -> None:
        """A caller has its answer, or the first of it."""
        if self._refill_timer is not None:
            self._refill()

    def session_ended(self, session: Session) -> None:
        """The far side sends no more on a channel that nobody uses: if it was a spare, whatever listens there has stopped."""
        if session in self._spares:
            self._spares.remove(session)
            session.abort()
            self._on_refused()

    def session_lost(self, session: Session) -> None:
        """A channel is closed for good."""
        self.flow.release(session.meter)
