"""The channels of one connection: opening them, the spares that are opened ahead, and the windows they may use.

A spare is a confirmed channel that nobody uses yet: a caller who takes one saves a round trip. An opening that its caller no
longer waits for becomes a spare, or is closed when it is confirmed (asyncssh#823: otherwise it would leak). Receive windows
come out of one budget, because a hostile far side can fill every window that it was given.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import asyncssh

from comfytunnel.config import Endpoint, Tcp
from comfytunnel.tunnel.dial import hung_up
from comfytunnel.tunnel.link import TEXT_LIMIT, ChannelRefused, LinkError, Sink
from comfytunnel.tunnel.state import Cause, Code

T = TypeVar("T")

WINDOW = 8 << 20  # bytes; 41 MB/s at 104 ms round trip, measured, where OpenSSH's 2 MiB give 18.9
WINDOW_LEAST = 256 << 10  # bytes; never less, or a channel crawls
WINDOW_BUDGET = 64 << 20  # bytes over all channels of a link


class Channels:
    """Owned by one SshLink. `why_ended` tells why the connection is gone, once it is."""

    def __init__(
        self,
        conn: asyncssh.SSHClientConnection,
        remote: Endpoint,
        spares: int,
        why_ended: Callable[[], Cause],
        on_refused: Callable[[], None],
    ) -> None:
        self._conn = conn
        self._remote = remote
        self._wanted_spares = spares
        self._why_ended = why_ended
        self._on_refused = on_refused
        self._spares: deque[_Session] = deque()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._refilling: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[float] | None = None
        self._budget = WINDOW_BUDGET
        self.dead = False
        self.rtt: float | None = None

    async def open(self, sink: Sink) -> SshChannel:
        """See link.Link.open. A connection whose end the kernel knows already, and asyncio not yet, takes no caller any more."""
        if hung_up(self._conn.get_extra_info("socket")):
            raise LinkError(Cause(Code.CONNECTION_LOST))
        while self._spares:
            session = self._spares.popleft()
            if session.usable:
                self._refill()
                return session.adopt(sink)
            session.abort()
        session = await self._open()
        self._refill()
        return session.adopt(sink)

    async def probe(self, *, first: bool = False) -> float:
        """Open a channel and return how long the answer took, in seconds. A refusal is an answer too, except that on the
        first channel of a link a forbidden forward raises LinkError: the link is of no use."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            self._keep(await self._open())
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

    def reset(self) -> None:
        """The link is being aborted: whatever closes from here on did not end cleanly."""
        self.dead = True
        self._spares.clear()
        for task in self._tasks:
            task.cancel()

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(
            lambda done: done.cancelled() or done.exception()
        )  # nobody may be left to ask it
        return task

    # --- opening ----------------------------------------------------------------------------------------------------

    async def _open(self) -> _Session:
        if self.dead:
            raise LinkError(self._why_ended())
        task = self._spawn(self._open_channel())
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.add_done_callback(self._late)
            raise
        if task.cancelled():  # by reset(): it is the link that has gone, not the caller
            raise LinkError(self._why_ended())
        return task.result()

    def _late(self, task: asyncio.Task[_Session]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._keep(task.result())

    async def _open_channel(self) -> _Session:
        session = _Session(self, min(WINDOW, max(WINDOW_LEAST, self._budget // 4)))
        self._budget -= session.window
        factory: Any = lambda: session  # noqa: E731 - asyncssh has one type for each kind of socket, and we have one for both
        try:
            if isinstance(self._remote, Tcp):
                await self._conn.create_connection(
                    factory, self._remote.host, self._remote.port, window=session.window
                )
            else:
                await self._conn.create_unix_connection(
                    factory, str(self._remote.path), window=session.window
                )
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
                self._budget += session.window
        return session

    # --- spares -----------------------------------------------------------------------------------------------------

    def _keep(self, session: _Session) -> None:
        if self.dead:
            return
        if not session.usable:
            session.abort()
            return
        self._spares.append(session)
        while len(self._spares) > self._wanted_spares:
            self._spares.popleft().abort()  # the oldest: what it is connected to may be gone soonest

    def _refill(self) -> None:
        """Open what is missing, in the background. A refusal ends it: the next probe tries again."""
        if not self.dead and (self._refilling is None or self._refilling.done()):
            self._refilling = self._spawn(self._fill())

    async def _fill(self) -> None:
        for _ in range(
            2 * self._wanted_spares
        ):  # some may be taken meanwhile; what closes each at once is not chased
            if len(self._spares) >= self._wanted_spares:
                return
            self._keep(await self._open())

    def session_ended(self, session: _Session) -> None:
        """The far side sends no more on a channel that nobody uses: if it was a spare, whatever listens there has stopped."""
        if session in self._spares:
            self._spares.remove(session)
            session.abort()
            self._on_refused()

    def session_lost(self, session: _Session) -> None:
        """A channel is closed for good."""
        self._budget += session.window


class _Session(asyncssh.SSHTCPSession[bytes]):
    """One channel as asyncssh sees it. Reading is paused until somebody adopts it and resumes."""

    def __init__(self, channels: Channels, window: int) -> None:
        self.window = window
        self._channels = channels
        self._chan: asyncssh.SSHTCPChannel[bytes] | None = None
        self._sink: Sink | None = None
        self._ended = False  # the far side sends no more
        self._lost: bool | None = None  # closed for good; whether cleanly

    @property
    def opened(self) -> bool:
        return self._chan is not None

    @property
    def usable(self) -> bool:
        return (
            self._chan is not None and not self._ended and self._lost is None and not self._chan.is_closing()
        )

    def adopt(self, sink: Sink) -> SshChannel:
        """Give the channel to `sink`, which also hears of an end that came between the confirmation and now."""
        assert self._chan is not None
        self._sink = sink
        loop = asyncio.get_running_loop()
        if self._ended:
            loop.call_soon(sink.eof_received)
        if self._lost is not None:
            loop.call_soon(partial(sink.channel_lost, clean=self._lost))
        return SshChannel(self._chan)

    def abort(self) -> None:
        if self._chan is not None:
            self._chan.abort()

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        self._chan = chan
        chan.pause_reading()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        if self._sink is not None:
            self._sink.data_received(data)

    def eof_received(self) -> bool:
        self._ended = True
        if self._sink is not None:
            self._sink.eof_received()
        else:
            self._channels.session_ended(self)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = exc is None and not self._channels.dead
        self._channels.session_lost(self)
        if self._sink is not None:
            self._sink.channel_lost(clean=self._lost)
        else:
            self._channels.session_ended(self)

    def pause_writing(self) -> None:
        if self._sink is not None:
            self._sink.pause_writing()

    def resume_writing(self) -> None:
        if self._sink is not None:
            self._sink.resume_writing()


class SshChannel:
    """See link.Channel: a thin shell around asyncssh's, which raises when it is used after its end."""

    def __init__(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        self._chan = chan

    def write(self, data: bytes) -> None:
        if not self._chan.is_closing():
            self._chan.write(data)

    def write_eof(self) -> None:
        if not self._chan.is_closing():
            self._chan.write_eof()

    def pause_reading(self) -> None:
        self._chan.pause_reading()

    def resume_reading(self) -> None:
        self._chan.resume_reading()

    def close(self) -> None:
        self._chan.close()

    def abort(self) -> None:
        self._chan.abort()
