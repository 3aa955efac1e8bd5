"""Callers with a channel: bytes both ways, backpressure, ends, and links that die under them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
import time
from pathlib import Path
from typing import cast

import pytest

from comfytunnel.demo.remote import Remote
from comfytunnel.tunnel.dial import hung_up
from comfytunnel.tunnel.link import LinkError, Sink
from comfytunnel.tunnel.machine import Policy
from comfytunnel.tunnel.state import Phase, Reconnect
from tests.fakes.relay import Relay
from tests.fakes.sshd import Sshd, _descendants, free_port
from tests.tunnel.callers import MEGABYTE, all_gone, connected, echoed, inside, reset
from tests.tunnel.conftest import (
    DEADLINE,
    Far,
    becomes,
    config_for,
    echo,
    hello,
    idle,
    near,
    remote_far,
    service,
    sshd_far,
)

# --- served ---------------------------------------------------------------------------------------------------------


async def test_each_side_may_end_first_and_the_other_goes_on(far: Far, tmp_path: Path) -> None:
    async def last_word(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read()
        writer.write(b"got %d" % len(data))

    async def first_word(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.write_eof()
        heard.set_result(await reader.read())

    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    async with service(last_word) as port, near(config_for(far, tmp_path, port)) as tunnel:
        await tunnel.up()
        assert await tunnel.call(b"x" * 1000, end=True) == b"got 1000"
        await all_gone(tunnel)
    async with service(first_word) as port, near(config_for(far, tmp_path, port, spares=0)) as tunnel:
        await tunnel.up()
        heard = asyncio.get_running_loop().create_future()
        async with connected(tunnel.port) as (reader, writer):
            assert await reader.read() == b"bye"
            writer.write(b"still here")
            writer.write_eof()
            assert await asyncio.wait_for(heard, DEADLINE) == b"still here"
        await all_gone(tunnel)


async def test_fifty_megabytes_pass_in_both_directions_at_once(far: Far, tmp_path: Path) -> None:
    block, blocks = os.urandom(MEGABYTE), 50
    async with service(echo) as port, near(config_for(far, tmp_path, port)) as tunnel:
        await tunnel.up()
        async with connected(tunnel.port) as (reader, writer), asyncio.timeout(25):

            async def send() -> None:
                for _ in range(blocks):
                    writer.write(block)
                    await writer.drain()
                writer.write_eof()

            sending = asyncio.create_task(send())
            digest, size = hashlib.blake2b(), 0
            while data := await reader.read(1 << 18):
                digest.update(data)
                size += len(data)
            await sending
        assert size == blocks * MEGABYTE
        assert digest.digest() == hashlib.blake2b(block * blocks).digest()
        assert tunnel.door.tally.bytes_in == tunnel.door.tally.bytes_out == size
        await all_gone(tunnel)


async def test_a_caller_that_reads_nothing_makes_the_far_side_wait(far: Far, tmp_path: Path) -> None:
    """What is pulled over is bounded by the window and some sockets, not by what there is."""
    sent = 0

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while True:
            writer.write(bytes(MEGABYTE))
            await writer.drain()
            sent += MEGABYTE

    async with service(flood) as port, near(config_for(far, tmp_path, port, spares=0)) as tunnel:
        await tunnel.up()
        sock = socket.create_connection(("127.0.0.1", tunnel.port))
        try:
            before = -1
            while before != sent:  # until nothing moves any more
                before = sent
                await asyncio.sleep(0.4)
            (held,) = tunnel.door._callers
            assert 0 < sent < 64 * MEGABYTE
            assert held._transport.get_write_buffer_size() < 3 * MEGABYTE
            channels = inside(tunnel.driver.view.value.link)._channels
            buffered = sum(
                len(data) for chan in channels._conn._channels.values() for data, _ in chan._recv_buf
            )
            assert buffered <= 8 * MEGABYTE
        finally:
            sock.close()


async def test_a_service_that_reads_nothing_makes_the_caller_wait(far: Far, tmp_path: Path) -> None:
    async def deaf(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # of the asyncio transport that it is
        await done.wait()

    done = asyncio.Event()
    async with service(deaf) as port, near(config_for(far, tmp_path, port, spares=0)) as tunnel:
        await tunnel.up()
        async with connected(tunnel.port) as (_, writer):
            pushed = 0
            while pushed < 64 * MEGABYTE:
                writer.write(bytes(MEGABYTE))
                try:
                    await asyncio.wait_for(writer.drain(), 0.5)
                except TimeoutError:
                    break
                pushed += MEGABYTE
            assert pushed < 64 * MEGABYTE
            done.set()
            reset(writer)


# --- the link dies --------------------------------------------------------------------------------------------------


async def test_a_dead_link_resets_its_callers_at_once_and_the_next_ones_are_served(
    far: Far, tmp_path: Path
) -> None:
    async with service(echo) as port, near(config_for(far, tmp_path, port)) as tunnel:
        channels = inside(await tunnel.up())._channels
        async with connected(tunnel.port) as (reader, writer):
            writer.write(b"half a")
            assert await reader.readexactly(6) == b"half a"
            # asyncssh's server forgets a connection that it is just making when it is cut
            await becomes(lambda: len(channels._spares) == 2, "the spares are open again")
            await far.cut()
            with pytest.raises(ConnectionResetError):
                async with asyncio.timeout(2):
                    await reader.read()
        assert tunnel.door.tally.lost == 1
        assert await echoed(tunnel, b"again") == b"again"
        assert tunnel.record.link == 2
        await all_gone(tunnel)


async def test_a_silent_link_resets_its_callers_when_it_is_given_up(far: Far, tmp_path: Path) -> None:
    async with service(echo) as port, near(config_for(far, tmp_path, port), Policy(keepalive=0.2)) as tunnel:
        await tunnel.up()
        async with connected(tunnel.port) as (reader, writer):
            writer.write(b"x")
            await reader.readexactly(1)
            far.freeze()
            with pytest.raises(ConnectionResetError):
                async with asyncio.timeout(5):
                    await reader.read()
        assert await echoed(tunnel, b"again") == b"again"


def killed(sshd: Sshd, sock: socket.socket) -> None:
    """Kill the connections' processes and wait until the kernel here has seen it, all within one turn of the loop."""
    for pid in _descendants(sshd._pid()):
        os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + DEADLINE
    while not hung_up(sock):
        assert time.monotonic() < end, "the kernel sees the end"


