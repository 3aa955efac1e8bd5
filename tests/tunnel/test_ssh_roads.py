"""Other ways to a host: ssh_config, jump hosts, proxy commands, and that nothing is left behind on them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from comfytunnel.demo.remote import Remote
from comfytunnel.tunnel import ssh
from comfytunnel.tunnel.state import Code, Phase
from tests.fakes.relay import Relay
from tests.fakes.sshd import Sshd
from tests.tunnel.callers import HASTY
from tests.tunnel.conftest import (
    becomes,
    config_for,
    hello,
    near,
    remote_far,
    service,
)

# --- the way there --------------------------------------------------------------------------------------------------


async def test_an_alias_of_ssh_config_is_followed(sshd: Sshd, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        f"Host box\n  HostName 127.0.0.1\n  Port {sshd.port}\n  User {sshd.user}\n  IdentityFile {sshd.client_key}\n"
    )
    async with service(hello) as port:
        settings = config_for(
            sshd, tmp_path, port, host="box", port=None, user=None, identity_files=(), ssh_config=config
        )
        async with near(settings) as tunnel:
            await tunnel.up()
            assert (await tunnel.call()).endswith(b"hello")
            assert f"[127.0.0.1]:{sshd.port} " in settings.known_hosts.read_text()


async def test_a_jump_host_is_gone_through_and_let_go_with_the_link(sshd: Sshd, tmp_path: Path) -> None:
    async with Sshd(tmp_path) as jump, service(hello) as port:
        jump.set_authorized([sshd.client_public])
        known = Path("~/.ssh/known_hosts").expanduser()
        known.write_text(f"{jump.known_hosts_line}\n")
        ssh_config = tmp_path / "config"
        ssh_config.write_text(f"Host *\n  IdentityFile {sshd.client_key}\n")
        settings = config_for(
            sshd,
            tmp_path,
            port,
            ssh_config=ssh_config,
            proxy_jump=f"{jump.user}@127.0.0.1:{jump.port}",
        )
        async with near(settings, HASTY) as tunnel:
            await tunnel.up()
            assert (await tunnel.call()).endswith(b"hello")
            assert (jump.accepted, sshd.accepted) == (1, 1)
            await jump.cut()
            await tunnel.up(after=1)
            assert (await tunnel.call()).endswith(b"hello")
            sshd.freeze()
            await tunnel.up(after=2)
            await becomes(
                lambda: len(jump.sessions) == 1, "the connection of the dead link has left the jump host"
            )
        await becomes(lambda: len(jump.sessions) == 0, "the jump host is left with the link")


async def test_a_try_behind_a_jump_host_that_is_given_up_leaves_the_jump_host_too(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "HANDSHAKE_DEADLINE", 1.0)
    async with Sshd(tmp_path) as jump, Relay(sshd.port) as relay, service(hello) as port:
        relay.swallow_new()
        jump.set_authorized([sshd.client_public])
        Path("~/.ssh/known_hosts").expanduser().write_text(f"{jump.known_hosts_line}\n")
        ssh_config = tmp_path / "config"
        ssh_config.write_text(f"Host *\n  IdentityFile {sshd.client_key}\n")
        settings = config_for(
            sshd,
            tmp_path,
            port,
            port=relay.port,
            ssh_config=ssh_config,
            proxy_jump=f"{jump.user}@127.0.0.1:{jump.port}",
        )
        async with near(settings) as tunnel:
            await tunnel.until(lambda view: view.tunnel.link >= 3)
            assert tunnel.record.cause is not None
            assert tunnel.record.cause.code is Code.CONNECT_TIMEOUT
            await becomes(lambda: len(jump.sessions) <= 1, "only the present try is on the jump host")


async def test_a_jump_host_that_leads_nowhere_is_left_each_time(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "HANDSHAKE_DEADLINE", 0.5)
    async with remote_far(tmp_path) as jump:
        assert isinstance(jump.server, Remote)
        remote = jump.server
        remote.ignore_forwards = True
        Path("~/.ssh/known_hosts").expanduser().write_text(f"{jump.known_hosts_line()}\n")
        ssh_config = tmp_path / "config"
        ssh_config.write_text(f"Host *\n  IdentityFile {jump.key}\n")
        settings = config_for(
            sshd, tmp_path, 1, ssh_config=ssh_config, proxy_jump=f"root@127.0.0.1:{jump.port}"
        )
        async with near(settings) as tunnel:
            await tunnel.until(lambda view: view.tunnel.link >= 4)
            await becomes(lambda: remote.connections <= 1, "only the present try is on the jump host")
        await becomes(lambda: remote.connections == 0, "nothing is left on the jump host")


async def test_a_jump_host_that_nobody_knows_halts(sshd: Sshd, tmp_path: Path) -> None:
    async with Sshd(tmp_path) as jump:
        settings = config_for(sshd, tmp_path, 1, proxy_jump=f"{jump.user}@127.0.0.1:{jump.port}")
        async with near(settings) as tunnel:
            record = await tunnel.phase(Phase.HALTED)
            assert record.cause is not None
            assert record.cause.code is Code.HOST_KEY_UNKNOWN
            assert "127.0.0.1" in record.cause.message
            assert "jump host's key" in record.cause.hint
        assert jump.accepted == sshd.accepted == 0


RELAY_COMMAND = """
import os, socket, sys, threading
sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def up():
    while data := os.read(0, 65536):
        sock.sendall(data)
    os._exit(0)
threading.Thread(target=up, daemon=True).start()
while data := sock.recv(65536):
    os.write(1, data)
"""


async def test_a_proxy_command_carries_the_link_and_ends_with_it(sshd: Sshd, tmp_path: Path) -> None:
    script = tmp_path / "relay.py"
    script.write_text(RELAY_COMMAND)
    async with service(hello) as port:
        settings = config_for(sshd, tmp_path, port, proxy_command=f"{sys.executable} {script} {sshd.port}")
        async with near(settings, HASTY) as tunnel:
            await tunnel.up()
            assert (await tunnel.call()).endswith(b"hello")
            sshd.freeze()
            await tunnel.up(after=1)
            assert (await tunnel.call()).endswith(b"hello")
            await sshd.cut()
            await tunnel.up(after=2)
        await becomes(lambda: not sshd.sessions, "the command has ended, and its connection with it")


async def test_a_proxy_command_that_does_not_exist_is_named(sshd: Sshd, tmp_path: Path) -> None:
    settings = config_for(sshd, tmp_path, 1, proxy_command="/nonexistent/relay %h %p")
    async with near(settings) as tunnel:
        record = await tunnel.phase(Phase.HALTED)
        assert record.cause is not None
        assert record.cause.code is Code.CONFIG_ERROR
        assert "/nonexistent/relay" in record.cause.message
