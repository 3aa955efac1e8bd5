"""Where the door listens, and who else does."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest

from comfytunnel.config import Tcp, Unix
from comfytunnel.tunnel import bound, listeners
from comfytunnel.tunnel.holder import holder_of
from comfytunnel.tunnel.state import Code
from tests.fakes.sshd import Sshd, free_port
from tests.tunnel.callers import GET
from tests.tunnel.conftest import (
    DEADLINE,
    config_for,
    hello,
    near,
    service,
)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")


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


def test_a_unix_socket_is_for_its_owner_from_its_first_moment(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the umask; a mode that is set after bind comes too late."""
    monkeypatch.delattr(Path, "chmod")
    usual = os.umask(0o002)
    try:
        with listeners._bind_unix(short_path / "s"):
            assert (short_path / "s").stat().st_mode & 0o777 == 0o600
    finally:
        assert os.umask(usual) == 0o002, "the umask is as before"


async def test_a_unix_socket_is_for_its_owner_and_a_stale_one_is_replaced(
    sshd: Sshd, tmp_path: Path, short_path: Path
) -> None:
    path = short_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
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


HOLDER = """
import socket, sys, time
sock = socket.socket(); sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.bind(("127.0.0.1", int(sys.argv[1]))); sock.listen(); print("ready", flush=True); time.sleep(60)
"""


@needs_ipv6
async def test_a_port_that_is_taken_names_who_has_it_and_is_taken_over_when_it_is_free(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bound, "BIND_AGAIN", 0.05)
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


async def test_who_is_being_accepted_in_the_moment_of_the_stop_is_served(sshd: Sshd, tmp_path: Path) -> None:
    """asyncio drops a connection whose server is closed between accept() and connection_made."""
    async with service(hello) as behind:
        async with near(config_for(sshd, tmp_path, behind)) as tunnel:
            await tunnel.up()
            callers = [socket.create_connection(("127.0.0.1", tunnel.port)) for _ in range(5)]
            for caller in callers:
                caller.sendall(GET)
            await asyncio.sleep(0)  # the loop sees them in this turn, and the door ends in the next
        for caller in callers:
            with caller, caller.makefile("rb") as answer:
                caller.settimeout(DEADLINE)
                assert (await asyncio.to_thread(answer.read)).endswith(b"hello")
