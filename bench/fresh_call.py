"""How long does a fresh HTTP call take: a new TCP connection and one small GET, at 0, 1 and 100 ms round trip?

Both tunnels are up and warm; the calls alternate. Plain ssh needs two round trips (open a channel, then ask). A millisecond shows
whether anything waits for a delayed acknowledgement of the relay (decision 0012).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys

from bench.calls import call
from bench.report import Report, options, run
from bench.rig import rig
from bench.tunnels import TUNNELS

WARM_UP = 3  # calls that are not counted


async def measure(report: Report, arguments: argparse.Namespace) -> None:
    for path, rtt in (("loopback", 0.0), ("1 ms", 0.001), (f"{arguments.rtt:g} ms", arguments.rtt / 1000)):
        row = report.row(path, "ms a call", more_is_better=False)
        async with rig(rtt=rtt) as made, contextlib.AsyncExitStack() as stack:
            ports: dict[str, int] = {}
            for name in report.able():
                with report.trying(name, path):
                    ports[name] = (await stack.enter_async_context(TUNNELS[name](made))).port
            for number in range(WARM_UP + arguments.runs):
                for name in report.able():
                    with report.trying(name, f"{path}, call {number + 1}"):
                        seconds = await asyncio.to_thread(call, ports[name])
                        if number >= WARM_UP:
                            row.add(name, seconds * 1000)


if __name__ == "__main__":
    parser = options(__doc__, runs=30, limit=300)
    parser.add_argument(
        "--rtt", type=float, default=100, help="milliseconds of the slow path (default %(default)s)"
    )
    chosen = parser.parse_args()
    sys.exit(run("Fresh HTTP call", chosen, measure))
