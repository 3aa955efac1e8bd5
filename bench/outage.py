"""An outage of a minute with somebody waiting, ten calls a second: how long after its end does a call go through?

Live connections are reset, and until the end new ones are refused (`refused`) or taken into silence (`silent`). "Lost" counts the
calls that began after the end. What a call costs that began before it is the caller's own deadline, whatever the tunnel.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from bench.faults import Fault, relay, suffer
from bench.report import Report, options, run
from bench.rig import Rig, rig
from bench.tunnels import Tunnel

LIMIT = 180.0  # seconds
KINDS = {"refused": ("refuse", "reset"), "silent": ("swallow-new",)}


async def measure(report: Report, arguments: argparse.Namespace) -> None:
    rows = {
        kind: (
            report.row(f"{kind}, back within", "s", more_is_better=False),
            report.row(f"{kind}, calls lost after its end", "calls", more_is_better=False),
        )
        for kind in arguments.kinds
    }
    async with rig(relayed=True) as made:
        for name in report.turns(arguments):
            for kind, (back, lost) in rows.items():
                with report.trying(name, kind):
                    toll = await suffer(made, name, outage(made, kind, arguments.seconds), LIMIT)
                    back.add(name, toll.back)
                    lost.add(name, toll.lost)


def outage(made: Rig, kind: str, seconds: float) -> Fault:
    async def do(_: Tunnel) -> None:
        try:
            for line in KINDS[kind]:
                await relay(made, line)
            await asyncio.sleep(seconds)  # the length of the outage is the question
        finally:
            await relay(made, "heal")

    return do


if __name__ == "__main__":
    parser = options(__doc__, runs=3, limit=1500, peer="autossh", peer_runs=1)
    parser.add_argument(
        "--seconds", type=float, default=60, help="length of the outage (default %(default)s)"
    )
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=["refused"])
    chosen = parser.parse_args()
    sys.exit(run(f"After an outage of {chosen.seconds:g} s", chosen, measure))
