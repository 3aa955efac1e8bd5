"""Run inside a network namespace by test_network.py: a World with the real bell, which prints what it sees as JSON lines.

python -m tests.watch.watcher world PEER LOCAL    {"look": N} after each look, {"event": ..., ...} for each event told
python -m tests.watch.watcher flood LINES         {"lost": true} if messages of so many changes to the links were lost and rung for
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable

from structlog.testing import capture_logs

from comfytunnel.log import setup as setup_logging
from comfytunnel.tunnel.state import RouteChanged
from comfytunnel.watch import bell_linux
from comfytunnel.watch.world import World, WorldEvent

SMALLEST = 1  # bytes; the kernel makes the least that it allows of it
PROMPT = 10.0  # seconds


def say(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


class Tunnel:
    """A link from `local` to `peer`, which ends when it is orphaned, as the real one does."""

    def __init__(self, peer: str, local: str) -> None:
        self._peer = peer
        self._local: str | None = local

    def peer(self) -> str | None:
        return self._peer

    def local(self) -> str | None:
        return self._local

    def streaming(self) -> bool:
        return False

    def tell(self, event: WorldEvent) -> None:
        assert isinstance(event, RouteChanged), event
        if event.orphaned:
            self._local = None
        say(event="route", address=event.route.address, orphaned=event.orphaned)

    async def taken(self) -> None:
        pass


class Watched(World):
    looks = 0

    def look(self) -> None:
        super().look()
        self.looks += 1
        say(look=self.looks)


class NoLogind:
    async def run(self, on_sleep: Callable[[], Awaitable[None]], on_wake: Callable[[], None]) -> None:
        return


async def world(peer: str, local: str) -> None:
    watched = Watched(announcer=NoLogind())
    watched.add("t", Tunnel(peer, local))
    await watched.run()


async def flood(lines: int) -> None:
    rung = asyncio.Event()
    with capture_logs() as logged:
        task: asyncio.Task[None] = asyncio.create_task(bell_linux.bell(rung.set, buffer=SMALLEST))
        async with asyncio.timeout(PROMPT):
            await rung.wait()
            rung.clear()
            # The loop stands still meanwhile, so nobody reads.
            flaps = "link set wire down\nlink set wire up\n" * (lines // 2)
            subprocess.run(["ip", "-batch", "-"], input=flaps, text=True, check=True)  # noqa: ASYNC221
            await rung.wait()
        task.cancel()
        await asyncio.wait([task])
    say(lost=any("lost" in line["event"] for line in logged), ended=task.cancelled())


if __name__ == "__main__":
    setup_logging("debug", "console")
    kind, *rest = sys.argv[1:]
    asyncio.run(world(*rest) if kind == "world" else flood(int(rest[0])))
