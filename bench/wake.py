"""Late wake: the tunnel's processes stand still (SIGSTOP), the link dies in silence meanwhile; how long from SIGCONT to a served call?

`unannounced`: only the clocks tell of it. `announced`: a logind on a bus of our own says so before and after, as the real one does
(comfytunnel alone; needs dbus-daemon). The machine's clocks run on, so what a real suspend does to them is not in it. Ten calls a
second begin with the wake.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from tests.watch.logind import FakeLogind, bus_at

from bench.calls import handshake
from bench.faults import WARM_UP, relay
from bench.report import OURS, Report, options, run
from bench.rig import NotMeasured, Rig, rig
from bench.steady import Steady, Toll
from bench.tunnels import TUNNELS, comfytunnel

LIMIT = 120.0  # seconds
LOCK_LIMIT = 5.0  # seconds for the daemon to let go of its delay lock; logind waits as long


async def measure(report: Report, arguments: argparse.Namespace) -> None:
    kinds = ("unannounced", "announced") if shutil.which("dbus-daemon") else ("unannounced",)
    rows = {
        kind: (
            report.row(f"{kind}, back within", "s", more_is_better=False),
            report.row(f"{kind}, calls lost", "calls", more_is_better=False),
        )
        for kind in kinds
    }
    bare = report.row("handshake alone", "s", more_is_better=False)
    async with rig(relayed=True) as made:
        for name in report.turns(arguments):
            for kind, (back, lost) in rows.items():
                if kind == "announced" and name != OURS:
                    continue
                with report.trying(name, kind):
                    toll = await sleep(made, name, arguments.seconds, announced=kind == "announced")
                    back.add(name, toll.back)
                    lost.add(name, toll.lost)
            if name == OURS:
                bare.add(name, await handshake(made))


async def sleep(made: Rig, name: str, seconds: float, *, announced: bool) -> Toll:
    async with AsyncExitStack() as stack:
        logind = None
        if announced:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bus-"))
            address = await stack.enter_async_context(bus_at(Path(folder) / "bus"))
            logind = await stack.enter_async_context(FakeLogind(address))
            tunnel = await stack.enter_async_context(comfytunnel(made, DBUS_SYSTEM_BUS_ADDRESS=address))
            async with asyncio.timeout(LOCK_LIMIT):
                await logind.asked.get()
        else:
            tunnel = await stack.enter_async_context(TUNNELS[name](made))
        await asyncio.sleep(WARM_UP)  # the steady state is what falls asleep
        if logind is not None:
            await logind.prepare_for_sleep(True)
            await _let_go(logind)
        tunnel.signal(signal.SIGSTOP)
        try:
            await relay(made, "swallow")
            await asyncio.sleep(seconds)  # the length of the sleep is the question
        finally:
            tunnel.signal(signal.SIGCONT)
        woke = time.monotonic()
        if logind is not None:
            await logind.prepare_for_sleep(False)
        async with Steady(tunnel.port) as calls:
            return await calls.toll(woke, LIMIT)


async def _let_go(logind: FakeLogind) -> None:
    end = time.monotonic() + LOCK_LIMIT
    while any(logind.held):
        if time.monotonic() > end:
            raise NotMeasured("the daemon keeps its delay lock")
        await asyncio.sleep(0.01)  # the fake logind keeps a list and rings for nobody


if __name__ == "__main__":
    parser = options(__doc__, runs=3, limit=900, peer="autossh", peer_runs=1)
    parser.add_argument("--seconds", type=float, default=30, help="length of the sleep (default %(default)s)")
    chosen = parser.parse_args()
    sys.exit(run(f"Wake after {chosen.seconds:g} s, the old link dead", chosen, measure))
