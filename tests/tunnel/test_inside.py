"""That asyncssh still has inside what inside.py takes from it, and that it still means the same: against both far ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncssh

from comfytunnel.tunnel.inside import answer, grant, take_window
from tests.tunnel.callers import inside
from tests.tunnel.conftest import DEADLINE, Far, becomes, config_for, idle, near, service

WINDOW = 65536  # bytes


class Count(asyncssh.SSHTCPSession[bytes]):
    received = 0

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        take_window(chan)

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        self.received += len(data)


async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends for ever."""
    while True:
        writer.write(bytes(1 << 16))
        await writer.drain()


async def test_the_far_side_sends_what_was_granted_and_not_a_byte_more(far: Far, tmp_path: Path) -> None:
    async with service(pour) as port, near(config_for(far, tmp_path, port, spares=0)) as tunnel:
        conn = inside(await tunnel.up())._conn
        session = Count()
        chan, _ = await conn.create_connection(lambda: session, "127.0.0.1", port, window=WINDOW)
        expected = WINDOW
        for more in (0, 100_000, 1, 3 * WINDOW):
            grant(chan, more) if more else None
            expected += more
            await becomes(lambda: session.received >= expected, "what is granted comes")  # noqa: B023 - awaited here
            await answer(conn)  # whatever was on its way has come before it
            assert session.received == expected
        chan.abort()
        grant(chan, 1)  # too late, and no fault
        await chan.wait_closed()
        grant(chan, 1)


async def test_a_question_is_answered_and_ends_with_the_connection(far: Far, tmp_path: Path) -> None:
    async with service(idle) as port, near(config_for(far, tmp_path, port)) as tunnel:
        conn = inside(await tunnel.up())._conn
        async with asyncio.timeout(DEADLINE):
            for _ in range(3):
                await answer(conn)
            asked = [asyncio.create_task(answer(conn)) for _ in range(3)]
            asked.append(asyncio.create_task(tunnel.up(after=1)))  # type: ignore[arg-type]  # whatever it returns
            await far.cut()
            await asyncio.gather(*asked)
            await answer(conn)
