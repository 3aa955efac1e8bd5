"""What the service manager sees of the whole: one live line, and the sign that the loop turns.

The law: the sign is given by this loop after every tunnel's driver has had its turn in it, so whoever stands still is missed by the
manager, who then ends the process and starts another. Nothing slow is asked for it: a slow disk is no reason to be restarted.
"""

from __future__ import annotations

import asyncio

from comfytunnel import wire
from comfytunnel.feed import Feed
from comfytunnel.jobs.model import Status
from comfytunnel.jobs.store import Store
from comfytunnel.notify import Notifier
from comfytunnel.roster import Roster

BEATS = 3  # signs within the manager's time: one that comes late is not yet missed
LINE_PAUSE = 0.5  # seconds between two lines; a burst of changes is one


async def beat(notifier: Notifier, tunnels: Roster) -> None:
    """Give the sign for ever; returns at once if the manager does not look."""
    while notifier.watchdog is not None:
        await tunnels.beat()
        notifier.alive()
        await asyncio.sleep(notifier.watchdog / BEATS)


async def say_status(notifier: Notifier, tunnels: Roster, store: Store) -> None:
    """Keep the line true for ever."""
    poked = asyncio.Event()
    poked.set()

    async def follow(feed: Feed[int]) -> None:
        async for _ in feed.changes():
            poked.set()

    async with asyncio.TaskGroup() as group:
        for feed in (tunnels.changed, store.revision):
            group.create_task(follow(feed), name="status/feed")
        while True:
            await poked.wait()
            poked.clear()
            counts = await store.counts()
            notifier.status(line(tunnels, counts[Status.RUNNING]))
            await asyncio.sleep(LINE_PAUSE)


def line(tunnels: Roster, running: int) -> str:
    """Return "default up, ComfyUI 0.9.2 serving; 2 jobs running", or the daemon's own trouble."""
    cause = tunnels.cause()
    if cause is not None:
        return cause.message
    parts = [_words(name, tunnels.status(name)) for name in tunnels.names()] or ["no tunnel is configured"]
    if running:
        parts.append(f"{running} job{'' if running == 1 else 's'} running")
    return "; ".join(parts)


def _words(name: str, tunnel: wire.Tunnel) -> str:
    why = f" ({tunnel.cause.code})" if tunnel.cause else ""
    if tunnel.phase != "up":
        return f"{name} {tunnel.phase}{why}"
    version = f" {tunnel.comfyui.version}" if tunnel.comfyui.version else ""
    return f"{name} up{why}, ComfyUI{version} {tunnel.comfyui.state}"
