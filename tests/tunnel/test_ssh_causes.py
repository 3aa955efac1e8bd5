"""Links that do not come up: what is refused, what is not there, which keys cannot be used, and what is said about it."""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import asyncssh
import pytest

from comfytunnel.tunnel import dial, ssh
from comfytunnel.tunnel.state import Code, Phase, Reconnect
from tests.fakes.relay import Relay
from tests.fakes.sshd import Sshd, free_port
from tests.tunnel.callers import cause_of
from tests.tunnel.conftest import (
    Far,
    becomes,
    config_for,
    hello,
    near,
    remote_far,
    service,
    sshd_far,
)

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


async def test_what_a_stranger_says_is_cut_short(tmp_path: Path) -> None:
    """Anybody may answer before the host key is judged, and give a reason as long as a packet."""

    async def farewell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n")
        await reader.readline()
        reason = b"\x1b]" * 15_000
        payload = struct.pack(">BII", 1, 2, len(reason)) + reason + bytes(4)  # SSH_MSG_DISCONNECT
        padding = 16 - (len(payload) + 5) % 8
        writer.write(struct.pack(">IB", len(payload) + 1 + padding, padding) + payload + bytes(padding))
        await writer.drain()
        await reader.read()

    async with (
        sshd_far(tmp_path) as far,
        service(farewell) as port,
        near(config_for(far, tmp_path, 1, port=port)) as tunnel,
    ):
        assert await cause_of(tunnel) is Code.PROTOCOL_ERROR
        assert tunnel.record.cause is not None
        assert "\x1b]" in tunnel.record.cause.message, "it was heard"
        assert len(tunnel.record.cause.message) < 400


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


async def agent_with(key: asyncssh.SSHKey, folder: Path) -> tuple[asyncio.subprocess.Process, Path]:
    """A real ssh-agent that holds the key, and its socket."""
    path = folder / "agent"
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
    told_by: str, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_path: Path
) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    path = encrypted_key(tmp_path / "encrypted", key)
    sshd.set_authorized([key.export_public_key().decode().strip()])
    agent, socket_path = await agent_with(key, short_path)
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


async def test_an_agent_that_is_gone_does_not_stop_a_plain_key(sshd: Sshd, tmp_path: Path) -> None:
    async with (
        service(hello) as port,
        near(config_for(sshd, tmp_path, port, agent=str(tmp_path / "gone"))) as tunnel,
    ):
        await tunnel.up()
