"""The door: it holds whoever comes too early, never lies about what was delivered, and ends in time."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import select
from pathlib import Path

import pytest

from comfytunnel.tunnel import caller, door
from comfytunnel.tunnel.state import Phase, Reconnect, Want
from tests.fakes.sshd import Sshd
from tests.tunnel.callers import MEGABYTE, all_gone, connected, echoed, reset
from tests.tunnel.conftest import (
    Far,
    becomes,
    config_for,
    echo,
    hello,
    near,
    service,
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
            await tunnel.call(
                b"POST /prompt HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n"
                + bytes(200_000)
            )
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
