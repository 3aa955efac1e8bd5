"""What lies between the two: the door, the SSH link, the far sshd; bytes in memory, with all that can happen to them on the way.

A link carries connections. It can stand still (half-open: bytes go in and none come out) and be cut; then, and when a caller resets its
connection or is killed, each connection's unsent bytes have a fate: gone, cut short, or delivered up to `late` seconds later.
"""

from __future__ import annotations

import asyncio
import contextvars
import socket
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from tests.walks.virtual import LIFE, Life, VirtualLoop

NO_DESCRIPTOR = 1 << 30
"""A number that no open file has."""
HOLD = 30.0
"""Seconds that the door holds a caller while there is no link."""
NOT_DELIVERED = b"HTTP/1.1 503 Service Unavailable\r\nX-Comfytunnel-Cause: connecting\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
EOF, RESET = b"EOF", b"RESET"
"""Told apart from bytes by identity."""


class _Socket:
    family = socket.AF_UNIX

    def setsockopt(self, *_: Any) -> None:
        pass


class End(asyncio.Transport):
    """One side of a connection, as its protocol sees it."""

    def __init__(self, conn: Conn, protocol: Any, context: contextvars.Context, name: str) -> None:
        super().__init__()
        self._conn = conn
        self._protocol = protocol
        self._context = context
        self._name = name
        self._closing = False
        self._paused = False
        self._unread: deque[bytes] = deque()

    def made(self) -> None:
        self._protocol.connection_made(self)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "socket":
            return _Socket()
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default

    def is_closing(self) -> bool:
        return self._closing

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def can_write_eof(self) -> bool:
        return False

    def is_reading(self) -> bool:
        return not self._paused

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        while self._unread and not self._paused:
            self._take(self._unread.popleft())

    def write(self, data: Any) -> None:
        if not self._closing and data:
            self._conn.send(self, bytes(data))

    def close(self) -> None:
        if not self._closing:
            self._conn.send(self, EOF)
            self.lose(None)

    def abort(self) -> None:
        if not self._closing:
            self._conn.aborted(self)
            self.lose(None)

    def lose(self, why: Exception | None) -> None:
        """Its protocol hears of the end."""
        if not self._closing:
            self._closing = True
            self._conn.loop.call_soon(self._protocol.connection_lost, why, context=self._context)

    def arrive(self, data: bytes) -> None:
        """Something has come from the other side."""
        if self._closing:
            return
        if self._paused or self._unread:
            self._unread.append(data)
        else:
            self._context.copy().run(self._take, data)

    def _take(self, data: bytes) -> None:
        if self._closing:
            return
        if data is RESET:
            self.lose(ConnectionResetError(104, "Connection reset by peer"))
        elif data is EOF:
            self._protocol.eof_received()
            self.close()
        else:
            self._protocol.data_received(data)


