"""How the relay moves bytes: a line with its capacity, a lane for each direction of each connection.

Order is kept, and reading stops before memory or the line's queue grows without end. Nothing listens here and
nothing is decided here: relay.py does both.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from typing import Protocol

CHUNK = 256 * 1024  # bytes; the largest single read
QUEUE_SECONDS = 0.1  # how much of a limited line's time may be booked ahead: the queue of its router
FAST = 1_000_000_000  # bytes/s; a delayed line holds what this speed puts in flight, and no more
IN_FLIGHT = (4 * 2**20, 256 * 2**20)  # bytes; least and most that one connection may have in flight each way


class Line:
    """One direction of the line, with the moment until which its capacity is booked."""

    def __init__(self) -> None:
        self.booked = 0.0
        self.passed = 0  # bytes delivered

    def book(self, now: float, size: int, rate: float | None) -> float:
        if rate is not None:
            self.booked = max(now, self.booked) + size / rate
            return self.booked
        return now


class Owner(Protocol):
    """What a connection needs of its relay."""

    target_port: int
    delay: float  # seconds each way
    rate: float | None  # bytes/s each way
    up: Line
    down: Line
    swallows_new: bool
    resets_new: bool
    memory: memoryview  # one for all reads: each is copied out before the next

    def accepted(self, connection: Connection) -> None: ...

    def departed(self, connection: Connection) -> None: ...


class Lane:
    """One direction of one connection: what has been read and is not due yet, in order."""

    def __init__(self, connection: Connection, line: Line) -> None:
        self.connection = connection
        self.relay = connection.relay
        self.line = line
        self.source: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None
        self.blocked = True  # there is no sink yet, or its socket takes no more at the moment
        self.waiting: deque[tuple[float, bytes]] = deque()  # when it is due, and the bytes; none: FIN
        self.size = 0  # bytes in `waiting`
        self.timer: asyncio.TimerHandle | None = None
        self.wake: asyncio.TimerHandle | None = None
        self.loop = asyncio.get_running_loop()

    def push(self, data: bytes) -> None:
        """Sends bytes on their way; no bytes mean FIN."""
        due = self.line.book(self.loop.time(), len(data), self.relay.rate) + self.relay.delay
        self.waiting.append((due, data))
        self.size += len(data)
        self.flush()

    def push_reset(self) -> None:
        """Sends an RST on its way. Unlike a FIN it does not wait behind a sink that takes no more."""
        self.loop.call_at(
            max(self.loop.time(), self.line.booked) + self.relay.delay, self.connection.reset_arrived
        )

    def flush(self) -> None:
        now = self.loop.time()
        while self.waiting and not self.blocked and self.waiting[0][0] <= now:
            _, data = self.waiting.popleft()
            if self.sink is None or self.sink.is_closing():
                self.clear()
            elif data:
                self.size -= len(data)
                self.line.passed += len(data)
                self.sink.write(data)
            else:
                self.connection.end(self.sink)
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.waiting and not self.blocked:
            self.timer = self.loop.call_at(self.waiting[0][0], self.flush)
        self.throttle()

    def throttle(self) -> None:
        """Stops or resumes reading, so that neither our memory nor the line's queue grows without end."""
        if self.source is None or self.source.is_closing():
            return
        least, most = IN_FLIGHT
        limit = min(most, max(least, self.relay.delay * FAST))
        ahead = 0.0 if self.relay.rate is None else self.line.booked - self.loop.time()
        if self.size > limit or ahead > QUEUE_SECONDS:
            self.source.pause_reading()
            if ahead > QUEUE_SECONDS and self.wake is None:
                self.wake = self.loop.call_later(ahead - QUEUE_SECONDS / 2, self._woken)
        else:
            self.source.resume_reading()

    def _woken(self) -> None:
        self.wake = None
        self.throttle()

    def clear(self) -> None:
        self.waiting.clear()
        self.size = 0
        for timer in (self.timer, self.wake):
            if timer is not None:
                timer.cancel()
        self.timer = self.wake = None


class Side(asyncio.BufferedProtocol):
    """One of a connection's two sockets: what it reads goes into `lane`, what it writes is from `back`."""

    def __init__(self, connection: Connection, lane: Lane, back: Lane) -> None:
        self.connection = connection
        self.lane = lane
        self.back = back

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.lane.source = self.back.sink = transport
        self.back.blocked = False
        transport.set_write_buffer_limits(0)  # what waits, waits in the lane, so a FIN finds an empty buffer
        self.connection.joined(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        relay = self.connection.relay
        # small on a limited line, so that connections take turns
        return relay.memory if relay.rate is None else relay.memory[: max(1500, int(relay.rate / 50))]

    def buffer_updated(self, nbytes: int) -> None:
        if not self.connection.swallowed:
            self.lane.push(bytes(self.connection.relay.memory[:nbytes]))

    def eof_received(self) -> bool:
        if not self.connection.swallowed:
            self.lane.push(b"")
        return True  # half-closed: the other direction goes on

    def pause_writing(self) -> None:
        self.back.blocked = True

    def resume_writing(self) -> None:
        self.back.blocked = False
        # not at once: the transport is still busy with its buffer, and a FIN now would be sent twice
        self.back.loop.call_soon(self.back.flush)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self.lane.push_reset()
        assert self.lane.source is not None
        self.connection.left(self.lane.source)


class Connection:
    """Two sockets and the lanes between them."""

    def __init__(self, relay: Owner) -> None:
        self.relay = relay
        self.swallowed = relay.swallows_new
        up, down = Lane(self, relay.up), Lane(self, relay.down)
        self.lanes = (up, down)
        self.near = Side(self, up, down)
        self.far = Side(self, down, up)
        self.open: set[asyncio.Transport] = set()
        self.ended = 0
        self.connecting: asyncio.Task[None] | None = None

    def joined(self, transport: asyncio.Transport) -> None:
        self.open.add(transport)
        if transport is not self.near.lane.source:
            return
        self.relay.accepted(self)
        if self.relay.resets_new:
            self.reset()
        elif not self.swallowed:
            self.connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self.far, "127.0.0.1", self.relay.target_port)
        except OSError:
            self.reset()  # the nearest thing to "refused" once the caller has been accepted
        else:
            self.near.lane.flush()  # what came meanwhile; pausing in connection_made fails on CPython 3.11.2

    def reset_arrived(self) -> None:
        """One side's RST has come to the other."""
        if not self.swallowed:
            self.reset()

    def end(self, sink: asyncio.Transport) -> None:
        """The other side's FIN arrives at `sink`."""
        self.ended += 1
        try:
            sink.write_eof()
        except OSError:  # the socket has been reset by its own peer meanwhile
            self.reset()
            return
        if self.ended == 2:
            for transport in list(self.open):
                transport.close()

    def left(self, transport: asyncio.Transport) -> None:
        self.open.discard(transport)
        if not self.open:
            self.vanish()
            self.relay.departed(self)

    def reset(self) -> None:
        self.vanish()
        for transport in list(self.open):
            with contextlib.suppress(OSError):  # a socket that is closed already needs no reset
                linger = struct.pack("ii", 1, 0)
                transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            transport.abort()

    def swallow(self) -> None:
        self.swallowed = True
        self.vanish()
        for transport in self.open:
            transport.resume_reading()  # bytes go on leaving the sender, into nothing

    def vanish(self) -> None:
        if self.connecting is not None:
            self.connecting.cancel()
        for lane in self.lanes:
            lane.clear()
