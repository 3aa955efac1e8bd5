"""Jump hosts on the way to a target, for a link and for a look: each is logged in to with what ssh would use for it, and left at the end.

asyncssh would go through them by itself, but leaves them open when it is cancelled on the way. The one place that ends a connection, too.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import asyncssh

from comfytunnel.tunnel.dial import reset_on_close
from comfytunnel.tunnel.target import Target

JUMP_DEADLINE = 30.0  # seconds for one jump host, from TCP to logged in
_CLOSE_DEADLINE = 1.0  # seconds for asyncssh to take itself apart after an abort, which sends nothing


async def way_through(target: Target, jumps: AsyncExitStack) -> dict[str, Any]:
    """The target's way, with a live connection to the last of its jump hosts in the place of their names; `jumps` ends them all.
    Raises what asyncssh has against one of them; TimeoutError."""
    hops = target.options.tunnel
    if not isinstance(hops, str) or not hops:
        return target.way
    return {**target.way, "tunnel": await _jump(hops, target.way["config"], jumps)}


async def _jump(
    hops: str, ssh_config: list[str] | None, jumps: AsyncExitStack
) -> asyncssh.SSHClientConnection | None:
    """The connection to the last of the jump hosts "[user@]host[:port],..."."""
    jump: asyncssh.SSHClientConnection | None = None
    for hop in hops.split(","):
        user, _, place = hop.rpartition("@")
        host, colon, port = place.rpartition(":")
        async with asyncio.timeout(JUMP_DEADLINE):
            jump = await asyncssh.connect(
                (host if colon else port).strip("[]"),
                int(port) if colon else (),
                username=user or (),
                tunnel=jump or (),
                config=ssh_config,
                agent_forwarding=False,
                compression_algs=["none"],
            )
        jumps.push_async_callback(end, jump)
    return jump


async def end(conn: asyncssh.SSHClientConnection) -> None:
    """Abort the connection; unsent bytes die with it."""
    sock = conn.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        reset_on_close(sock)
    conn.abort()
    try:
        async with asyncio.timeout(_CLOSE_DEADLINE):
            await conn.wait_closed()
    except TimeoutError:
        return  # the socket is closed; what is left is memory that goes with the object
