"""Runs the benchmarks one after the other: `python -m bench`, or `python -m bench download idle`.

Each is a process of its own; options are given to a single benchmark (`python -m bench.download --help`).
The exit status is that of the worst: 0, or 1 if something could not be measured.
"""

from __future__ import annotations

import subprocess
import sys

QUESTIONS = (
    "download",
    "fresh_call",
    "status",
    "reset",
    "silence",
    "outage",
    "roam",
    "wake",
    "idle",
    "queue10k",
    "jobs",
)


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in QUESTIONS]
    if unknown:
        print(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(QUESTIONS)}", file=sys.stderr)
        return 2
    worst = 0
    for name in names or QUESTIONS:
        worst = max(worst, subprocess.run([sys.executable, "-m", f"bench.{name}"], check=False).returncode)
        print(flush=True)
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
