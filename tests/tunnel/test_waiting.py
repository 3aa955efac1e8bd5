"""While a caller waits, silence is doubted within seconds; a line that is only slow is never given up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from comfytunnel.tunnel.machine import Policy
from comfytunnel.tunnel.outgoing import NOTHING, Outgoing, outgoing
from comfytunnel.tunnel.waiting import GIVEN_UP, MORE, PAUSED, Waiting
from tests.fakes.relay import Relay
from tests.fakes.sshd import Sshd
from tests.tunnel.callers import GET, MEGABYTE, connected, echoed
from tests.tunnel.conftest import DEADLINE, Near, becomes, config_for, echo, idle, near, remote_far, service

IN_USE = 4.0  # seconds in which a silent link is found and replaced while somebody waits
SLOW = 250_000.0  # bytes/s: 2 Mbit/s

# --- the book of those who wait -------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_who_has_spoken_waits_until_it_hears(clock: Clock) -> None:
    waiting = Waiting(clock)
    assert waiting.since() is None
    waiting.spoke("a")
    clock.now = 101.0
    waiting.spoke("b")
    assert waiting.since() == 100.0
    waiting.heard("a", 10)
    assert waiting.since() == 100.0
    waiting.heard("b", 10)
    assert waiting.since() is None


def test_a_piece_of_a_transfer_makes_one_wait_for_the_next(clock: Clock) -> None:
    waiting = Waiting(clock)
    waiting.heard("a", MORE)
    assert waiting.since() == 100.0
    waiting.heard("a", MORE - 1)
    assert waiting.since() is None


def test_a_transfer_that_pauses_for_long_is_over_whatever_its_last_piece_was(clock: Clock) -> None:
    """A kept-alive connection after a download must not be asked about every second for two minutes."""
    waiting = Waiting(clock)
    waiting.spoke("a")
    waiting.heard("a", MORE)
    clock.now += PAUSED
    assert waiting.since() == 100.0
    clock.now += 1
    assert waiting.since() is None
    waiting.begun.clear()
    waiting.heard("a", MORE)
    assert waiting.begun.is_set()
    waiting.spoke("a")
    clock.now += PAUSED + 1
    assert waiting.since() is not None, "it has asked for something since"
    waiting.done("a")
    assert waiting.since() is None


def test_who_has_its_end_waits_no_more(clock: Clock) -> None:
    waiting = Waiting(clock)
    waiting.spoke("a")
    waiting.done("a")
    waiting.done("a")
    assert waiting.since() is None


def test_who_spoke_last_and_long_ago_is_given_up_until_it_speaks_again(clock: Clock) -> None:
    """An idle websocket must not keep the radio awake."""
    waiting = Waiting(clock)
    waiting.spoke("socket")
    clock.now += GIVEN_UP
    assert waiting.since() == 100.0
    clock.now += 1
    assert waiting.since() is None
    waiting.begun.clear()
    waiting.spoke("socket")
    assert waiting.begun.is_set()
    assert waiting.since() == clock.now


# --- dead ------------------------------------------------------------------------------------------------------------


async def replaced(tunnel: Near, since: float) -> None:
    await tunnel.up(after=1)
    assert asyncio.get_running_loop().time() - since < IN_USE


async def test_a_caller_in_flight_is_reset_within_seconds_of_a_silent_death(
    sshd: Sshd, tmp_path: Path
) -> None:
    async with (
        Relay(sshd.port) as relay,
        service(idle) as port,
        near(config_for(sshd, tmp_path, port, port=relay.port)) as tunnel,
    ):
        await tunnel.up()
        async with connected(tunnel.port) as (reader, writer), asyncio.timeout(DEADLINE):
            writer.write(GET)
            await writer.drain()
            await becomes_spliced(tunnel)
            await becomes_heard(tunnel)
            relay.swallow()
            dead_at = asyncio.get_running_loop().time()
            with pytest.raises(ConnectionResetError):
                await reader.read()
            assert asyncio.get_running_loop().time() - dead_at < IN_USE
        await replaced(tunnel, dead_at)


async def becomes_spliced(tunnel: Near) -> None:
    await becomes(lambda: tunnel.door.tally.bytes_out > 0, "the caller's bytes are on their way")


async def becomes_heard(tunnel: Near) -> None:
    """The far side has been heard since the call came: it is in flight, and not one that came after the cut."""
    link = tunnel.driver.view.value.link
    (caller,) = tunnel.door._callers
    assert link is not None
    await becomes(lambda: link.spoke > caller._tried, "the link is heard")


async def test_a_caller_without_channel_is_served_by_the_next_link(sshd: Sshd, tmp_path: Path) -> None:
    """Nothing of it was sent, so nothing of it is lost."""
    async with (
        Relay(sshd.port) as relay,
        service(echo) as port,
        near(config_for(sshd, tmp_path, port, port=relay.port, spares=0)) as tunnel,
    ):
        await tunnel.up()
        relay.swallow()
        dead_at = asyncio.get_running_loop().time()
        assert await echoed(tunnel, b"hello") == b"hello"
        await replaced(tunnel, dead_at)


async def test_a_download_that_stops_in_silence_is_reset_within_seconds(sshd: Sshd, tmp_path: Path) -> None:
    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(bytes(MEGABYTE))
            await writer.drain()

    async with (
        Relay(sshd.port) as relay,
        service(endless) as port,
        near(config_for(sshd, tmp_path, port, port=relay.port)) as tunnel,
    ):
        await tunnel.up()
        async with connected(tunnel.port) as (reader, writer), asyncio.timeout(DEADLINE):
            writer.write(GET)
            await reader.readexactly(4 * MEGABYTE)
            relay.swallow()
            dead_at = asyncio.get_running_loop().time()
            with pytest.raises(ConnectionResetError):
                await drained(reader)
            assert asyncio.get_running_loop().time() - dead_at < IN_USE


async def drained(reader: asyncio.StreamReader) -> None:
    while await reader.read(MEGABYTE):
        pass


async def test_an_upload_into_silence_is_reset_within_seconds(sshd: Sshd, tmp_path: Path) -> None:
    """What the relay's kernel still takes is no sign of life for longer than it takes it."""
    async with (
        Relay(sshd.port) as relay,
        service(idle) as port,
        near(config_for(sshd, tmp_path, port, port=relay.port)) as tunnel,
    ):
        await tunnel.up()
        async with connected(tunnel.port) as (reader, writer), asyncio.timeout(DEADLINE):
            writer.write(GET)
            await becomes_spliced(tunnel)
            await becomes_heard(tunnel)
            relay.swallow()
            dead_at = asyncio.get_running_loop().time()
            writer.write(bytes(8 * MEGABYTE))
            with pytest.raises(ConnectionResetError):
                await reader.read()
            assert asyncio.get_running_loop().time() - dead_at < IN_USE


