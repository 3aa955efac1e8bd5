"""A TCP relay on loopback that adds delay, limits the rate, and damages connections on command.

It moves bytes and knows nothing of SSH. Delay and rate belong to the line: one line each way, shared by all
connections. What a process cannot imitate: the kernel completes the TCP handshake and acknowledges bytes at
once, so connecting costs no delay and swallowed bytes look delivered to the sender's kernel.
In a test: `async with Relay(sshd.port, delay=0.05) as relay:`. As a process of its own, for fair
measurements: `python -m tests.fakes.relay --target PORT --delay 0.05` prints a JSON line with its port, then
obeys the lines that it reads and ends with its stdin (reset, swallow, swallow-new, refuse, refuse-reset,
heal, delay S, rate B, stats); each is answered with a JSON line of counters.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import struct
import sys
from collections import deque
from enum import Enum
from types import TracebackType
from typing import Self

CHUNK = 256 * 1024  # bytes; the largest single read
QUEUE_SECONDS = 0.1  # how much of a limited line's time may be booked ahead: the queue of its router
FAST = 1_000_000_000  # bytes/s; a delayed line holds what this speed puts in flight, and no more
IN_FLIGHT = (4 * 2**20, 256 * 2**20)  # bytes; least and most that one connection may have in flight each way
CLOSE_DEADLINE = 5.0  # seconds


class _End(Enum):
    FIN = "fin"
    RST = "rst"


class _Line:
    """One direction of the line, with the moment until which its capacity is booked."""

    def __init__(self) -> None:
        self.booked = 0.0
        self.passed = 0  # bytes delivered

    def book(self, now: float, size: int, rate: float | None) -> float:
        if rate is not None:
            self.booked = max(now, self.booked) + size / rate
            return self.booked
        return now


class _Lane:
    """One direction of one connection: what has been read and is not due yet, in order."""

    def __init__(self, connection: _Connection, line: _Line) -> None:
        self.connection = connection
        self.relay = connection.relay
        self.line = line
        self.source: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None
        self.blocked = False  # the sink's socket takes no more at the moment
        self.waiting: deque[tuple[float, bytes | _End]] = deque()
        self.size = 0  # bytes in `waiting`
        self.timer: asyncio.TimerHandle | None = None
        self.wake: asyncio.TimerHandle | None = None
        self.loop = asyncio.get_running_loop()

    def push(self, item: bytes | _End) -> None:
        size = len(item) if isinstance(item, bytes) else 0
        due = self.line.book(self.loop.time(), size, self.relay.rate) + self.relay.delay
        self.waiting.append((due, item))
        self.size += size
        self.flush()

    def flush(self) -> None:
        now = self.loop.time()
        while self.waiting and not self.blocked and self.waiting[0][0] <= now:
            _, item = self.waiting.popleft()
            if self.sink is None or self.sink.is_closing():
                self.clear()
            elif isinstance(item, bytes):
                self.size -= len(item)
                self.line.passed += len(item)
                self.sink.write(item)
            else:
                self.connection.end(self.sink, item)
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


class _Side(asyncio.BufferedProtocol):
    """One of a connection's two sockets: what it reads goes into `lane`, what it writes is from `back`."""

    def __init__(self, connection: _Connection, lane: _Lane, back: _Lane) -> None:
        self.connection = connection
        self.lane = lane
        self.back = back

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.lane.source = self.back.sink = transport
        self.connection.joined(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.connection.relay.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        if not self.connection.swallowed:
            self.lane.push(bytes(self.connection.relay.memory[:nbytes]))

    def eof_received(self) -> bool:
        if not self.connection.swallowed:
            self.lane.push(_End.FIN)
        return True  # half-closed: the other direction goes on

    def pause_writing(self) -> None:
        self.back.blocked = True

    def resume_writing(self) -> None:
        self.back.blocked = False
        self.back.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not self.connection.swallowed:
            self.lane.push(_End.RST)
        assert self.lane.source is not None
        self.connection.left(self.lane.source)


class _Connection:
    """Two sockets and the lanes between them."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.swallowed = relay.swallows_new
        up, down = _Lane(self, relay.up), _Lane(self, relay.down)
        self.lanes = (up, down)
        self.near = _Side(self, up, down)
        self.far = _Side(self, down, up)
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
            transport.pause_reading()
            self.connecting = asyncio.get_running_loop().create_task(self._connect(transport))

    async def _connect(self, near: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self.far, "127.0.0.1", self.relay.target_port)
        except OSError:
            self.reset()  # the nearest thing to "refused" once the caller has been accepted
        else:
            near.resume_reading()

    def end(self, sink: asyncio.Transport, how: _End) -> None:
        """The other side's FIN or RST arrives at `sink`."""
        if how is _End.RST:
            self.reset()
            return
        self.ended += 1
        sink.write_eof()
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


class Relay:
    """From 127.0.0.1:`port` to `target_port`; `delay` in seconds and `rate` in bytes/s, both each way.

    `delay` and `rate` may be set at any time and count for bytes read from then on.
    """

    def __init__(
        self, target_port: int, *, delay: float = 0, rate: float | None = None, port: int = 0
    ) -> None:
        self.target_port = target_port
        self.delay = delay
        self.rate = rate
        self.port = port
        self.up = _Line()  # towards the target
        self.down = _Line()
        self.connections = 0  # accepted since the beginning
        self.swallows_new = False
        self.resets_new = False
        self.memory = memoryview(bytearray(CHUNK))  # one for all: each read is copied out before the next
        self._live: set[_Connection] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._socket: socket.socket | None = (
            None  # bound and silent while we refuse: nobody else gets the port
        )
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.heal()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()
        self.reset_all()
        if self._socket is not None:
            self._socket.close()
        async with asyncio.timeout(CLOSE_DEADLINE):
            await self._empty.wait()

    @property
    def live(self) -> int:
        """Connections with at least one open socket, swallowed ones included."""
        return len(self._live)

    @property
    def bytes_up(self) -> int:
        """Bytes delivered to the target since the beginning."""
        return self.up.passed

    @property
    def bytes_down(self) -> int:
        """Bytes delivered to the callers since the beginning."""
        return self.down.passed

    def reset_all(self) -> None:
        """Both sockets of each live connection get an RST, now."""
        for connection in list(self._live):
            connection.reset()

    def swallow(self) -> None:
        """All bytes of the live connections vanish from now on, for ever: no FIN, no RST. New ones work."""
        for connection in self._live:
            connection.swallow()

    def swallow_new(self) -> None:
        """Like swallow(), and new connections are accepted into the same silence until heal()."""
        self.swallows_new = True
        self.swallow()

    def refuse(self, *, reset: bool = False) -> None:
        """New connections are refused, or with `reset` accepted and reset at once; live ones stay."""
        self.resets_new = reset
        if reset or self._server is None:
            return
        self._server.close()
        self._server = None
        self._socket = self._bound()

    async def heal(self) -> None:
        """New connections work again; delay and rate stay, and what is swallowed stays lost."""
        self.swallows_new = self.resets_new = False
        if self._server is None:
            sock, self._socket = self._socket or self._bound(), None
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(lambda: _Connection(self).near, sock=sock, backlog=1024)

    def _bound(self) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.rate is not None:  # or the kernel's megabytes would be a second, longer queue before the line
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, max(65536, int(self.rate * QUEUE_SECONDS)))
        sock.bind(("127.0.0.1", self.port))
        self.port = int(sock.getsockname()[1])
        return sock

    # -- for its own connections -------------------------------------------------------------------

    def buffer(self) -> memoryview:
        """Room for one read: small on a limited line, so that connections take turns."""
        return self.memory if self.rate is None else self.memory[: max(1500, int(self.rate / 50))]

    def accepted(self, connection: _Connection) -> None:
        self.connections += 1
        self._live.add(connection)
        self._empty.clear()

    def departed(self, connection: _Connection) -> None:
        self._live.discard(connection)
        if not self._live:
            self._empty.set()


