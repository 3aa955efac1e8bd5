"""What does an idle tunnel cost: memory, and CPU over 30 s?

Both tunnels are up, have carried one call and are then left alone side by side. Linux only (/proc): memory from
smaps_rollup, CPU from schedstat, which counts nanoseconds where utime and stime count ticks of 10 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from pathlib import Path

from bench.report import Report, options, run
from bench.rig import NotMeasured, rig
from bench.tunnels import TUNNELS

SETTLE = 5.0  # seconds between the first call and the first look: start-up is not idleness


def memory(pid: int) -> dict[str, float]:
    """RSS and PSS in MB (10^6 bytes)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    fields = {line.split()[0].rstrip(":"): int(line.split()[1]) for line in lines}
    return {name.upper(): fields[name] * 1024 / 1e6 for name in ("Rss", "Pss")}


def cpu(pid: int) -> float:
    """Seconds of CPU that the process's present threads have used."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


async def measure(report: Report, arguments: argparse.Namespace) -> None:
    if not Path("/proc/self/smaps_rollup").exists() or not Path("/proc/self/schedstat").exists():
        raise NotMeasured("needs Linux's /proc with smaps_rollup and schedstat")
    sizes = {name: report.row(name, "MB", more_is_better=False) for name in ("RSS", "PSS")}
    load = report.row("CPU", "% of a core", more_is_better=False)
    async with rig() as made, contextlib.AsyncExitStack() as stack:
        pids: dict[str, int] = {}
        for name in report.tunnels:
            with report.trying(name, "start"):
                pids[name] = (await stack.enter_async_context(TUNNELS[name](made))).pid
        await asyncio.sleep(SETTLE)
        try:
            before = {name: (cpu(pid), time.monotonic()) for name, pid in pids.items()}
            for _ in range(arguments.runs):
                await asyncio.sleep(arguments.seconds / arguments.runs)
                for name, pid in pids.items():
                    used, now = cpu(pid), time.monotonic()
                    load.add(name, (used - before[name][0]) / (now - before[name][1]) * 100)
                    before[name] = (used, now)
                    for kind, value in memory(pid).items():
                        sizes[kind].add(name, value)
        except FileNotFoundError as error:
            raise NotMeasured(f"a tunnel ended while it was idle: {error}") from error


if __name__ == "__main__":
    parser = options(__doc__, runs=5, limit=300)
    parser.add_argument("--seconds", type=float, default=30, help="length of the look (default %(default)s)")
    chosen = parser.parse_args()
    sys.exit(run(f"Idle for {chosen.seconds:g} s", chosen, measure))
