"""The door: it is always open, holds whoever comes too early, and never lies about what was delivered."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import os
import re
import select
import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from comfytunnel.config import Tcp, Unix
from comfytunnel.demo.remote import Remote
from comfytunnel.tunnel import caller, door
from comfytunnel.tunnel.channels import WINDOW_BUDGET
from comfytunnel.tunnel.holder import holder_of
from comfytunnel.tunnel.machine import Policy
from comfytunnel.tunnel.state import Code, Phase, Reconnect, Want
from tests.fakes.relay import Relay
from tests.fakes.sshd import Sshd, free_port
from tests.tunnel.conftest import (
    DEADLINE,
    Far,
    Near,
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
from tests.tunnel.test_ssh import inside

GET = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"
MEGABYTE = 1 << 20


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def echoed(tunnel: Near, data: bytes) -> bytes:
    """A call to echo() that does not end its side: who is held and does so has left."""
    async with connected(tunnel.port) as (reader, writer), asyncio.timeout(DEADLINE):
        writer.write(data)
        return await reader.readexactly(len(data))


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")


def reset(writer: asyncio.StreamWriter) -> None:
    """Leave as a killed program does: with RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def all_gone(tunnel: Near) -> None:
    """No caller is left, no channel but the spares, no task, and the windows' budget is whole."""
    await becomes(lambda: tunnel.door.open_callers == 0, "no caller is left")
    view = tunnel.driver.view.value
    assert view.link is not None
    channels = inside(view.link)._channels

    def states() -> str:
        chans = channels._conn._channels.values()
        told = [
            (c._send_state, c._recv_state, c._recv_paused, len(c._recv_buf), c._send_buf_len) for c in chans
        ]
        return f"only spares are left; {len(channels._spares)} spares, channels: {told}"

    await becomes(lambda: len(channels._conn._channels) == len(channels._spares), states)
    assert channels._budget == WINDOW_BUDGET - sum(spare.window for spare in channels._spares)
    await becomes(
        lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "t/caller"],
        "no task of a caller is left",
    )