async def _serve(arguments: argparse.Namespace) -> None:
    async with Relay(arguments.target, delay=arguments.delay, rate=arguments.rate) as relay:
        print(json.dumps({"port": relay.port}), flush=True)
        lines = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while line := await lines.readline():
            await _obey(relay, line.decode().split())
            answer = {"connections": relay.connections, "live": relay.live}
            print(json.dumps(answer | {"up": relay.bytes_up, "down": relay.bytes_down}), flush=True)


async def _obey(relay: Relay, words: list[str]) -> None:
    match words:
        case ["reset"]:
            relay.reset_all()
        case ["swallow"]:
            relay.swallow()
        case ["swallow-new"]:
            relay.swallow_new()
        case ["refuse"]:
            relay.refuse()
        case ["refuse-reset"]:
            relay.refuse(reset=True)
        case ["heal"]:
            await relay.heal()
        case ["delay", seconds]:
            relay.delay = float(seconds)
        case ["rate", "none"]:
            relay.rate = None
        case ["rate", limit]:
            relay.rate = float(limit)
        case ["stats"]:
            pass
        case _:
            raise SystemExit(f"no such command: {' '.join(words)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--target", type=int, required=True, help="loopback port to relay to")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds each way")
    parser.add_argument("--rate", type=float, help="bytes per second each way")
    asyncio.run(_serve(parser.parse_args()))
