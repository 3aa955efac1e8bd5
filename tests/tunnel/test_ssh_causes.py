"""Links that do not come up: what is refused, what is not there, which keys cannot be used, and what is said about it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import struct
import sys
import threading
from pathlib import Path

import asyncssh
import pytest

from comfytunnel.demo.remote import Remote
from comfytunnel.tunnel import dial, ssh
from comfytunnel.tunnel.state import Code, Phase, Reconnect, Verdict
from tests.fakes.relay import Relay
from tests.fakes.sshd import Sshd, free_port
from tests.tunnel.callers import cause_of, connected
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


async def test_a_line_that_dies_in_the_middle_of_a_login_is_left(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The soak's finding: a tunnel that was connecting for the 90 s that an agent may take to ask a person."""
    monkeypatch.setattr(ssh, "LOGIN_SILENCE", 0.6)
    async with (
        Relay(sshd.port, delay=0.1) as relay,
        near(config_for(sshd, tmp_path, 1, port=relay.port)) as tunnel,
    ):
        await becomes((tmp_path / "known_hosts").exists, "the host key has been judged")
        relay.swallow()
        await tunnel.up(after=1)
        assert tunnel.record.link == 2


async def test_a_host_that_lets_us_in_and_opens_no_channel_times_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "LOGIN_SILENCE", 0.3)
    async with remote_far(tmp_path) as far:
        assert isinstance(far.server, Remote)
        far.server.ignore_forwards = True
        async with near(config_for(far, tmp_path, 1)) as tunnel:
            assert await cause_of(tunnel) is Code.CONNECT_TIMEOUT


@pytest.mark.skipif(sys.platform != "linux", reason="how a full backlog drops a SYN is Linux's own")
async def test_a_host_that_does_not_answer_the_kernel_times_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a firewall that drops: the kernel ignores the SYN of whoever comes to a full backlog."""
    monkeypatch.setattr(dial, "CONNECT_DEADLINE", 0.3)
    async with sshd_far(tmp_path) as far:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as hole, contextlib.ExitStack() as callers:
            callers.enter_context(socket.create_connection(hole.getsockname()))  # who fills it
            settings = config_for(far, tmp_path, 1, port=hole.getsockname()[1])
            async with near(settings) as tunnel:
                assert await cause_of(tunnel) is Code.CONNECT_TIMEOUT
                await becomes(lambda: tunnel.record.link >= 2, "it is tried again")


async def test_an_sshd_that_is_too_busy_is_retried_soon(tmp_path: Path) -> None:
    """OpenSSH drops who comes beyond MaxStartups before its own greeting; the relay of a provider does the same."""
    async with (
        sshd_far(tmp_path, extra="MaxStartups 1:100:1") as far,
        connected(far.port) as (reader, _),
    ):
        await reader.readline()  # one who does not log in
        async with near(config_for(far, tmp_path, 1)) as tunnel:
            assert await cause_of(tunnel) is Code.CONNECT_RESET
            assert tunnel.record.cause is not None
            assert tunnel.record.cause.verdict is Verdict.RETRY
            assert "MaxStartups" in tunnel.record.cause.message


async def test_what_a_host_says_before_it_resets_the_connection_is_shown(far: Far, tmp_path: Path) -> None:
    """A host that closes with our first line unread sends its own line, and a reset at its heels."""

    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"Exceeded MaxStartups\r\n")
        await reader.readline()
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with service(drop) as port, near(config_for(far, tmp_path, 1, port=port)) as tunnel:
        assert await cause_of(tunnel) is Code.CONNECT_RESET
        assert tunnel.record.cause is not None
        assert "it says: Exceeded MaxStartups" in tunnel.record.cause.message


UNCONNECTED = """
import asyncio, json, sys
from pathlib import Path
from comfytunnel.config import TunnelConfig
from comfytunnel.tunnel.dial import Resolver
from comfytunnel.tunnel.link import LinkError
from comfytunnel.tunnel.ssh import SshOpener

async def main(host):
    config = TunnelConfig(name="t", host=host, port=22, ssh_config=None, known_hosts=Path("/nonexistent"))
    try:
        async with SshOpener(config, Resolver())():
            pass
    except LinkError as error:
        print(error.cause.code, error.cause.verdict, error.cause.hint)

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("host", "code"),
    [("192.0.2.1", Code.NO_ROUTE), ("2001:db8::1", Code.NO_ROUTE), ("ssh2.example", Code.DNS_FAILED)],
)
async def test_without_a_network_the_kernel_and_the_resolver_are_understood(host: str, code: Code) -> None:
    """In a network namespace of its own: nothing leaves it, not even loopback is up."""
    unshare = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
    if shutil.which("unshare") is None or await ended(*unshare, "true"):
        if os.environ.get("CI") == "true":
            pytest.fail("no network namespace to be had: util-linux and the right to make one are needed")
        pytest.skip("no network namespace to be had here")
    alone = await asyncio.create_subprocess_exec(
        *unshare, sys.executable, "-c", UNCONNECTED, host, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await alone.communicate()
    assert out.decode().startswith(f"{code} {Verdict.RETRY} ")
    assert out.decode().strip().endswith((".", "?"))


async def ended(*words: str) -> int | None:
    """The exit code of a command."""
    process = await asyncio.create_subprocess_exec(*words, stderr=asyncio.subprocess.DEVNULL)
    return await process.wait()


async def test_a_relay_that_resets_before_the_handshake_is_retried(tmp_path: Path) -> None:
    async with sshd_far(tmp_path) as far, Relay(far.port) as relay, service(hello) as port:
        await relay.refuse(reset=True)
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
        assert await cause_of(tunnel) is Code.PROTOCOL_ERROR
        assert tunnel.record.cause is not None
        assert "HTTP/1.1 400" in tunnel.record.cause.message


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
        assert await cause_of(tunnel) is Code.PROTOCOL_ERROR
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