class Link:
    """One SSH connection."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.stalled = False


class Conn:
    """A caller's connection through the door. `life`: whose it is."""

    def __init__(self, road: Road, life: Life | None, *, held: bool) -> None:
        self.road = road
        self.held = held
        self.loop = road.loop
        self.life = life
        self.link: Link | None = None
        self.near: End
        self.far: End | None = None
        self.opened = False
        self.over = False  # what is sent from now on goes nowhere
        self._up: deque[bytes] = deque()
        self._down: deque[bytes] = deque()
        self._due = {"up": 0.0, "down": 0.0}
        self._slow = road.dice.uniform(0.0, road.late) if road.dice.random() < 0.02 else 0.0

    @property
    def ended(self) -> bool:
        return self.near.is_closing() and not self._up and (self.far is None or self.far.is_closing())

    def attach(self, link: Link) -> None:
        self.link = link
        self.loop.call_later(self.road.delay(), self._open)

    def _open(self) -> None:
        if self.over:
            return
        if self.link is not None and self.link.stalled:
            return
        self.opened = True
        if not self._make_far():
            self.over = True
            self.near.arrive(EOF)  # a refused channel: the door hangs up
            return
        self.flow()

    def _make_far(self) -> bool:
        listener = self.road.listener
        if listener is None:
            return False
        self.far = End(self, listener(), self.road.context, "far")
        self.road.context.copy().run(self.far.made)
        return True

    def send(self, end: End, data: bytes) -> None:
        if self.over:
            return
        if end is not self.near:
            self._down.append(data)
            self._fly("down")
            return
        if data is not EOF:
            self.road.seen(data)
        if self.link is None and self.road.link is None and not self.held:
            self.over = True
            self.loop.call_later(0.001, self.near.arrive, NOT_DELIVERED, context=self.near._context)
            self.loop.call_later(0.002, self.near.arrive, EOF, context=self.near._context)
        else:
            self._up.append(data)
            self._fly("up")

    def _fly(self, way: str) -> None:
        if not self.opened or (self.link is not None and self.link.stalled):
            return
        due = max(self._due[way], self.loop.now + self.road.delay() + self._slow) + 1e-6
        self._slow = 0.0
        self._due[way] = due
        context = self.near._context if way == "down" else self.road.context
        slept = self.life.slept if way == "down" and self.life is not None else 0.0
        self.loop.call_at(due - slept, self._land, way, context=context)

    def _land(self, way: str) -> None:
        if self.over or (self.link is not None and self.link.stalled):
            return
        queue, end = (self._up, self.far) if way == "up" else (self._down, self.near)
        if queue and end is not None:
            end.arrive(queue.popleft())

    def flow(self) -> None:
        """The link moves (again)."""
        if not self.opened:
            if self.link is not None:
                self._open()
            return
        for way, queue in (("up", self._up), ("down", self._down)):
            for _ in range(len(queue)):
                self._fly(way)

    def aborted(self, end: End) -> None:
        if end is self.near:
            self.doom()
        else:
            self._down.append(RESET)
            self._fly("down")

    def doom(self) -> None:
        """Our side is gone: what was not delivered has its fate."""
        if self.over:
            return
        self.over = True
        self.road.conns.pop(self, None)
        dice, rest = self.road.dice, b"".join(data for data in self._up if data is not EOF)
        if self.link is None:
            return  # held at the door: a caller that has left is never delivered
        fate = dice.random()
        if rest and fate < 0.35:
            rest = rest[: dice.choice((0, len(rest) // 2, len(rest) - 1))]
        if rest and fate < 0.65:
            self.loop.call_later(self.road.lateness(rest), self._late, rest, context=self.road.context)
        elif self.far is not None:
            # The far sshd may hold the connection for long: ComfyUI does not know that nobody is there.
            self.loop.call_later(dice.choice((0.0, 1.0, 20.0)), self._far_over, context=self.road.context)

    def _late(self, rest: bytes) -> None:
        if self.far is None and not self._make_far():
            return
        assert self.far is not None
        self.far.arrive(rest)
        self.loop.call_later(self.road.dice.choice((0.1, 2.0)), self._far_over, context=self.road.context)

    def _far_over(self) -> None:
        if self.far is not None:
            self.far.arrive(RESET)

    def far_died(self) -> None:
        if self.far is not None and not self.far.is_closing():
            self._down.clear()
            self.far.abort()


class Road:
    """`link`: the live one. `late`: seconds after the end of a connection in which its bytes may still arrive; `once_late`: in which those of one POST
    /prompt may, 0 for none. `listener`: what accepts on the far
    port, None while nothing does. `context` is the far side's."""

    def __init__(self, loop: VirtualLoop, dice: Random, late: float) -> None:
        self.loop = loop
        self.dice = dice
        self.late = late
        self.once_late = 0.0
        self.link: Link | None = None
        self.links = 0
        self.listener: Callable[[], Any] | None = None
        self.conns: dict[Conn, None] = {}
        self.seen: Callable[[bytes], None] = lambda _: None  # hears of all that a caller sends
        self.context = contextvars.copy_context()
        loop.connect = self._connect
        loop.listen = self._listen

    def lateness(self, rest: bytes) -> float:
        """Seconds until what was not delivered in time is delivered."""
        if self.once_late and rest.startswith(b"POST /prompt"):
            late, self.once_late = self.once_late, 0.0
            return self.dice.uniform(self.late, late)
        return self.dice.uniform(0.0, self.late)

    def delay(self) -> float:
        return self.dice.uniform(0.002, 0.03)

    async def _connect(self, factory: Callable[[], Any]) -> tuple[End, Any]:
        life = LIFE.get()
        await asyncio.sleep(0.001)
        conn = Conn(self, life, held=self.link is not None or self.dice.random() < 0.5)
        protocol = factory()
        conn.near = End(conn, protocol, contextvars.copy_context(), "near")
        self.conns[conn] = None
        if self.link is not None:
            conn.attach(self.link)
        elif conn.held:
            self.loop.call_later(HOLD, self._give_up, conn, context=self.context)
        conn.near.made()
        return conn.near, protocol

    def _give_up(self, conn: Conn) -> None:
        if conn.link is None and not conn.over:
            conn.over = True
            conn.near.arrive(NOT_DELIVERED)
            conn.near.arrive(EOF)

    def _listen(self, factory: Callable[[], Any]) -> Listening:
        self.listener = factory
        return Listening(self, factory)

    def up(self) -> None:
        """A new link; the held callers are served."""
        assert self.link is None
        self.links += 1
        self.link = Link(self.links)
        for conn in self._in_order():
            if conn.link is None and not conn.over and not conn.near.is_closing():
                conn.attach(self.link)

    def cut(self) -> None:
        """The link is gone: callers are reset at once."""
        link, self.link = self.link, None
        for conn in self._in_order():
            if conn.link is link:
                conn.doom()
                conn.near.lose(ConnectionResetError(104, "Connection reset by peer"))

    def stall(self) -> None:
        if self.link is not None:
            self.link.stalled = True

    def flow(self) -> None:
        if self.link is not None and self.link.stalled:
            self.link.stalled = False
            for conn in self._in_order():
                conn.flow()

    def kill(self, life: Life) -> None:
        """A process of ours is gone with its connections."""
        for conn in self._in_order():
            if conn.life is life:
                conn.doom()
                conn.near.lose(ConnectionResetError(104, "Connection reset by peer"))
        self.cut()

    def far_dies(self) -> None:
        self.listener = None
        for conn in self._in_order():
            conn.far_died()

    def _in_order(self) -> list[Conn]:
        for conn in [conn for conn in self.conns if conn.ended]:
            del self.conns[conn]
        return list(self.conns)


class Listening:
    """What `create_server` returns, as far as the stand-in uses it."""

    def __init__(self, road: Road, factory: Callable[[], Any]) -> None:
        self._road = road
        self._factory = factory
        self.sockets = [self]

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 8188

    def fileno(self) -> int:
        return NO_DESCRIPTOR

    def close(self) -> None:
        if self._road.listener is self._factory:
            self._road.listener = None