def reason(answer: bytes) -> str:
    """The code in a 503 of ours, after checking that it is a proper one."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert re.search(rb"\r\nRetry-After: \d+", head)
    length = re.search(rb"\r\nContent-Length: (\d+)", head)
    assert length is not None
    assert int(length[1]) == len(body)
    error = json.loads(body)["error"]
    assert set(error) == {"code", "message", "details"}
    assert error["message"]
    return str(error["code"])


# --- held -----------------------------------------------------------------------------------------------------------


async def test_a_caller_that_comes_too_early_is_held_and_then_served(far: Far, tmp_path: Path) -> None:
    far.refuse_key()
    async with service(hello) as port, near(config_for(far, tmp_path, port)) as tunnel:
        await tunnel.phase(Phase.WAITING)
        calls = [asyncio.create_task(tunnel.call()) for _ in range(5)]
        await becomes(lambda: tunnel.door.held_callers == 5, "all are held")
        assert tunnel.record.waiting, "the machine knows that somebody waits"
        far.accept_key()
        tunnel.tell(Reconnect())
        assert all(answer.endswith(b"hello") for answer in await asyncio.gather(*calls))
        await becomes(lambda: not tunnel.record.waiting, "nobody waits any more")
        assert tunnel.door.tally.held == 5
        await all_gone(tunnel)


async def test_what_a_held_caller_has_sent_arrives_whole(sshd: Sshd, tmp_path: Path) -> None:
    data = os.urandom(3 * MEGABYTE)
    sshd.set_authorized([])
    async with service(echo) as port, near(config_for(sshd, tmp_path, port)) as tunnel:
        await tunnel.phase(Phase.WAITING)
        call = asyncio.create_task(echoed(tunnel, data))
        await becomes(lambda: tunnel.door.held_callers == 1, "it is held")
        (held,) = tunnel.door._held
        await becomes(lambda: len(held._early) >= caller.EARLY_LIMIT, "its first bytes are here")
        assert len(held._early) < caller.EARLY_LIMIT + 512 * 1024, "the rest stays in its socket"
        sshd.set_authorized([sshd.client_public])
        tunnel.tell(Reconnect())
        assert await call == data


async def test_when_the_hold_is_over_a_caller_hears_why(sshd: Sshd, tmp_path: Path) -> None:
    sshd.set_authorized([])
    async with near(config_for(sshd, tmp_path, 1, hold=0.2)) as tunnel:
        await tunnel.phase(Phase.WAITING)
        assert reason(await tunnel.call()) == "auth_denied"
        assert reason(
            await tunnel.call(b"POST /prompt HTTP/1.1\r\nContent-Length: 2000000\r\n\r\n" + bytes(200_000))
        )
    assert tunnel.door.open_callers == 0


async def test_down_on_purpose_is_said_at_once(sshd: Sshd, tmp_path: Path) -> None:
    async with near(config_for(sshd, tmp_path, 1, hold=30), want=False) as tunnel:
        async with asyncio.timeout(1):
            assert reason(await tunnel.call()) == "down_on_purpose"
        tunnel.tell(Want(True))
        await tunnel.up()
        tunnel.tell(Want(False))
        await tunnel.phase(Phase.DOWN)
        assert reason(await tunnel.call()) == "down_on_purpose"


async def test_going_down_ends_the_waiting_of_those_who_are_held(sshd: Sshd, tmp_path: Path) -> None:
    sshd.set_authorized([])
    async with near(config_for(sshd, tmp_path, 1, hold=30)) as tunnel:
        await tunnel.phase(Phase.WAITING)
        call = asyncio.create_task(tunnel.call())
        await becomes(lambda: tunnel.door.held_callers == 1, "it is held")
        tunnel.tell(Want(False))
        assert reason(await call) == "down_on_purpose"


async def test_a_caller_that_speaks_no_http_is_closed(sshd: Sshd, tmp_path: Path) -> None:
    async with near(config_for(sshd, tmp_path, 1), want=False) as tunnel:
        assert await tunnel.call(b"\x16\x03\x01\x02\x00\x01") == b""
        assert await tunnel.call(b"", end=True) == b""


@pytest.mark.parametrize(
    "size",
    [
        10,
        pytest.param(
            2 * caller.EARLY_LIMIT,
            marks=pytest.mark.skipif(
                not hasattr(select, "POLLRDHUP"),
                reason="this system does not tell of an end behind unread bytes",
            ),
        ),
    ],
)
async def test_a_held_caller_that_leaves_is_never_delivered(size: int, sshd: Sshd, tmp_path: Path) -> None:
    """A POST whose sender gave up must not run later; with RST we hear of it behind unread bytes, too."""
    came: list[bytes] = []

    async def notes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(await reader.read(1 << 16))

    sshd.set_authorized([])
    async with service(notes) as port, near(config_for(sshd, tmp_path, port, spares=0)) as tunnel:
        await tunnel.phase(Phase.WAITING)
        for leave in (reset, asyncio.StreamWriter.close):
            async with connected(tunnel.port) as (_, writer):
                writer.write(bytes(size))
                await becomes(lambda: tunnel.door.held_callers > 0, "it is held")
                if size > caller.EARLY_LIMIT:
                    await becomes(
                        lambda: not any(held._transport.is_reading() for held in tunnel.door._held),
                        "it is not read any more",
                    )
                leave(writer)
            await becomes(lambda: all(held._has_left() for held in tunnel.door._held), "its end has arrived")
        sshd.set_authorized([sshd.client_public])
        tunnel.tell(Reconnect())
        await tunnel.up()
        await becomes(lambda: tunnel.door.open_callers == 0, "they are gone")
        assert [data for data in came if data] == []


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
        await tunnel.up()
        async with connected(tunnel.port) as (reader, writer):
            writer.write(b"half a")
            assert await reader.readexactly(6) == b"half a"
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


# --- listening ------------------------------------------------------------------------------------------------------


@needs_ipv6
async def test_localhost_is_both_loopback_addresses(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()
    async with service(hello) as behind:
        settings = config_for(sshd, tmp_path, behind, listen=(Tcp("127.0.0.1", port), Tcp("::1", port)))
        async with near(settings) as tunnel:
            await tunnel.up()
            for host in ("127.0.0.1", "::1"):
                reader, writer = await asyncio.open_connection(host, port)
                writer.write(GET)
                assert (await reader.read()).endswith(b"hello")
                writer.close()


async def test_a_unix_socket_is_for_its_owner_and_a_stale_one_is_replaced(sshd: Sshd, tmp_path: Path) -> None:
    path = Path(f"/tmp/ct-{free_port()}.sock")  # a path below tmp_path can be too long for a socket
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    try:
        async with (
            service(hello) as port,
            near(config_for(sshd, tmp_path, port, listen=(Unix(path),))) as tunnel,
        ):
            await tunnel.up()
            assert path.stat().st_mode & 0o777 == 0o600
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(GET)
            assert (await reader.read()).endswith(b"hello")
            writer.close()
    finally:
        path.unlink(missing_ok=True)


HOLDER = """
import socket, sys, time
sock = socket.socket(); sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.bind(("127.0.0.1", int(sys.argv[1]))); sock.listen(); print("ready", flush=True); time.sleep(60)
"""


@needs_ipv6
async def test_a_port_that_is_taken_names_who_has_it_and_is_taken_over_when_it_is_free(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "BIND_AGAIN", 0.05)
    port = free_port()
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, str(port), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        await holder.stdout.readline()
        async with service(hello) as behind:
            listen = (Tcp("127.0.0.1", port), Tcp("::1", port))
            async with near(config_for(sshd, tmp_path, behind, listen=listen), bound=False) as tunnel:
                state = await asyncio.wait_for(
                    tunnel.door.state.until(lambda state: state.cause is not None and bool(state.listening)),
                    DEADLINE,
                )
                assert state.cause is not None
                assert state.cause.code is Code.PORT_IN_USE
                assert f"process {holder.pid} (" in state.cause.message
                assert f"kill {holder.pid}" in state.cause.hint
                reader, writer = await asyncio.open_connection("::1", port)
                writer.write(GET)
                assert (await reader.read()).endswith(b"hello"), "the other address serves"
                writer.close()
                holder.kill()
                await holder.wait()
                state = await asyncio.wait_for(
                    tunnel.door.state.until(lambda state: state.cause is None), DEADLINE
                )
                assert len(state.listening) == 2
                assert (await tunnel.call()).endswith(b"hello")
    finally:
        if holder.returncode is None:
            holder.kill()
        await holder.wait()


@needs_ipv6
async def test_the_holder_of_a_port_is_never_ourselves_on_its_other_address() -> None:
    with socket.socket(socket.AF_INET6) as ours:
        ours.bind(("::1", 0))
        ours.listen()
        port = ours.getsockname()[1]
        assert holder_of(port) is None
        other = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HOLDER, str(port), stdout=asyncio.subprocess.PIPE
        )
        try:
            assert other.stdout is not None
            await other.stdout.readline()
            told = holder_of(port)
            assert told is not None
            assert told.startswith(f"{other.pid} (")
        finally:
            other.kill()
            await other.wait()


async def test_any_free_port_is_announced_as_the_one_that_was_chosen(sshd: Sshd, tmp_path: Path) -> None:
    async with (
        service(hello) as port,
        near(config_for(sshd, tmp_path, port, listen=(Tcp("127.0.0.1", 0),))) as tunnel,
    ):
        await tunnel.up()
        host, _, chosen = tunnel.door.state.value.listening[0].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(chosen))
        writer.write(GET)
        assert (await reader.read()).endswith(b"hello")
        writer.close()


async def test_a_socket_folder_that_does_not_exist_is_said_so(sshd: Sshd, tmp_path: Path) -> None:
    settings = config_for(sshd, tmp_path, 1, listen=(Unix(tmp_path / "no" / "s"),))
    async with near(settings, bound=False) as tunnel:
        state = await asyncio.wait_for(
            tunnel.door.state.until(lambda state: state.cause is not None), DEADLINE
        )
        assert state.cause is not None
        assert "No such file" in state.cause.message


# --- the end --------------------------------------------------------------------------------------------------------


async def test_stopping_with_open_clients_ends_within_two_seconds_and_frees_the_port(
    far: Far, tmp_path: Path
) -> None:
    loop = asyncio.get_running_loop()
    async with service(echo) as port:
        async with near(config_for(far, tmp_path, port)) as tunnel:
            await tunnel.up()
            clients = [await asyncio.open_connection("127.0.0.1", tunnel.port) for _ in range(10)]
            for reader, writer in clients:
                writer.write(b"x")
                assert await reader.readexactly(1) == b"x"
            started = loop.time()
        assert loop.time() - started < 2
        for reader, writer in clients:
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(), 1)
            writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", tunnel.port)


async def test_a_call_under_way_may_end_in_peace(sshd: Sshd, tmp_path: Path) -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        began.set()
        await go_on.wait()
        writer.write(b"done")

    began, go_on = asyncio.Event(), asyncio.Event()
    async with service(slow) as port:
        async with near(config_for(sshd, tmp_path, port)) as tunnel:
            await tunnel.up()
            call = asyncio.create_task(tunnel.call())
            await began.wait()
            asyncio.get_running_loop().call_later(0.3, go_on.set)
        assert await call == b"done"


async def test_more_callers_than_we_keep_are_sent_away(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "CALLERS_MOST", 3)
    async with service(echo) as port, near(config_for(sshd, tmp_path, port)) as tunnel:
        await tunnel.up()
        clients = [await asyncio.open_connection("127.0.0.1", tunnel.port) for _ in range(3)]
        await becomes(lambda: tunnel.door.open_callers == 3, "three are in")
        with pytest.raises(ConnectionResetError):
            await tunnel.call(b"x", end=True)
        for _, writer in clients:
            writer.close()
        await all_gone(tunnel)
        assert await tunnel.call(b"x", end=True) == b"x"
    gc.collect()  # whatever was never awaited or never closed is told here
