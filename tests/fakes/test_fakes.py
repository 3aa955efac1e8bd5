"""The fakes do what they promise: a test that leans on a fake that lies shows nothing.

Only the fakes are tested here, with plain asyncssh and plain sockets; nothing of comfytunnel is imported.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import pytest

from tests.fakes.relay import Relay
from tests.fakes.sshd import Sshd, free_port


async def login(sshd: Sshd) -> asyncssh.SSHClientConnection:
    return await asyncssh.connect(
        sshd.host,
        sshd.port,
        username=sshd.user,
        client_keys=[str(sshd.client_key)],
        known_hosts=asyncssh.import_known_hosts(sshd.known_hosts_line),
        config=None,
        agent_path=None,
        connect_timeout=5,
        login_timeout=5,
    )


def fingerprint(conn: asyncssh.SSHClientConnection) -> str:
    key = conn.get_server_host_key()
    assert key is not None
    return key.get_fingerprint()


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """A server that sends back what it gets, and its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass  # a reset is what some tests are about
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def call(port: int, data: bytes = b"hello") -> bytes:
    """Sends `data` on a new connection, half-closes, and returns all that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


# -- sshd -------------------------------------------------------------------------------------------------


async def test_sshd_forwards_for_its_client_key(tmp_path: Path) -> None:
    async with Sshd(tmp_path) as sshd, echo() as port, await login(sshd) as conn:
        assert fingerprint(conn) == sshd.host_key_fingerprint
        reader, writer = await conn.open_connection("127.0.0.1", port)
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read() == b"hello"
        assert sshd.accepted == 1
        assert sshd.client_key.stat().st_mode & 0o777 == 0o600


async def test_sshd_refuses_a_key_that_is_not_authorized_until_it_is(tmp_path: Path) -> None:
    async with Sshd(tmp_path, authorized=[]) as sshd:
        with pytest.raises(asyncssh.PermissionDenied):
            await login(sshd)
        sshd.set_authorized([sshd.client_public])
        (await login(sshd)).abort()


async def test_cut_ends_every_connection_and_leaves_the_listener(tmp_path: Path) -> None:
    async with Sshd(tmp_path) as sshd:
        first, second = await login(sshd), await login(sshd)
        await sshd.wait_sessions(2)
        assert await sshd.cut() == 2
        await asyncio.wait_for(first.wait_closed(), 5)
        await asyncio.wait_for(second.wait_closed(), 5)
        (await login(sshd)).abort()
        await sshd.wait_sessions(0)


async def test_a_frozen_connection_is_silent_until_thawed_and_new_ones_are_served(tmp_path: Path) -> None:
    async with Sshd(tmp_path) as sshd, echo() as port, await login(sshd) as conn:
        sshd.freeze()
        opening = asyncio.ensure_future(conn.open_connection("127.0.0.1", port))
        async with await login(sshd) as other:
            await other.open_connection("127.0.0.1", port)
        assert not opening.done()
        sshd.thaw()
        await asyncio.wait_for(opening, 5)


async def test_sshd_ends_with_a_frozen_connection(tmp_path: Path) -> None:
    async with Sshd(tmp_path) as sshd:
        conn = await login(sshd)
        sshd.freeze()
    await asyncio.wait_for(conn.wait_closed(), 5)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(sshd.host, sshd.port)


async def test_a_changed_host_key_meets_new_connections_and_spares_open_ones(tmp_path: Path) -> None:
    async with Sshd(tmp_path) as sshd, echo() as port, await login(sshd) as conn:
        old = sshd.host_key_fingerprint
        assert await sshd.change_host_key() != old
        async with await login(sshd) as other:
            assert fingerprint(other) == sshd.host_key_fingerprint
        await conn.open_connection("127.0.0.1", port)


async def test_permit_open_refuses_forwards_of_new_connections(tmp_path: Path) -> None:
    async with Sshd(tmp_path) as sshd, echo() as port, await login(sshd) as before:
        await sshd.set_permit_open("none")
        async with await login(sshd) as after:
            with pytest.raises(asyncssh.ChannelOpenError) as refused:
                await after.open_connection("127.0.0.1", port)
        assert refused.value.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED
        await before.open_connection("127.0.0.1", port)


async def test_extra_directives_win_over_ours(tmp_path: Path) -> None:
    async with Sshd(tmp_path, extra="MaxSessions 0") as sshd, echo() as port, await login(sshd) as conn:
        with pytest.raises(asyncssh.ChannelOpenError):
            await conn.run("true")
        await conn.open_connection("127.0.0.1", port)


async def test_sshd_comes_back_on_its_port(tmp_path: Path) -> None:
    async with Sshd(tmp_path) as sshd:
        port = sshd.port
        await sshd.stop()
        await sshd.start()
        assert sshd.port == port
        (await login(sshd)).abort()


async def test_a_broken_config_raises_with_the_servers_own_words(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="Bad configuration option: Nonsense"):
        async with Sshd(tmp_path, extra="Nonsense 1"):
            pass


# -- relay ------------------------------------------------------------------------------------------------


async def test_relay_passes_bytes_and_half_closes_unchanged() -> None:
    async with echo() as port, Relay(port) as relay:
        data = os.urandom(5_000_000)
        assert hashlib.sha256(await call(relay.port, data)).digest() == hashlib.sha256(data).digest()
        assert (relay.connections, relay.bytes_up, relay.bytes_down) == (1, len(data), len(data))


async def test_delay_is_added_each_way_and_keeps_order() -> None:
    async with echo() as port, Relay(port, delay=0.05) as relay:
        start = asyncio.get_running_loop().time()
        data = os.urandom(3_000_000)
        assert await call(relay.port, data) == data
        assert asyncio.get_running_loop().time() - start >= 0.1


async def test_rate_is_shared_by_the_connections() -> None:
    async with echo() as port, Relay(port, rate=1_000_000) as relay:
        start = asyncio.get_running_loop().time()
        await asyncio.gather(*[call(relay.port, bytes(100_000)) for _ in range(3)])
        assert asyncio.get_running_loop().time() - start >= 0.29


async def test_reset_all_resets_both_ends() -> None:
    async with echo() as port, Relay(port) as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(b"x")
        await reader.readexactly(1)
        relay.reset_all()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        assert await call(relay.port) == b"hello"


async def test_a_targets_reset_reaches_the_caller_as_a_reset() -> None:
    async with echo() as port, Relay(port) as inner, Relay(inner.port, delay=0.01) as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(b"x")
        await reader.readexactly(1)
        inner.reset_all()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_a_swallowed_connection_stays_silent_for_ever_while_new_ones_work() -> None:
    async with echo() as port, Relay(port) as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(b"x")
        await reader.readexactly(1)
        relay.swallow()
        writer.write(b"y")
        assert await call(relay.port) == b"hello"
        await relay.heal()
        writer.write_eof()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.2)
        assert relay.bytes_up == len(b"xhello")
        writer.close()


async def test_swallow_new_keeps_new_callers_in_silence_until_healed() -> None:
    async with echo() as port, Relay(port) as relay:
        relay.swallow_new()
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(b"x")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.2)
        await relay.heal()
        assert await call(relay.port) == b"hello"
        writer.close()


async def test_refuse_refuses_and_heal_listens_on_the_same_port() -> None:
    async with echo() as port, Relay(port) as relay:
        await relay.refuse()
        with pytest.raises(ConnectionRefusedError):
            await call(relay.port)
        await relay.refuse()
        await relay.heal()
        await relay.refuse(reset=True)
        with pytest.raises(ConnectionResetError):
            await call(relay.port)
        await relay.heal()
        assert await call(relay.port) == b"hello"


async def test_a_target_that_is_not_there_is_a_reset() -> None:
    async with Relay(free_port()) as relay:
        with pytest.raises(ConnectionResetError):
            await call(relay.port)


async def test_a_caller_that_does_not_read_stops_the_sender() -> None:
    sent = 0

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        try:
            while True:
                writer.write(bytes(1_000_000))
                sent += 1_000_000
                await writer.drain()
        except ConnectionError:
            pass  # the end of the test
        finally:
            writer.close()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    async with Relay(server.sockets[0].getsockname()[1]) as relay:
        _, writer = await asyncio.open_connection("127.0.0.1", relay.port, limit=1000)
        before = -1
        while sent != before:  # until a whole pause brings nothing more
            before = sent
            await asyncio.sleep(0.2)
        assert 0 < sent < 100_000_000
        writer.transport.abort()
    server.close()


async def test_a_relay_that_ends_while_callers_come_leaves_none_of_their_sockets() -> None:
    """A socket that is forgotten is a warning when its memory is taken back, and warnings are errors."""
    callers = [socket.socket() for _ in range(3)]
    async with Relay(free_port()) as relay:
        for caller in callers:
            caller.setblocking(False)
            caller.connect_ex(("127.0.0.1", relay.port))
        for _ in range(2):  # turns of the loop: they are accepted, and nobody has been told
            await asyncio.sleep(0)
    for caller in callers:
        caller.close()
    gc.collect()


async def test_the_relay_as_a_process_obeys_its_stdin_and_ends_with_it() -> None:
    async with echo() as port:
        command = [sys.executable, "-m", "tests.fakes.relay", "--target", str(port), "--delay", "0.01"]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            relay = json.loads(await asyncio.wait_for(process.stdout.readline(), 10))["port"]
            assert await call(relay) == b"hello"
            process.stdin.write(b"refuse\n")
            stats = json.loads(await asyncio.wait_for(process.stdout.readline(), 10))
            assert (stats["connections"], stats["down"]) == (1, 5)
            with pytest.raises(ConnectionRefusedError):
                await call(relay)
        finally:
            process.stdin.close()
            assert await asyncio.wait_for(process.wait(), 10) == 0
