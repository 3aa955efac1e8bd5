"""One caller at the door: held until there is a channel, then spliced to it, byte for byte and in both directions.

Nothing of a caller is sent before the far side has been heard since it came: a channel's confirmation is such a sign, a channel that was
opened ahead is none. So a caller whose link dies before that is simply held again; so is one whose link is full. What may be sent twice
(GET without a body) goes at once, and again by the next link if this one dies unheard (decision 0011). Nothing else is ever
sent twice: when the link dies under it, the caller is reset at once. A caller that has closed its side while it was
held has left, and is never delivered (a job's POST that gave up must not run later). When there is no hope, a caller
that speaks HTTP gets a 503 with the reason, any other is closed. Whoever the guard refuses gets a 403 if that was its first request; on a connection
that has carried one already it is reset, so that an answer under way is never mixed with ours.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, cast

import structlog

from comfytunnel.tunnel.dial import hung_up, reset_on_close
from comfytunnel.tunnel.farside import FarSide
from comfytunnel.tunnel.framing import Reader, Refusal
from comfytunnel.tunnel.guard import OTHER_USER, guard, response
from comfytunnel.tunnel.hold import Hold
from comfytunnel.tunnel.hopeless import speaks_http, unavailable, why
from comfytunnel.tunnel.link import Channel, ChannelRefused, Link, LinkError
from comfytunnel.tunnel.owner import Untold
from comfytunnel.tunnel.state import Cause, Phase

if TYPE_CHECKING:
    from comfytunnel.tunnel.door import Door
    from comfytunnel.tunnel.driver import View

log = structlog.get_logger(__name__)

EARLY_LIMIT = 64 << 10  # bytes kept of a caller that has no channel yet; then its socket is not read
_WRITE_LIMIT = 1 << 20  # bytes on their way to a slow caller before its channel is no longer read
_FIRST_BYTES = 1.0  # seconds that a caller without hope gets to show that it speaks HTTP
_SHOWS = 0.02  # seconds that it gets to show its request before a spare channel is asked for a sign of life
_DRAIN = 2.0  # seconds that it gets to read its 503


class Caller(asyncio.Protocol):
    """The near side, as asyncio sees it. Its far side is farside.py's."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # until connection_made
        self._tried = 0.0  # when it last asked for a channel, on the loop's clock
        self._channel: Channel | None = None
        self._unheard: tuple[Link, bytes] | None = (
            None  # what it has sent by a link that has not been heard since
        )
        self._early = bytearray()
        self._eof = False  # the near side sends no more
        self._far_ended = False
        self._refused = False
        self._guard: Reader | None = None  # until connection_made, and when it has nothing more to look at
        self.answered = False  # something has come from the far side
        self._news = asyncio.Event()  # more bytes, or the end of them, from a caller without channel
        self._serving: asyncio.Task[None] | None = None
        self.ended: asyncio.Future[None] = self._loop.create_future()

    # --- near side --------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_LIMIT)
        if not self._door.admit(self):
            self.reset()
            return
        self._serving = self._start(
            self._serve() if self._may_come_in() else self._refuse(response(OTHER_USER))
        )

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._loop.create_task(work, name=f"{self._door.name}/caller")

    def data_received(self, data: bytes) -> None:
        if self._guard is not None and not self._refused:
            data = self._screened(self._guard, data)
            if not data:
                return  # it is held until it is whole, or refused
        if self._channel is not None:
            self._unheard = None  # it has gone on, as if all were well
            self._door.tally.bytes_out += len(data)
            self._channel.write(data)
        elif not self._refused:
            self._early += data
            self._news.set()
            if len(self._early) >= EARLY_LIMIT:
                self._transport.pause_reading()

    def eof_received(self) -> bool:
        if self._guard is not None and not self._refused and (rest := self._guard.eof()):
            self._guard = None
            self.data_received(rest)
        self._eof = True
        self._news.set()
        if self._channel is not None:
            self._finish() if self._far_ended else self._channel.write_eof()
        # A held caller has left; of any other the other direction stays open.
        return not self._door.is_held(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._serving is not None:
            self._serving.cancel()
        if self._channel is not None:
            self._channel.close() if exc is None else self._channel.abort()
            self._channel = None
        self._door.leave(self)
        if not self.ended.done():
            self.ended.set_result(None)

    def pause_writing(self) -> None:
        if self._channel is not None:
            self._channel.pause_reading()

    def resume_writing(self) -> None:
        if self._channel is not None:
            self._channel.resume_reading()

    def close(self) -> None:
        """Close once what is on its way to the caller has been sent."""
        self._transport.close()

    def far_ended(self) -> None:
        """The far side sends no more; ours may go on."""
        self._far_ended = True
        if self._eof and self._channel is not None:
            self._finish()
        else:
            self._end_writing()

    def _end_writing(self) -> None:
        if self._transport.is_closing():
            return
        try:
            self._transport.write_eof()
        except OSError:  # the caller has reset; asyncio is about to find out and says connection_lost
            self._transport.abort()

    def _finish(self) -> None:
        """Both sides have ended: somebody must close, and not every SSH server does it of itself (RFC 4254, 5.3)."""
        if self._channel is not None:
            self._channel.close()
        self.close()

    @property
    def has_channel(self) -> bool:
        return self._channel is not None

    @property
    def forsaken(self) -> bool:
        """It has been refused: nothing of the far side is for it."""
        return self._refused

    def forget_channel(self) -> None:
        """The channel is closed for good."""
        self._channel = None

    def reset(self) -> None:
        """Close both sides at once: what the caller was promised will not come, and what it sent goes no further."""
        if self._channel is not None:
            self._channel.abort()
            self._channel = None
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            reset_on_close(sock)
        self._transport.abort()

    # --- guarded ----------------------------------------------------------------------------------------------------

    def _may_come_in(self) -> bool:
        """Whether it is one of ours; then it gets a guard. A Unix socket has its mode, and no browser speaks to one."""
        sock = self._transport.get_extra_info("socket")
        if sock is None or sock.family == socket.AF_UNIX:
            return True
        rules = self._door.rules
        try:
            ours = rules.allow_other_users or self._door.sockets.is_ours(sock)
        except Untold:
            if hung_up(sock):
                return False  # it has left already: nobody reads what we say, and nobody is to blame
            ours = False
        if ours:
            self._guard = guard(rules)
        else:
            self._door.refused(OTHER_USER)
        return ours

    def _screened(self, reader: Reader, data: bytes) -> bytes:
        """What of a caller's bytes may go on now."""
        data = reader.feed(data)
        if reader.refusal is not None:
            self._turn_away(reader.refusal, answerable=not (reader.accepted or self.answered))
            return b""
        if reader.passes:
            self._guard = None
        return data

    def _turn_away(self, refusal: Refusal, *, answerable: bool) -> None:
        self._door.refused(refusal)
        self._door.holds(self, False)
        if self._serving is not None:
            self._serving.cancel()
        self._refused = True
        if self._channel is not None:
            self._channel.abort()
            self._channel = None
        if answerable:
            self._serving = self._start(self._answer(response(refusal)))
        else:
            self.reset()

    # --- waiting ----------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        try:
            outcome = await self._wait_for_channel()
            self._door.holds(self, False)
            if isinstance(outcome, Cause):
                await self._refuse(unavailable(outcome))
            elif outcome is None:
                self.reset()
            else:
                self._splice(outcome)
        except Exception:
            log.exception("caller", tunnel=self._door.name)
            self.reset()  # a fault of ours must not leave a caller hanging

    async def _wait_for_channel(self) -> Channel | Cause | None:
        """A channel, or why there will be none; None if the caller has left while it was held."""
        dead: Link | None = None

        def decided(view: View) -> bool:
            hopeless = view.tunnel.phase in (Phase.DOWN, Phase.HALTED)
            return hopeless or (view.link is not None and view.link is not dead)

        try:
            async with Hold(self._door.hold):
                while True:
                    if not decided(self._door.view.value):
                        self._door.holds(self, True)
                        await self._door.view.until(decided)
                    if self._door.is_held(self) and self._has_left():
                        return None
                    link = self._door.view.value.link
                    if link is None:
                        return why(self._door.view.value)
                    if link.full:
                        self._door.holds(self, True)
                    far = FarSide(self, self._transport, self._door)
                    self._tried = self._loop.time()
                    try:
                        channel = await link.open(far)
                        if self._door.is_held(self) and self._has_left():
                            channel.abort()
                            return None
                        await self._may_go(link, channel)
                        if not far.lost:
                            return channel
                        self._door.holds(self, True)  # it was lost with the sign of life
                    except LinkError:
                        dead = link
                        self._door.holds(
                            self, True
                        )  # again, and an end that came while it was not has counted
                    except ChannelRefused as refused:
                        return refused.cause
        except TimeoutError:
            return why(self._door.view.value)

    async def _may_go(self, link: Link, channel: Channel) -> None:
        """Wait until `link` has been heard since it was asked for the channel, or until what the caller sends may be sent twice. Raises LinkError."""
        try:
            if link.spoke < self._tried and not self._repeatable:
                await self._until_news(_SHOWS, lambda: bool(self._early))
                if not self._repeatable:
                    await link.proof()
        except BaseException:
            channel.abort()
            raise
        self._unheard = (link, bytes(self._early)) if self._repeatable else None

    @property
    def _repeatable(self) -> bool:
        return self._guard is not None and self._guard.repeatable and not self._eof

    def ask_again(self) -> bool:
        """The link has died under it. True if it is held again, because what it has asked may be asked again."""
        unheard, self._unheard = self._unheard, None
        if unheard is None or unheard[0].spoke > self._tried or self._eof:
            return False
        self._early += unheard[1]
        self._door.holds(self, True)
        self._serving = self._start(self._serve())
        return True

    def _has_left(self) -> bool:
        """Whether a caller that was held has closed its side, even behind bytes that we have not read."""
        return self._eof or hung_up(self._transport.get_extra_info("socket"))

    def _splice(self, channel: Channel) -> None:
        self._channel = channel
        self._transport.resume_reading()  # first: writing may pause it again
        self._door.tally.bytes_out += len(self._early)
        if self._early:
            channel.write(bytes(self._early))
            self._early = bytearray()
        if self._eof:
            self._finish() if self._far_ended else channel.write_eof()
        channel.resume_reading()

    # --- no hope ----------------------------------------------------------------------------------------------------

    async def _refuse(self, answer: bytes) -> None:
        """`answer` for a caller that speaks HTTP, a plain close for any other."""
        await self._until_news(_FIRST_BYTES, lambda: bool(self._early))
        if speaks_http(self._early):
            await self._answer(answer)
        else:
            self.close()

    async def _answer(self, answer: bytes) -> None:
        self._transport.write(answer)
        self._end_writing()
        self._refused, self._early = True, bytearray()
        self._transport.resume_reading()
        await self._until_news(
            _DRAIN, lambda: self._eof
        )  # closing with unread bytes would destroy the answer on its way
        self.close()

    async def _until_news(self, deadline: float, enough: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(deadline):
                while not enough() and not self._eof:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return