async def test_a_link_whose_end_only_the_kernel_has_seen_takes_no_caller(sshd: Sshd, tmp_path: Path) -> None:
    """A spare of it looks as good as ever, and what is written into it is lost."""
    async with service(echo) as port, near(config_for(sshd, tmp_path, port)) as tunnel:
        link = inside(await tunnel.up())
        await becomes(lambda: len(link._channels._spares) == 2, "the spares are open")
        killed(sshd, link._conn.get_extra_info("socket"))
        with pytest.raises(LinkError):
            await link.open(cast(Sink, None))
        await tunnel.up(after=1)
        assert await echoed(tunnel, b"served by the next") == b"served by the next"


@pytest.mark.parametrize("ends", ["by us", "by them"])
async def test_a_caller_whose_channel_was_not_confirmed_is_served_by_the_next_link(
    ends: str, tmp_path: Path
) -> None:
    """Nothing of it has been sent, so it may be sent by another."""
    async with remote_far(tmp_path) as far, service(hello) as port:
        assert isinstance(far.server, Remote)
        async with near(config_for(far, tmp_path, port, spares=0)) as tunnel:
            await tunnel.up()
            remote = far.server
            remote.ignore_forwards = True
            asked = len(remote.forwards_asked)
            calls = [asyncio.create_task(tunnel.call()) for _ in range(3)]
            await becomes(lambda: len(remote.forwards_asked) == asked + 3, "the channels are asked for")
            remote.ignore_forwards = False
            tunnel.tell(Reconnect()) if ends == "by us" else remote.cut()
            assert [answer[-5:] for answer in await asyncio.gather(*calls)] == [b"hello"] * 3
            assert tunnel.record.link == 2
            assert tunnel.door.tally.lost == 0
            await all_gone(tunnel)


async def test_callers_that_come_and_go_at_once_leave_nothing_behind(tmp_path: Path) -> None:
    """asyncssh#823: a caller that leaves before its channel is open must not leak it."""
    async with (
        sshd_far(tmp_path) as far,
        Relay(far.port, delay=0.05) as relay,
        service(idle) as port,
        near(config_for(far, tmp_path, port, port=relay.port)) as tunnel,
    ):
        await tunnel.up()
        for _ in range(300):
            _, writer = await asyncio.open_connection("127.0.0.1", tunnel.port)
            reset(writer)
        await becomes(lambda: tunnel.door.tally.callers == 300, "all have been here")
        await all_gone(tunnel)
        assert tunnel.record.link == 1


async def test_a_service_that_closes_at_once_is_heard_through_a_fresh_channel_and_a_spare(
    far: Far, tmp_path: Path
) -> None:
    """The end can come in the same packet as the confirmation, before anybody listens."""

    async def slam(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with service(slam) as port:
        for spares in (0, 2):
            async with near(config_for(far, tmp_path, port, spares=spares)) as tunnel:
                await tunnel.up()
                for _ in range(20):
                    assert await tunnel.call(b"") == b""
                await becomes(lambda: tunnel.door.open_callers == 0, "no caller hangs")


async def test_spares_that_the_far_side_closed_are_replaced_and_reported(far: Far, tmp_path: Path) -> None:
    port = free_port()
    async with near(config_for(far, tmp_path, port)) as tunnel:
        async with service(hello, port):
            await becomes(lambda: tunnel.record.phase is Phase.UP, "it is up")
            tunnel.tell(Reconnect())  # now that something listens
            link = inside(await tunnel.up(after=1))
            await becomes(lambda: len(link._channels._spares) == 2, "spares are open")
            tunnel.refusals.clear()
        await becomes(lambda: not link._channels._spares, "they are closed with what they led to")
        assert tunnel.refusals
        async with service(hello, port):
            assert (await tunnel.call()).endswith(b"hello")
            await all_gone(tunnel)
