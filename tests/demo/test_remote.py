"""The embedded SSH server: it forwards what it may, refuses and counts everything else, and goes wrong when told to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import asyncssh
import pytest

from comfytunnel.demo.comfyui import ComfyUI
from comfytunnel.demo.remote import Remote

NAME = ("localhost", 18188)
KEY = asyncssh.generate_private_key("ssh-ed25519")


@pytest.fixture
async def remote(comfyui: ComfyUI) -> AsyncIterator[Remote]:
    async with Remote(targets={NAME: comfyui.port}, authorized=[KEY]) as server:
        yield server


async def connect(remote: Remote, **options: Any) -> asyncssh.SSHClientConnection:
    known = asyncssh.import_known_hosts(remote.known_hosts_line + "\n")
    given: dict[str, Any] = {"username": "root", "client_keys": [KEY], "known_hosts": known, "config": None}
    return await asyncssh.connect("127.0.0.1", remote.port, **(given | {"agent_path": None} | options))


async def asks(conn: asyncssh.SSHClientConnection) -> bytes:
    """One HTTP answer's first line through a channel."""
    reader, writer = await conn.open_connection(*NAME, encoding=None)
    writer.write(b"GET /prompt HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    line: bytes = await reader.readline()
    writer.close()
    return line


async def test_forward_reaches_the_target_by_its_requested_name(remote: Remote) -> None:
    """A channel to localhost:18188 ends at the stand-in's real port."""
    async with await connect(remote) as conn:
        assert await asks(conn) == b"HTTP/1.1 200 OK\r\n"
    assert remote.forwards_asked == [NAME]
    assert remote.logins == remote.connections_made == 1
    assert remote.sessions_asked == 0


async def test_listener_of_the_client_works(remote: Remote, http: aiohttp.ClientSession) -> None:
    """An ordinary local forward carries HTTP."""
    async with await connect(remote) as conn:
        listener = await conn.forward_local_port("127.0.0.1", 0, *NAME)
        async with http.get(f"http://127.0.0.1:{listener.get_port()}/system_stats") as answer:
            assert (await answer.json())["system"]["comfyui_version"] == "0.33.0"


@pytest.mark.parametrize(
    "ask",
    [
        lambda conn: conn.run("id"),
        lambda conn: conn.create_process(term_type="xterm"),
        lambda conn: conn.start_sftp_client(),
        lambda conn: conn.forward_remote_port("127.0.0.1", 0, "127.0.0.1", 1),
        lambda conn: conn.open_unix_connection("/x"),
        lambda conn: conn.forward_remote_path("/x", "/y"),
    ],
    ids=["exec", "shell", "sftp", "reverse", "unix", "unix listener"],
)
async def test_everything_else_is_refused_and_counted(remote: Remote, ask: Any) -> None:
    """No sessions, no reverse forwards, no Unix sockets: each try is refused and counted."""
    async with await connect(remote) as conn:
        with pytest.raises((asyncssh.ChannelOpenError, asyncssh.ChannelListenError)):
            await ask(conn)
        assert await asks(conn)
    assert remote.sessions_asked == 1


async def test_codes_of_refused_forwards(remote: Remote) -> None:
    """A target that is not allowed is code 1, an allowed one where nothing listens code 2, as OpenSSH says it."""
    remote.targets["localhost", 5] = 5
    async with await connect(remote) as conn:
        with pytest.raises(asyncssh.ChannelOpenError) as refused:
            await conn.open_connection("localhost", 8188)
        assert refused.value.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED == 1
        with pytest.raises(asyncssh.ChannelOpenError) as absent:
            await conn.open_connection("localhost", 5)
        assert absent.value.code == asyncssh.OPEN_CONNECT_FAILED == 2
        remote.refuse_forwards = True
        with pytest.raises(asyncssh.ChannelOpenError) as forbidden:
            await conn.open_connection(*NAME)
        assert forbidden.value.code == 1


async def test_only_authorized_keys_enter(remote: Remote) -> None:
    """Another key is refused, and so is every key while refuse_auth is on; passwords are not offered."""
    with pytest.raises(asyncssh.PermissionDenied):
        await connect(remote, client_keys=[asyncssh.generate_private_key("ssh-ed25519")], password="x")
    remote.refuse_auth = True
    with pytest.raises(asyncssh.PermissionDenied):
        await connect(remote)
    assert remote.auth_failures == 2
    remote.refuse_auth = False
    async with await connect(remote):
        assert remote.logins == 1


async def test_banner_comes_before_authentication(remote: Remote) -> None:
    """The banner is heard even by somebody who is then refused."""
    heard: list[str] = []

    class Client(asyncssh.SSHClient):
        def auth_banner_received(self, msg: str, lang: str) -> None:
            heard.append(msg)

    remote.banner = "Welcome to vast.ai.\n"
    remote.refuse_auth = True
    with pytest.raises(asyncssh.PermissionDenied):
        await connect(remote, client_factory=Client)
    assert heard == ["Welcome to vast.ai.\n"]


async def test_cut_resets_and_new_connections_are_welcome(remote: Remote) -> None:
    """cut() ends every living connection at once; the next one works."""
    conn = await connect(remote)
    assert remote.connections == 1
    remote.cut()
    await asyncio.wait_for(conn.wait_closed(), 5)
    async with await connect(remote) as again:
        assert await asks(again)
    assert remote.connections_made == 2


async def test_frozen_connection_is_silent_until_unfrozen(remote: Remote) -> None:
    """freeze() lets a living connection hang without closing it, and spares new ones; unfreeze() loses nothing."""
    async with await connect(remote) as frozen:
        remote.freeze()
        asking = asyncio.create_task(asks(frozen))
        async with await connect(remote) as fresh:
            assert await asks(fresh)
            assert await asks(fresh)
        assert not asking.done()
        remote.unfreeze()
        assert await asyncio.wait_for(asking, 5) == b"HTTP/1.1 200 OK\r\n"


async def test_frozen_connection_can_be_cut(remote: Remote) -> None:
    """cut() reaches frozen connections, too."""
    conn = await connect(remote)
    remote.freeze()
    remote.cut()
    await asyncio.wait_for(conn.wait_closed(), 5)


async def test_refused_connections(remote: Remote) -> None:
    """refuse_connections resets new ones after the accept; living ones go on."""
    async with await connect(remote) as conn:
        remote.refuse_connections = True
        with pytest.raises((OSError, asyncssh.ConnectionLost)):
            await connect(remote)
        assert await asks(conn)
    remote.refuse_connections = False
    async with await connect(remote) as again:
        assert await asks(again)


async def test_unbound_port(remote: Remote) -> None:
    """unbind() means "connection refused" for new ones, rebind() listens on the same port again."""
    port = remote.port
    async with await connect(remote) as conn:
        await remote.unbind()
        with pytest.raises(ConnectionRefusedError):
            await connect(remote)
        assert await asks(conn)
    await remote.rebind()
    assert remote.port == port
    async with await connect(remote) as again:
        assert await asks(again)


async def test_changed_host_key(remote: Remote) -> None:
    """After change_host_key() the old line of known_hosts no longer fits, and the new one does."""
    old = asyncssh.import_known_hosts(remote.known_hosts_line + "\n")
    before = remote.host_key
    assert remote.change_host_key() is remote.host_key is not before
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        await connect(remote, known_hosts=old)
    async with await connect(remote) as conn:
        assert await asks(conn)


async def test_ignored_forward_is_never_answered(remote: Remote) -> None:
    """ignore_forwards leaves a channel open request without an answer; the connection lives."""
    async with await connect(remote) as conn:
        remote.ignore_forwards = True
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asks(conn), 0.2)
        remote.ignore_forwards = False
        assert await asks(conn)
    assert remote.forwards_asked == [NAME, NAME]


