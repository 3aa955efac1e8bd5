"""What callers do to a door, and what must be left when they are gone."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from comfytunnel.tunnel.machine import Policy
from comfytunnel.tunnel.ssh import SshLink
from comfytunnel.tunnel.state import Code
from comfytunnel.tunnel.window import BUDGET, LEAST
from tests.tunnel.conftest import (
    DEADLINE,
    Near,
    becomes,
)

GET = b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n"
MEGABYTE = 1 << 20
HASTY = Policy(keepalive=0.2)  # asks after a fifth of a second of silence


def inside(link: object) -> SshLink:
    assert isinstance(link, SshLink)
    return link


async def cause_of(tunnel: Near) -> Code:
    """The cause of the first failure."""
    view = await tunnel.until(lambda view: view.tunnel.cause is not None, deadline=15)
    assert view.tunnel.cause is not None
    return view.tunnel.cause.code


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def echoed(tunnel: Near, data: bytes) -> bytes:
    """A call to echo() that does not end its side: who is held and does so has left."""
    async with connected(tunnel.port) as (reader, writer), asyncio.timeout(DEADLINE):
        writer.write(data)
        return await reader.readexactly(len(data))


def reset(writer: asyncio.StreamWriter) -> None:
    """Leave as a killed program does: with RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def all_gone(tunnel: Near, *, budget: int = BUDGET) -> None:
    """No caller is left, no channel but the spares, no task, and the windows' budget is whole."""
    await becomes(lambda: tunnel.door.open_callers == 0, "no caller is left")
    view = tunnel.driver.view.value
    assert view.link is not None
    channels = inside(view.link)._channels

    def states() -> str:
        chans = channels._conn._channels.values()
        told = [
            (c._send_state, c._recv_state, c._recv_paused, len(c._recv_buf), c._send_buf_len) for c in chans
        ]
        return f"only spares are left; {len(channels._spares)} spares, channels: {told}"

    await becomes(lambda: len(channels._conn._channels) == len(channels._spares), states)
    await becomes(  # the next spare may be on its way
        lambda: channels.flow.free == budget - LEAST * len(channels._spares), "the windows' budget is whole"
    )
    await becomes(
        lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "t/caller"],
        "no task of a caller is left",
    )
