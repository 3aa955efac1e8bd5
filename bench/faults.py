"""One fault for one tunnel: start it anew, let it carry calls, do the damage, wait until calls go through again.

Each trial has a tunnel of its own, because a link that dies young is retried later than one that has lived.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from bench.rig import NotMeasured, Rig
from bench.steady import Steady, Toll
from bench.tunnels import TUNNELS, Tunnel

WARM_UP = 1.0  # seconds of calls before the fault

Fault = Callable[[Tunnel], Awaitable[None]]


def command(made: Rig, *lines: str) -> Fault:
    """The fault that these commands to the relay are."""

    async def do(_: Tunnel) -> None:
        for line in lines:
            await relay(made, line)

    return do


async def relay(made: Rig, line: str) -> dict[str, int]:
    """One command to the rig's relay; its counters."""
    if made.relay is None:
        raise NotMeasured("this rig has no relay")
    return await made.relay.command(line)


async def suffer(made: Rig, name: str, fault: Fault, limit: float) -> Toll:
    """What it costs the calls of one tunnel, ten a second. The clock starts when the fault has been done."""
    async with TUNNELS[name](made) as tunnel, Steady(tunnel.port) as calls:
        await asyncio.sleep(WARM_UP)  # the steady state is what the fault is done to
        await fault(tunnel)
        return await calls.toll(time.monotonic(), limit)
