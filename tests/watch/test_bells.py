"""The bells by themselves: a message is a ring, lost messages are a ring, a broken socket is an error."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from comfytunnel.watch import bell_linux, bell_poll
from comfytunnel.watch.bell_socket import ring_on
from tests.watch.conftest import DEADLINE, need


class Rings:
    """Counts; `next` waits for one more."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[None] = asyncio.Queue()

    def ring(self) -> None:
        self.queue.put_nowait(None)

    async def next(self) -> None:
        async with asyncio.timeout(DEADLINE):
            await self.queue.get()


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_it_rings_at_the_start_and_for_every_message() -> None:
    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    rings = Rings()
    with kernel, ours:
        task = asyncio.create_task(ring_on(ours, rings.ring))
        await rings.next()
        for _ in range(3):
            kernel.send(b"whatever")
            await rings.next()
        assert rings.queue.empty()
        await end(task)


class Overrun(socket.socket):
    """A socket that answers as a full one does, once, and then as a broken one."""

    def __init__(self) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_DGRAM)
        self.answers = [errno.ENOBUFS, errno.EBADF]

    def recv(self, *_: object) -> bytes:
        raise OSError(self.answers.pop(0), "told by the test")


async def test_lost_messages_ring_and_a_broken_socket_is_an_error() -> None:
    """The real ENOBUFS of a real netlink socket is in test_network.py."""
    rings = Rings()
    with Overrun() as broken, pytest.raises(OSError, match="told") as told:
        await ring_on(broken, rings.ring)
    assert told.value.errno == errno.EBADF
    assert rings.queue.qsize() == 2


async def test_a_poll_rings_at_the_start_and_then_again() -> None:
    rings = Rings()
    task = asyncio.create_task(bell_poll.bell(rings.ring, interval=0.02))
    await rings.next()
    await rings.next()
    await end(task)


async def test_an_ordinary_user_may_listen_to_netlink() -> None:
    need()
    rings = Rings()
    task: asyncio.Task[None] = asyncio.create_task(bell_linux.bell(rings.ring))
    await rings.next()
    await end(task)
