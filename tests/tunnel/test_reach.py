"""Getting through: another way beside one that is silent, while somebody waits, and nothing left of the others."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from comfytunnel.tunnel import reach as module
from comfytunnel.tunnel.reach import WAYS_MOST, reach
from comfytunnel.tunnel.state import Phase, Reconnect
from tests.fakes.relay import Relay
from tests.fakes.sshd import Sshd
from tests.tunnel.callers import echoed
from tests.tunnel.conftest import DEADLINE, becomes, config_for, echo, near, service


class Host:
    """A host that answers the ways to it as told; `shakes` holds the number of each way that was taken."""

    def __init__(self) -> None:
        self.dialled = 0
        self.shakes: list[int] = []
        self.heard = False
        self.eager = True
        self.ends: list[socket.socket] = []  # the host's end of each connection
        self.ours: list[socket.socket] = []
        self.answered = asyncio.Event()  # the handshake ends
        self.discarded: list[str] = []
        self.unreachable = 0  # so many first ways get no connection at all

    async def dial(self) -> socket.socket:
        self.dialled += 1
        if self.dialled <= self.unreachable:
            await asyncio.Event().wait()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.ours.append(ours)
        self.ends.append(theirs)
        return ours

    async def shake(self, sock: socket.socket) -> str:
        number = self.ours.index(sock)
        self.shakes.append(number)
        try:
            await self.answered.wait()
        except BaseException:
            sock.close()
            raise
        return f"through {number}"

    async def reach(self) -> str:
        return await reach(
            self.dial, self.shake, lambda: self.heard, lambda: self.eager, self.discarded.append
        )

    def open_ones(self) -> list[int]:
        return [number for number, sock in enumerate(self.ours) if sock.fileno() >= 0]


@pytest.fixture
async def host(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    monkeypatch.setattr(module, "AGAIN", 0.02)
    it = Host()
    yield it
    for sock in (*it.ours, *it.ends):
        sock.close()


@contextlib.asynccontextmanager
async def reaching(host: Host) -> AsyncIterator[asyncio.Task[str]]:
    task = asyncio.create_task(host.reach())
    async with asyncio.timeout(DEADLINE):
        yield task
        task.cancel()
        await asyncio.wait({task})


async def never(holds: Callable[[], bool]) -> None:
    """For ten times as long as another way would take."""
    with pytest.raises(AssertionError):
        await becomes(holds, "", deadline=0.2)


async def test_a_host_that_answers_is_reached_by_one_way(host: Host) -> None:
    host.answered.set()
    assert await host.reach() == "through 0"
    assert host.dialled == 1
    assert host.open_ones() == [0]


async def test_a_silent_way_is_left_for_the_first_on_which_the_host_speaks(host: Host) -> None:
    async with reaching(host) as task:
        await becomes(lambda: len(host.ends) == 4, "three more ways")
        host.ends[2].send(b"SSH-2.0-x\r\n")
        await becomes(lambda: host.shakes == [0, 2], "the way that spoke is taken")
        host.heard = True
        host.answered.set()
        assert await task == "through 2"
    assert host.open_ones() == [2]


async def test_a_connect_that_hangs_is_overtaken(host: Host) -> None:
    host.unreachable = 1
    async with reaching(host) as task:
        await becomes(lambda: len(host.ends) >= 1, "another way")
        host.ends[0].send(b"SSH-2.0-x\r\n")
        host.answered.set()
        assert await task == "through 0"
    assert host.open_ones() == [0]


async def test_the_oldest_way_makes_room_for_the_next(host: Host) -> None:
    async with reaching(host):
        await becomes(lambda: len(host.ends) >= 10, "many ways, one after the other")
        assert len(host.open_ones()) <= 1 + WAYS_MOST
        host.ends[-1].send(b"SSH-2.0-x\r\n")
        await becomes(lambda: len(host.shakes) == 2, "the newest is good")
        assert host.shakes[0] == 0
        host.answered.set()


async def test_a_host_that_was_heard_gets_no_other_way_and_neither_does_one_for_whom_nobody_waits(
    host: Host,
) -> None:
    for heard, eager in ((True, True), (False, False)):
        host.heard, host.eager, host.dialled = heard, eager, 0
        async with reaching(host):
            await never(lambda: host.dialled > 1)
        assert host.dialled == 1
    assert host.open_ones() == []


async def test_whoever_gives_up_leaves_no_connection(host: Host) -> None:
    async with reaching(host) as task:
        await becomes(lambda: len(host.ends) == 4, "three more ways")
        host.ends[1].send(b"x")
        host.ends[3].send(b"x")
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
    assert host.open_ones() == []
    gc.collect()


async def test_success_in_the_moment_of_giving_up_is_discarded(host: Host) -> None:
    async with reaching(host) as task:
        await becomes(lambda: host.shakes == [0], "the handshake is under way")
        host.eager = False
        host.answered.set()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
    assert host.discarded == ["through 0"]


async def test_success_in_the_moment_of_another_greeting_counts(host: Host) -> None:
    async with reaching(host) as task:
        await becomes(lambda: len(host.ends) == 2, "another way")
        host.ends[1].send(b"SSH-2.0-x\r\n")
        host.answered.set()
        assert await task in ("through 0", "through 1")
    assert len(host.open_ones()) == 1
    assert host.discarded == []


async def test_a_caller_is_served_soon_after_a_silent_outage(sshd: Sshd, tmp_path: Path) -> None:
    """The handshake that began in the outage would be waited for until its deadline."""
    async with (
        Relay(sshd.port) as relay,
        service(echo) as port,
        near(config_for(sshd, tmp_path, port, port=relay.port)) as tunnel,
    ):
        await tunnel.up()
        relay.swallow_new()
        tunnel.tell(Reconnect())
        await tunnel.phase(Phase.CONNECTING)
        call = asyncio.create_task(echoed(tunnel, b"hello"))
        await becomes(lambda: relay.connections >= 3, "another way beside the silent one")
        assert not call.done()
        await relay.heal()
        assert await call == b"hello"
        assert tunnel.record.link == 2, "the same try: the silent way was not waited for"
