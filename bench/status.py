"""How long does `comfytunnel status` take, beside a Python that does nothing?

Both are processes of their own, from the start to the exit; they take turns, and each run's difference is that of two neighbours. The daemon has
its link. Promised: at most 150 ms more.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time

from bench.report import OURS, Report, options, run
from bench.rig import NotMeasured, rig
from bench.tunnels import TUNNELS

WARM_UP = 2  # runs that are not counted: the files' first reading, and bytecode
EMPTY = "python -c pass"
COMMANDS = {EMPTY: ["-c", "pass"], OURS: ["-m", "comfytunnel", "status"]}


async def seconds(name: str, environment: dict[str, str]) -> float:
    """Of one process. NotMeasured: it did not end well."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *COMMANDS[name],
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    took = time.perf_counter() - began
    if process.returncode:
        raise NotMeasured(f"exit status {process.returncode}: {said.decode(errors='replace').strip()}")
    return took


async def measure(report: Report, arguments: argparse.Namespace) -> None:
    whole = report.row("status", "ms a run", more_is_better=False, paired=True)
    added = report.row("status, added", "ms", more_is_better=False)
    async with rig() as made, TUNNELS[OURS](made) as tunnel:
        if tunnel.home is None:
            raise NotMeasured("the daemon has no folder")
        environment = os.environ | {
            "COMFYTUNNEL_SOCKET": str(tunnel.home / "control.sock"),
            "COMFYTUNNEL_CONFIG": str(tunnel.home / "config.toml"),
        }
        for number in range(WARM_UP + arguments.runs):
            took: dict[str, float] = {}
            for name in report.able():
                with report.trying(name, f"run {number + 1}"):
                    took[name] = await seconds(name, environment) * 1000
            if number < WARM_UP:
                continue
            for name, value in took.items():
                whole.add(name, value)
            if len(took) == len(COMMANDS):
                added.add(OURS, took[OURS] - took[EMPTY])


if __name__ == "__main__":
    parser = options(__doc__, runs=40, limit=120, peer=EMPTY)
    sys.exit(run("comfytunnel status", parser.parse_args(), measure))
