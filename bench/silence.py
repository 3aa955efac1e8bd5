"""The link dies without a word, no FIN and no RST: when is it back, in use (ten calls a second) and idle?

New connections work at once. Idle means that nobody calls: the clock stops when a call goes through the link that the tunnel has
made by itself. ssh's own answer is ServerAliveInterval=15 with ServerAliveCountMax=3: a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from bench.calls import call
from bench.faults import WARM_UP, command, relay, suffer
from bench.report import Report, options, run
from bench.rig import NotMeasured, Rig, rig
from bench.tunnels import TUNNELS

LIMIT = 120.0  # seconds
LOOK = 0.02  # seconds between two looks at the relay's counters


async def measure(report: Report, arguments: argparse.Namespace) -> None:
    used = report.row("in use, back within", "s", more_is_better=False)
    lost = report.row("in use, calls lost", "calls", more_is_better=False)
    idle = report.row("idle, back within", "s", more_is_better=False)
    async with rig(relayed=True) as made:
        for name in report.turns(arguments):
            with report.trying(name, "silence"):
                if arguments.which != "idle":
                    toll = await suffer(made, name, command(made, "swallow"), LIMIT)
                    used.add(name, toll.back)
                    lost.add(name, toll.lost)
                if arguments.which != "used":
                    idle.add(name, await alone(made, name))


async def alone(made: Rig, name: str) -> float:
    """Seconds until an idle tunnel has noticed by itself and a call goes through."""
    async with TUNNELS[name](made) as tunnel:
        await asyncio.sleep(WARM_UP)  # idle means that the first call is over
        before = await relay(made, "swallow")
        fault = time.monotonic()
        while (await relay(made, "stats"))["connections"] == before["connections"]:
            if time.monotonic() > fault + LIMIT:
                raise NotMeasured(f"it does not connect again within {LIMIT:.0f} s")
            await asyncio.sleep(LOOK)  # the relay answers questions and rings for nobody
        while True:
            try:
                await asyncio.to_thread(call, tunnel.port)
            except (OSError, NotMeasured):
                if time.monotonic() > fault + LIMIT:
                    raise
                await asyncio.sleep(LOOK)  # a call that failed at once would otherwise spin
            else:
                return time.monotonic() - fault


if __name__ == "__main__":
    parser = options(__doc__, runs=3, limit=900, peer="autossh", peer_runs=1)
    parser.add_argument("--which", choices=["used", "idle", "both"], default="both")
    sys.exit(run("Link silently dead", parser.parse_args(), measure))