async def test_stop_and_start_on_the_same_port(remote: Remote) -> None:
    """stop() ends all connections; start() on the same port brings the same host key back."""
    conn = await connect(remote)
    port = remote.port
    await remote.stop()
    await asyncio.wait_for(conn.wait_closed(), 5)
    assert remote.connections == 0
    assert await remote.start(port=port) == port
    async with await connect(remote) as again:
        assert await asks(again)


async def test_a_target_that_answers_after_the_connection_has_gone_is_left(remote: Remote) -> None:
    """A forward whose connect completes too late keeps no socket: the target sees the end of it."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0), backlog=0) as target, socket.socket() as filler:
        target.setblocking(False)
        filler.connect(target.getsockname())  # the backlog is full: the next connect waits for its second SYN
        remote.targets[NAME] = target.getsockname()[1]
        conn = await connect(remote)
        asking = asyncio.ensure_future(conn.open_connection(*NAME, encoding=None))
        async with asyncio.timeout(10):
            while not remote.forwards_asked:  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0)
            remote.cut()
            await conn.wait_closed()
            with pytest.raises(asyncssh.ChannelOpenError):
                await asking
            (await loop.sock_accept(target))[0].close()
            late, _ = await loop.sock_accept(target)
            with late:
                late.setblocking(False)
                assert await loop.sock_recv(late, 1) == b""
