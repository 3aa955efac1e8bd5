"""The bell of last resort: rings with every tick. Used where the platform has no bell, or after its bell has failed."""

from __future__ import annotations

from collections.abc import Callable

from comfytunnel.watch.tick import TICK, tick


async def bell(ring: Callable[[], None], *, interval: float = TICK) -> None:
    """Ring now and every `interval` seconds until cancelled."""
    ring()
    await tick(ring, interval)
