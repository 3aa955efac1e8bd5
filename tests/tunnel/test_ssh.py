"""The link against servers that speak SSH: how it comes up, what its causes are, how it is found dead and replaced."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import asyncssh
import pytest

from comfytunnel.config import Tcp, Unix
from comfytunnel.demo.remote import Remote
from comfytunnel.tunnel import dial, ssh
from comfytunnel.tunnel.dial import Resolver
from comfytunnel.tunnel.machine import Policy
from comfytunnel.tunnel.ssh import SshLink, SshOpener
from comfytunnel.tunnel.state import Code, Phase, Reconnect, Want, Woke
from tests.fakes.relay import Relay
from tests.fakes.sshd import Sshd, free_port
from tests.tunnel.conftest import (
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

HASTY = Policy(keepalive=0.2)  # asks after a fifth of a second of silence


async def cause_of(tunnel: Near) -> Code:
    """The cause of the first failure."""
    view = await tunnel.until(lambda view: view.tunnel.cause is not None, deadline=15)
    assert view.tunnel.cause is not None
    return view.tunnel.cause.code


def inside(link: object) -> SshLink:
    assert isinstance(link, SshLink)
    return link


# --- up -------------------------------------------------------------------------------------------------------------


async def test_a_wanted_tunnel_connects_and_says_what_it_is_connected_to(far: Far, tmp_path: Path) -> None:
    async with service(hello) as port, near(config_for(far, tmp_path, port)) as tunnel:
        link = await tunnel.up()
        assert link.facts.host_key == far.host_key()
        assert (link.facts.host, link.facts.port) == ("127.0.0.1", far.port)
        assert link.facts.local_address == "127.0.0.1"
        assert link.facts.server_version
        assert link.rtt is not None
        assert 0 < link.rtt < 5
        assert (await tunnel.call()).endswith(b"hello")
        phases = [record.phase for record in tunnel.records]
        assert phases == [Phase.DOWN, Phase.CONNECTING, Phase.UP]


async def test_no_session_is_ever_asked_for(far: Far, tmp_path: Path) -> None:
    async with service(hello) as port, near(config_for(far, tmp_path, port)) as tunnel:
        await tunnel.up()
        for _ in range(3):
            await tunnel.call()
        await far.cut()
        await tunnel.up(after=1)
        await tunnel.call()
    if isinstance(far.server, Remote):
        assert far.server.sessions_asked == 0
    else:
        assert "Starting session" not in far.server.log()
        assert "session_input" not in far.server.log()


async def test_sshd_sees_direct_forwards_and_no_session(tmp_path: Path) -> None:
    """At DEBUG1 sshd names each channel that is asked for."""
    async with sshd_far(tmp_path, extra="LogLevel DEBUG1") as far, service(hello) as port:
        async with near(config_for(far, tmp_path, port)) as tunnel:
            await tunnel.up()
            await tunnel.call()
        assert isinstance(far.server, Sshd)
        log = far.server.log()
        assert "server_request_direct_tcpip" in log
        assert "server_request_session" not in log
        assert "auth-agent" not in log
        assert "x11-req" not in log


async def test_a_remote_unix_socket_is_reached(sshd: Sshd, tmp_path: Path) -> None:
    path = Path(f"/tmp/ct-{free_port()}.sock")  # a path below tmp_path can be too long for a socket
    try:
        async with service(echo, path), near(config_for(sshd, tmp_path, 1, remote=Unix(path))) as tunnel:
            await tunnel.up()
            assert await tunnel.call(b"over", end=True) == b"over"
    finally:
        path.unlink(missing_ok=True)


async def test_down_closes_the_connection(far: Far, tmp_path: Path) -> None:
    async with service(hello) as port, near(config_for(far, tmp_path, port)) as tunnel:
        await tunnel.up()
        tunnel.tell(Want(False))
        await tunnel.phase(Phase.DOWN)
        await becomes(lambda: far.connections == 0, "the connection is closed")


async def test_bytes_that_come_are_seen_by_our_ear_in_asyncssh(far: Far, tmp_path: Path) -> None:
    """asyncssh has no hook for received bytes; if it stops delivering through data_received, no link is known to live."""
    async with service(echo) as port, near(config_for(far, tmp_path, port)) as tunnel:
        link = inside(await tunnel.up())
        before = link._witness.last_received
        assert before > 0
        heard = link._witness.listen()
        await tunnel.call(b"x", end=True)
        assert heard.done()
        assert link._witness.last_received > before


async def test_a_link_outlives_rekeying(tmp_path: Path) -> None:
    """Each new exchange of keys shows the host key again, long after the first was judged."""
    data = bytes(range(256)) * 4096 * 4
    async with (
        sshd_far(tmp_path, extra="RekeyLimit 1M") as far,
        service(echo) as port,
        near(config_for(far, tmp_path, port)) as tunnel,
    ):
        await tunnel.up()
        assert await tunnel.call(data, end=True) == data
        assert tunnel.record.link == 1


# --- dead, and replaced ---------------------------------------------------------------------------------------------


async def test_a_cut_link_is_replaced_at_once(far: Far, tmp_path: Path) -> None:
    async with service(hello) as port, near(config_for(far, tmp_path, port)) as tunnel:
        await tunnel.up()
        await far.cut()
        await tunnel.up(after=1)
        assert Phase.WAITING not in [record.phase for record in tunnel.records]
        assert (await tunnel.call()).endswith(b"hello")


async def test_a_frozen_link_is_found_dead_by_its_silence_and_replaced(far: Far, tmp_path: Path) -> None:
    async with service(hello) as port, near(config_for(far, tmp_path, port), HASTY) as tunnel:
        await tunnel.up()
        far.freeze()
        frozen_at = asyncio.get_running_loop().time()
        await tunnel.up(after=1)
        assert asyncio.get_running_loop().time() - frozen_at < 4
        connecting = next(record for record in tunnel.records if record.link == 2)
        assert connecting.cause is not None
        assert connecting.cause.code is Code.CONNECTION_LOST
        assert (await tunnel.call()).endswith(b"hello")


async def test_a_living_link_answers_after_a_wake_and_is_kept(far: Far, tmp_path: Path) -> None:
    async with service(hello) as port, near(config_for(far, tmp_path, port)) as tunnel:
        first = await tunnel.up()
        tunnel.tell(Woke(100.0))
        await tunnel.phase(Phase.DOUBTFUL)
        assert await tunnel.up() is first
        assert far.logins == 1


async def test_a_busy_link_that_confirms_nothing_is_alive(tmp_path: Path) -> None:
    """Bytes that come are an answer, even while the far side confirms no channel."""

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with remote_far(tmp_path) as far, service(drip) as port:
        assert isinstance(far.server, Remote)
        async with near(config_for(far, tmp_path, port), HASTY) as tunnel:
            first = await tunnel.up()
            reader, writer = await asyncio.open_connection("127.0.0.1", tunnel.port)
            await reader.readexactly(1)
            far.server.ignore_forwards = True
            for _ in range(3):
                tunnel.tell(Woke(100.0))
                await tunnel.phase(Phase.DOUBTFUL)
                assert await tunnel.up() is first
            writer.close()


async def test_a_link_that_answers_nothing_is_dead_although_it_is_not_closed(tmp_path: Path) -> None:
    async with remote_far(tmp_path) as far, service(idle) as port:
        assert isinstance(far.server, Remote)
        async with near(config_for(far, tmp_path, port), HASTY) as tunnel:
            await tunnel.up()
            far.server.ignore_forwards = True  # it lives, but gives no sign of it
            await tunnel.until(lambda view: view.tunnel.link == 2)
            far.server.ignore_forwards = False
            tunnel.tell(Reconnect())
            await tunnel.up(after=2)


async def test_a_link_is_reset_and_not_lingered_over(tmp_path: Path) -> None:
    """Reconnect on a path that swallows everything: no goodbye is waited for."""
    async with (
        sshd_far(tmp_path) as far,
        Relay(far.port) as relay,
        service(hello) as port,
        near(config_for(far, tmp_path, port, port=relay.port)) as tunnel,
    ):
        await tunnel.up()
        relay.swallow()
        tunnel.tell(Reconnect())
        await tunnel.up(after=1)
        assert (await tunnel.call()).endswith(b"hello")


# --- refused --------------------------------------------------------------------------------------------------------


async def test_a_refused_key_is_tried_again_slowly_and_shows_what_the_relay_says(tmp_path: Path) -> None:
    said = "Welcome. If authentication fails, try again after a few seconds."
    async with remote_far(tmp_path, banner=said + "\r\n") as far, service(hello) as port:
        far.refuse_key()
        async with near(config_for(far, tmp_path, port)) as tunnel:
            record = await tunnel.phase(Phase.WAITING)
            assert record.cause is not None
            assert record.cause.code is Code.AUTH_DENIED
            assert said in record.cause.message
            assert record.until is not None
            assert 29 < record.until - record.since <= 30
            far.accept_key()
            tunnel.tell(Reconnect())
            link = await tunnel.up()
            assert link.facts.banner is not None
            assert said in link.facts.banner


async def test_a_refused_key_is_tried_at_most_twice_a_minute_whoever_waits(far: Far, tmp_path: Path) -> None:
    far.refuse_key()
    async with service(hello) as port, near(config_for(far, tmp_path, port, hold=0.3)) as tunnel:
        await tunnel.phase(Phase.WAITING)
        for _ in range(3):
            assert b"auth_denied" in await tunnel.call()
        assert tunnel.record.link == 1


async def test_too_many_keys_are_a_refused_key_and_no_stranger(tmp_path: Path) -> None:
    """OpenSSH ends the connection when it has been offered too many keys, as with an agent that holds many."""
    async with sshd_far(tmp_path, extra="MaxAuthTries 1") as far, service(hello) as port:
        wrong = []
        for number in range(3):
            path = tmp_path / f"wrong{number}"
            path.touch(mode=0o600)
            path.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
            wrong.append(path)
        async with near(config_for(far, tmp_path, port, identity_files=(*wrong, far.key))) as tunnel:
            record = await tunnel.phase(Phase.WAITING)
            assert record.cause is not None
            assert record.cause.code is Code.AUTH_DENIED
            assert "identity_file" in record.cause.hint


async def test_a_server_that_forbids_the_forward_is_a_cause_of_its_own(far: Far, tmp_path: Path) -> None:
    await far.refuse_forwards()
    async with service(hello) as port, near(config_for(far, tmp_path, port)) as tunnel:
        record = await tunnel.phase(Phase.WAITING)
        assert record.cause is not None
        assert record.cause.code is Code.FORWARD_DENIED
        assert record.until is not None
        assert record.until - record.since == pytest.approx(30)


async def test_the_link_is_up_while_nothing_listens_behind_it(far: Far, tmp_path: Path) -> None:
    closed = free_port()
    async with near(config_for(far, tmp_path, closed)) as tunnel:
        await tunnel.up()
        answer = await tunnel.call()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b'"remote_refused"' in answer
        assert tunnel.record.link == 1
        assert tunnel.refusals, "whoever watches ComfyUI has been told"
        async with service(hello, closed):
            assert (await tunnel.call()).endswith(b"hello")
        assert far.logins == 1


# --- no connection --------------------------------------------------------------------------------------------------


async def test_a_refused_connection_is_tried_again_soon_while_somebody_waits(tmp_path: Path) -> None:
    async with sshd_far(tmp_path) as far, service(hello) as port:
        assert isinstance(far.server, Sshd)
        await far.server.stop()
        async with near(config_for(far, tmp_path, port)) as tunnel:
            assert await cause_of(tunnel) is Code.CONNECT_REFUSED
            waiting = asyncio.create_task(tunnel.call())
            await tunnel.phase(Phase.WAITING)
            await far.server.start()
            assert (await waiting).endswith(b"hello")


async def test_a_host_that_accepts_and_says_nothing_times_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "HANDSHAKE_DEADLINE", 0.3)
    async with sshd_far(tmp_path) as far, Relay(far.port) as relay:
        relay.swallow_new()
        async with near(config_for(far, tmp_path, 1, port=relay.port)) as tunnel:
            assert await cause_of(tunnel) is Code.CONNECT_TIMEOUT
            await becomes(lambda: relay.connections >= 2, "it is tried again")


async def test_a_relay_that_resets_before_the_handshake_is_retried(tmp_path: Path) -> None:
    async with sshd_far(tmp_path) as far, Relay(far.port) as relay, service(hello) as port:
        relay.refuse(reset=True)
        async with near(config_for(far, tmp_path, port, port=relay.port)) as tunnel:
            assert await cause_of(tunnel) is Code.CONNECT_RESET
            await relay.heal()
            await tunnel.up()


async def test_a_name_that_does_not_resolve_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(host: str, *_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, f"Name or service not known: {host}")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)  # the name must not leave this machine
    async with (
        sshd_far(tmp_path) as far,
        near(config_for(far, tmp_path, 1, host="nowhere.invalid")) as tunnel,
    ):
        assert await cause_of(tunnel) is Code.DNS_FAILED


async def test_a_resolver_that_hangs_is_not_asked_twice_and_is_used_when_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked, go = socket.getaddrinfo, [], threading.Event()

    def slow(host: str, *rest: object, **more: object) -> object:
        asked.append(host)
        go.wait(20)
        return real("127.0.0.1", *rest, **more)  # type: ignore[arg-type]  # handed on as it came

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    monkeypatch.setattr(dial, "CONNECT_DEADLINE", 0.2)
    try:
        async with (
            sshd_far(tmp_path) as far,
            service(hello) as port,
            near(config_for(far, tmp_path, port, host="slow.invalid")) as tunnel,
        ):
            await tunnel.until(lambda view: view.tunnel.link >= 3)
            assert tunnel.record.cause is not None
            assert tunnel.record.cause.code is Code.DNS_FAILED
            assert asked == ["slow.invalid"]
            go.set()
            tunnel.tell(Reconnect())
            await tunnel.up()
    finally:
        go.set()


async def test_an_http_server_is_not_taken_for_ssh(tmp_path: Path) -> None:
    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        await writer.drain()

    async with (
        sshd_far(tmp_path) as far,
        service(http) as port,
        near(config_for(far, tmp_path, 1, port=port)) as tunnel,
    ):
        assert await cause_of(tunnel) in (Code.PROTOCOL_ERROR, Code.CONNECT_RESET)


@pytest.mark.parametrize("garbage", [b"SSH-2.0-x\r\n" + bytes(40_000), b"\0" * 70_000, b"SSH-1.5-old\r\n"])
async def test_garbage_ends_a_try_and_never_the_driver(garbage: bytes, tmp_path: Path) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(garbage)
        await writer.drain()
        await reader.read()

    async with (
        sshd_far(tmp_path) as far,
        service(babble) as port,
        near(config_for(far, tmp_path, 1, port=port)) as tunnel,
    ):
        assert await cause_of(tunnel) in (Code.PROTOCOL_ERROR, Code.CONNECT_RESET)
        tunnel.tell(Reconnect())
        await tunnel.until(lambda view: view.tunnel.link >= 2)


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


# --- keys -----------------------------------------------------------------------------------------------------------


def write_key(path: Path, text: bytes, mode: int = 0o600) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(text)
    path.chmod(mode)
    return path


async def test_a_key_that_cannot_be_used_is_said_so_before_anything_is_sent(
    sshd: Sshd, tmp_path: Path
) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    cases = {
        "No such file": tmp_path / "missing",
        "0644": write_key(tmp_path / "open", key.export_private_key(), 0o644),
        "is not a private key": write_key(tmp_path / "garbage", b"\x00garbage\n"),
        "no agent": encrypted_key(tmp_path / "encrypted", key),
        "Is a directory": tmp_path,
    }
    for said, path in cases.items():
        if path == tmp_path:
            path.chmod(0o700)
        async with near(config_for(sshd, tmp_path, 1, identity_files=(path,))) as tunnel:
            record = await tunnel.phase(Phase.WAITING)
            assert record.cause is not None
            assert record.cause.code is Code.KEY_UNREADABLE, said
            assert said in record.cause.message
            assert str(path) in record.cause.message
            assert record.cause.hint
    assert sshd.sessions == []
    assert "Connection from" not in sshd.log()


def encrypted_key(path: Path, key: asyncssh.SSHKey) -> Path:
    """As ssh-keygen writes it with a passphrase."""
    write_key(path, key.export_private_key())
    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-a", "1", "-P", "", "-N", "secret", "-f", str(path)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return path


async def agent_with(key: asyncssh.SSHKey) -> tuple[asyncio.subprocess.Process, Path]:
    """A real ssh-agent that holds the key, and its socket."""
    path = Path(f"/tmp/ct-agent-{free_port()}")  # a path below tmp can be too long for a socket
    agent = await asyncio.create_subprocess_exec(
        "ssh-agent", "-D", "-a", str(path), stdout=asyncio.subprocess.DEVNULL
    )
    await becomes(path.exists, "the agent listens")
    client = asyncssh.SSHAgentClient(str(path))
    async with client:
        await client.add_keys([key])
    return agent, path


@pytest.mark.parametrize("told_by", ["config", "environment", "ssh_config"])
async def test_an_encrypted_key_is_used_through_the_agent(
    told_by: str, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    path = encrypted_key(tmp_path / "encrypted", key)
    sshd.set_authorized([key.export_public_key().decode().strip()])
    agent, socket_path = await agent_with(key)
    try:
        async with service(hello) as port:
            settings = config_for(sshd, tmp_path, port, identity_files=(path,))
            if told_by == "config":
                settings = replace(settings, agent=str(socket_path))
            elif told_by == "environment":
                monkeypatch.setenv("SSH_AUTH_SOCK", str(socket_path))
            else:
                (tmp_path / "config").write_text(f"Host *\n  IdentityAgent {socket_path}\n")
                settings = replace(settings, ssh_config=tmp_path / "config")
            async with near(settings) as tunnel:
                await tunnel.up()
                assert (await tunnel.call()).endswith(b"hello")
    finally:
        agent.terminate()
        await agent.wait()
        socket_path.unlink(missing_ok=True)


async def test_an_agent_that_is_gone_does_not_stop_a_plain_key(sshd: Sshd, tmp_path: Path) -> None:
    async with (
        service(hello) as port,
        near(config_for(sshd, tmp_path, port, agent=str(tmp_path / "gone"))) as tunnel,
    ):
        await tunnel.up()


# --- the library's edges --------------------------------------------------------------------------------------------


async def test_an_error_that_nobody_foresaw_ends_a_try_and_not_the_driver(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stumble(*_: object, **__: object) -> None:
        raise ArithmeticError("out of the blue")

    async with service(hello) as port:
        with monkeypatch.context() as patch:
            patch.setattr(asyncssh, "connect", stumble)
            tunnel_context = near(config_for(sshd, tmp_path, port))
            tunnel = await tunnel_context.__aenter__()
            record = await tunnel.phase(Phase.WAITING)
            assert record.cause is not None
            assert record.cause.code is Code.PROTOCOL_ERROR
            assert "out of the blue" in record.cause.message
        tunnel.tell(Reconnect())
        await tunnel.up()
        await tunnel_context.__aexit__(None, None, None)


async def test_a_cancelled_opening_leaves_no_connection(sshd: Sshd, tmp_path: Path) -> None:
    """Wherever in the handshake it is cancelled."""
    opener = SshOpener(config_for(sshd, tmp_path, 1, remote=Tcp("127.0.0.1", free_port())), Resolver())

    async def open_it() -> None:
        async with opener():
            await asyncio.sleep(60)

    for number in range(12):
        task = asyncio.create_task(open_it())
        await asyncio.wait({task}, timeout=0.01 * number)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
    await becomes(lambda: not sshd.sessions, "no connection is left")
