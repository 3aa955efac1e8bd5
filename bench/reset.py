"""A live connection is reset, as by a relay that restarts, with ten calls a second: when is it back, and how many are lost?"""

from __future__ import annotations

import argparse
import sys

from bench.calls import handshake
from bench.faults import command, suffer
from bench.report import OURS, Report, options, run
from bench.rig import rig

LIMIT = 30.0  # seconds


async def measure(report: Report, arguments: argparse.Namespace) -> None:
    back = report.row("back within", "s", more_is_better=False)
    lost = report.row("new calls lost", "calls", more_is_better=False)
    bare = report.row("handshake alone", "s", more_is_better=False)
    async with rig(rtt=arguments.rtt / 1000, relayed=True) as made:
        for name in report.turns(arguments):
            with report.trying(name, "reset"):
                toll = await suffer(made, name, command(made, "reset"), LIMIT)
                back.add(name, toll.back)
                lost.add(name, toll.lost)
                if name == OURS:
                    bare.add(name, await handshake(made))


if __name__ == "__main__":
    parser = options(__doc__, runs=10, limit=300, peer="autossh")
    parser.add_argument("--rtt", type=float, default=0, help="milliseconds of the path (default %(default)s)")
    chosen = parser.parse_args()
    sys.exit(run(f"Live connection reset, {chosen.rtt:g} ms round trip", chosen, measure))