# --- slow -------------------------------------------------------------------------------------------------------------


async def test_a_caller_that_waits_long_for_its_answer_keeps_its_link(sshd: Sshd, tmp_path: Path) -> None:
    """ComfyUI blocks for seconds: the link answers for itself."""
    asked = asyncio.Event()

    async def thoughtful(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1) == b"":
            asked.set()  # a question's channel that is closed again
            return
        await asked.wait()
        writer.write(b"at last")

    policy = Policy(answer_floor=0.2)
    async with (
        service(thoughtful) as port,
        near(config_for(sshd, tmp_path, port, spares=0), policy) as tunnel,
    ):
        await tunnel.up()
        assert (await tunnel.call()) == b"at last"
        assert tunnel.record.link == 1


async def test_a_thin_line_with_a_download_is_never_torn_down(sshd: Sshd, tmp_path: Path) -> None:
    """2 Mbit/s: a call beside the download waits for seconds behind it, and the bytes that come are the sign of life."""

    async def file(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wanted = int.from_bytes(await reader.readexactly(4), "big")
        writer.write(bytes(wanted))
        await writer.drain()

    async with (
        Relay(sshd.port, delay=0.05, rate=SLOW) as relay,
        service(file) as port,
        near(config_for(sshd, tmp_path, port, port=relay.port)) as tunnel,
    ):
        await tunnel.up()
        size = int(8 * SLOW)
        async with asyncio.timeout(25):
            download = asyncio.create_task(fetched(tunnel, size))
            small = [len(await fetched(tunnel, 100)) for _ in range(3)]
            assert len(await download) == size
        assert small == [100, 100, 100]
        assert tunnel.record.link == 1


async def fetched(tunnel: Near, size: int) -> bytes:
    async with connected(tunnel.port) as (reader, writer):
        writer.write(size.to_bytes(4, "big"))
        return await reader.readexactly(size)


async def test_a_thin_line_that_takes_an_upload_is_never_torn_down(tmp_path: Path) -> None:
    """A server that says nothing before half a window has come, which takes seconds: what the other end acknowledges is the
    sign of life. (This one waits for 1 MiB; OpenSSH for 96 KiB, which is as long on a line of 20 KB/s.)"""

    async def taker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(str(len(await reader.read())).encode())

    async with (
        remote_far(tmp_path) as far,
        Relay(far.port, delay=0.05, rate=SLOW) as relay,
        service(taker) as port,
        near(config_for(far, tmp_path, port, port=relay.port)) as tunnel,
    ):
        await tunnel.up()
        size = int(5 * SLOW)
        async with connected(tunnel.port) as (reader, writer), asyncio.timeout(25):
            writer.write(bytes(size))
            writer.write_eof()
            assert await reader.read() == str(size).encode()
        assert tunnel.record.link == 1


# --- what the kernel tells ------------------------------------------------------------------------------------------


def test_only_bytes_that_were_on_their_way_count_as_moved() -> None:
    """The question itself is taken by a relay that swallows everything."""
    assert Outgoing(10, 100).moved_since(Outgoing(20, 90))
    assert not Outgoing(0, 100).moved_since(Outgoing(0, 40))
    assert not Outgoing(20, 90).moved_since(Outgoing(20, 90))


async def test_the_kernel_tells_what_is_queued_and_what_has_been_acknowledged() -> None:
    async with service(idle) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        sock = writer.get_extra_info("socket")
        start = outgoing(sock)
        assert start.queued == 0
        writer.write(bytes(1000))
        async with asyncio.timeout(DEADLINE):
            while (now := outgoing(sock)).queued:  # noqa: ASYNC110 - the kernel tells nobody
                await asyncio.sleep(0)
        assert now.acknowledged - start.acknowledged == 1000
        writer.write(bytes(64 * MEGABYTE))
        assert outgoing(sock).queued > 0
        writer.transport.abort()
        assert outgoing(None) == NOTHING
