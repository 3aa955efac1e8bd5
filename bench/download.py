"""How fast is a download of 200 MB through the tunnel, on loopback and at 100 ms round trip?

Each run starts the tunnel anew, makes one small call, then downloads twice: the first file meets a fresh link,
the second a warm one. The tunnels take turns, so that a busy machine is unfair to both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from bench.calls import download
from bench.report import Report, options, run
from bench.rig import rig
from bench.tunnels import TUNNELS

MB = 1_000_000  # bytes


async def measure(report: Report, arguments: argparse.Namespace) -> None:
    for path, rtt in (("loopback", 0.0), (f"{arguments.rtt:g} ms", arguments.rtt / 1000)):
        first = report.row(f"{path}, first file", "MB/s", more_is_better=True)
        warm = report.row(f"{path}, second file", "MB/s", more_is_better=True)
        async with rig(rtt=rtt, size=int(arguments.size * MB)) as made:
            for name in report.turns(arguments):
                with report.trying(name, path):
                    async with TUNNELS[name](made) as tunnel:
                        for row in (first, warm):
                            seconds = await asyncio.to_thread(download, tunnel.port, made)
                            row.add(name, made.size / MB / seconds)


if __name__ == "__main__":
    parser = options(__doc__, runs=5, limit=1200)
    parser.add_argument("--size", type=float, default=200, help="megabytes (default %(default)s)")
    parser.add_argument(
        "--rtt", type=float, default=100, help="milliseconds of the slow path (default %(default)s)"
    )
    chosen = parser.parse_args()
    sys.exit(run(f"Download of {chosen.size:g} MB", chosen, measure))
