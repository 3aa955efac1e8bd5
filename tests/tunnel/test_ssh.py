"""The link against servers that speak SSH: how it comes up, how it is found dead, and how it is replaced."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncssh
import pytest

from comfytunnel.config import Tcp, Unix
from comfytunnel.demo.remote import Remote
from comfytunnel.tunnel.dial import Resolver
from comfytunnel.tunnel.ssh import SshOpener
from comfytunnel.tunnel.state import Code, Phase, Reconnect, Want, Woke
from comfytunnel.tunnel.witness import Witness
from tests.fakes.relay import Relay
from tests.fakes.sshd import Sshd, free_port
from tests.tunnel.callers import HASTY, inside
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


async def test_the_end_of_a_quiet_link_is_its_last_sign_of_life(far: Far, tmp_path: Path) -> None:
    """A reset is known at once, however long no byte has come before it."""
    async with service(idle) as port, near(config_for(far, tmp_path, port)) as tunnel:
        link = await tunnel.up()
        await link.silence(0.3, 0.3)
        before = link.heard
        await far.cut()
        async with asyncio.timeout(5):
            await link.ended()
        assert link.heard >= before + 0.3


async def test_what_only_our_kernel_supposes_is_no_sign_of_life() -> None:
    witness = Witness()
    witness.client().connection_lost(TimeoutError(110, "Connection timed out"))
    assert witness.ended.is_set()
    assert witness.last_received == 0.0


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


async def test_a_remote_unix_socket_is_reached(sshd: Sshd, tmp_path: Path, short_path: Path) -> None:
    path = short_path / "s"
    async with service(echo, path), near(config_for(sshd, tmp_path, 1, remote=Unix(path))) as tunnel:
        await tunnel.up()
        assert await tunnel.call(b"over", end=True) == b"over"


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


async def test_two_who_ask_do_not_answer_each_other(sshd: Sshd, tmp_path: Path) -> None:
    """The driver and the doctor: the one who gives up first is no sign of life for the other."""
    opener = SshOpener(config_for(sshd, tmp_path, 1, remote=Tcp("127.0.0.1", free_port())), Resolver())
    async with opener() as link:
        sshd.freeze()
        asked = await asyncio.gather(link.ask(0.1), link.ask(0.5), return_exceptions=True)
        assert [type(answer) for answer in asked] == [TimeoutError, TimeoutError]
        sshd.thaw()
        assert await asyncio.gather(link.ask(5), link.ask(5))


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
    # On a busy machine a process of sshd's may not even have begun when its caller has long been gone.
    await becomes(lambda: not sshd.sessions, "no connection is left", deadline=2 * DEADLINE)
