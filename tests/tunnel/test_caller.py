"""One caller against a channel that the test moves by hand, where an order of events matters that no server can promise."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from comfytunnel.endpoints import Tcp
from comfytunnel.fdstore import Handed
from comfytunnel.feed import Feed
from comfytunnel.notify import Notifier
from comfytunnel.tunnel.dial import reset_on_close
from comfytunnel.tunnel.door import Door
from comfytunnel.tunnel.driver import View
from comfytunnel.tunnel.link import Channel, Facts, LinkError, Sink
from comfytunnel.tunnel.listeners import Listeners
from comfytunnel.tunnel.state import Cause, Code, Phase, Tunnel
from tests.fakes.sshd import free_port
from tests.tunnel.conftest import DEADLINE


class HandChannel:
    """A channel that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def write(self, data: bytes) -> None:
        self.told.append(data.decode())

    def write_eof(self) -> None:
        self.told.append("eof")

    def pause_reading(self) -> None:
        self.told.append("pause")

    def resume_reading(self) -> None:
        self.told.append("resume")

    def close(self) -> None:
        self.told.append("close")

    def abort(self) -> None:
        self.told.append("abort")


class HandLink:
    facts = Facts("host", 22, "root")
    rtt: float | None = None
    full = False
    heard = 0.0
    spoke = float("inf")  # what is asked is answered

    def __init__(self) -> None:
        self.channel = HandChannel()
        self.asked = asyncio.Event()  # for a sign of life
        self.alive: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sink: asyncio.Future[Sink] = asyncio.get_running_loop().create_future()
        self.confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.confirmed.set_result(None)

    async def silence(self, after: float, patience: float) -> None:
        await asyncio.Event().wait()

    async def open(self, sink: Sink) -> Channel:
        self.sink.set_result(sink)
        await self.confirmed
        return self.channel

    async def proof(self) -> None:
        self.asked.set()
        await self.alive

    async def ask(self, deadline: float) -> float | None:
        return None

    async def ended(self) -> Cause:
        return Cause(Code.CONNECTION_LOST)


@asynccontextmanager
async def knocking(link: HandLink) -> AsyncIterator[tuple[Door, Feed[View], socket.socket]]:
    """A door with `link` behind it and one caller in front, all within DEADLINE."""
    view = Feed(View(Tunnel(phase=Phase.UP, wanted=True, link=1), link))
    port = free_port()
    listeners = Listeners(Notifier(), Handed())
    door = Door("t", (Tcp("127.0.0.1", port),), view, listeners, hold=5, on_held=lambda _: None)
    serving = asyncio.create_task(door.run())
    try:
        async with asyncio.timeout(DEADLINE):
            await door.state.until(lambda state: bool(state.listening))
            with socket.create_connection(("127.0.0.1", port)) as caller:
                caller.setblocking(False)
                yield door, view, caller
    finally:
        serving.cancel()
        await asyncio.wait([serving])
        listeners.close()


def next_link(view: Feed[View], link: HandLink) -> None:
    view.set(View(Tunnel(phase=Phase.UP, wanted=True, link=view.value.tunnel.link + 1), link))


async def test_the_far_end_may_finish_after_a_caller_has_reset_and_nobody_knows_yet() -> None:
    """shutdown() fails on such a socket, and inside asyncssh that error would take the whole link down."""
    link = HandLink()
    async with knocking(link) as (door, _, caller):
        sink = await link.sink
        reset_on_close(caller)
        caller.close()
        sink.eof_received()
        sink.channel_lost(clean=True)
        while door.open_callers:  # noqa: ASYNC110 - asyncio finds out in the loop's next turns
            await asyncio.sleep(0)


async def test_a_caller_that_left_while_a_link_failed_is_not_delivered_through_the_next() -> None:
    """It was not held, so its end might have been that of one direction; but from then on it was."""
    first, second = HandLink(), HandLink()
    first.confirmed = asyncio.get_running_loop().create_future()
    async with knocking(first) as (door, view, caller):
        caller.sendall(b"POST /prompt HTTP/1.1")
        await first.sink
        (inside,) = door._callers
        caller.close()
        while not inside._eof:  # noqa: ASYNC110 - asyncio tells nobody but the protocol
            await asyncio.sleep(0)
        first.confirmed.set_exception(LinkError(Cause(Code.CONNECTION_LOST)))
        next_link(view, second)
        await inside.ended
    assert second.channel.told == []


async def test_a_caller_that_leaves_while_its_link_is_full_is_not_delivered() -> None:
    link = HandLink()
    link.full, link.confirmed = True, asyncio.get_running_loop().create_future()
    async with knocking(link) as (door, _, caller):
        caller.sendall(b"POST /prompt HTTP/1.1")
        await link.sink
        (inside,) = door._callers
        caller.close()
        while not inside._has_left():  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0)
        if not link.confirmed.done():
            link.confirmed.set_result(None)
        await inside.ended
    assert set(link.channel.told) <= {"abort"}


async def test_what_a_caller_sent_before_it_reset_is_not_passed_on_when_reading_resumes() -> None:
    """A POST that was given up may lie whole in the kernel's buffer behind a slow channel."""
    link = HandLink()
    async with knocking(link) as (door, _, caller):
        sink = await link.sink
        while "resume" not in link.channel.told:  # noqa: ASYNC110 - the splice, in the loop's next turns
            await asyncio.sleep(0)
        sink.pause_writing()
        caller.sendall(b"the rest of a POST")
        reset_on_close(caller)
        caller.close()
        sink.resume_writing()
        while door.open_callers:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert link.channel.told[-1] == "abort"
    assert not any("POST" in told for told in link.channel.told)
