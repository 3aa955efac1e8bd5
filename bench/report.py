"""Samples in, one small table (or JSON) and an exit status out, the same for every benchmark.

A row compares the tunnels in one figure: median, least and most of its samples, and the ratio of the medians
(comfytunnel / its peer). A column without samples says "not measured", its reason goes to stderr, and the exit
status is 1; a slow result is a result and exits 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from bench.rig import NotMeasured

OURS = "comfytunnel"


@dataclass
class Row:
    """One figure: samples by tunnel, all in `unit`."""

    what: str
    unit: str
    more_is_better: bool
    peer: str
    paired: bool = False
    """Whether the samples of a number were taken right after each other: then the ratio is of each pair, with its spread."""
    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, tunnel: str, value: float) -> None:
        self.samples.setdefault(tunnel, []).append(value)

    def median(self, tunnel: str) -> float | None:
        values = self.samples.get(tunnel)
        return statistics.median(values) if values else None

    def ratios(self) -> list[float]:
        """Ours to the peer's, of each pair or else of the medians; empty when there is no such thing."""
        ours, peer = (self.samples.get(name, []) for name in (OURS, self.peer))
        if not self.paired and ours and peer:
            ours, peer = [statistics.median(ours)], [statistics.median(peer)]
        return [one / other for one, other in zip(ours, peer, strict=False) if other]

    def ratio(self) -> float | None:
        found = self.ratios()
        return statistics.median(found) if found else None


@dataclass
class Report:
    """All rows of one question, and what could not be measured, by tunnel."""

    question: str
    peer: str
    tunnels: list[str]
    rows: list[Row] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def row(self, what: str, unit: str, *, more_is_better: bool, paired: bool = False) -> Row:
        self.rows.append(Row(what, unit, more_is_better, self.peer, paired))
        return self.rows[-1]

    def able(self) -> list[str]:
        """The tunnels that have not failed so far."""
        return [name for name in self.tunnels if name not in self.missing]

    def turns(self, arguments: argparse.Namespace) -> Iterator[str]:
        """Whose turn it is, one run after the other. The peer has `--peer-runs`, where there is such an option."""
        for number in range(arguments.runs):
            for name in self.able():
                if name == OURS or number < getattr(arguments, "peer_runs", arguments.runs):
                    yield name

    @contextmanager
    def trying(self, name: str, what: str) -> Iterator[None]:
        """What cannot be measured in the block ends this tunnel's turns, with its reason."""
        try:
            yield
        except (NotMeasured, OSError) as error:
            self.missing[name] = f"{what}: {error}"

    def as_json(self) -> dict[str, Any]:
        rows = []
        for row in self.rows:
            told: dict[str, Any] = {"what": row.what, "unit": row.unit, "more_is_better": row.more_is_better}
            for name, values in row.samples.items():
                told[name] = {
                    "median": row.median(name),
                    "min": min(values),
                    "max": max(values),
                    "all": values,
                }
            rows.append(told | {"ratio": row.ratio()})
        machine = {
            "python": platform.python_version(),
            "system": platform.platform(),
            "cores": os.cpu_count(),
        }
        return {"question": self.question, "machine": machine, "rows": rows, "not_measured": self.missing}

    def as_table(self) -> str:
        head = ["", *self.tunnels, f"{OURS} / {self.peer}"]
        body = [
            [f"{row.what}, {row.unit}", *(self._cell(row, name) for name in self.tunnels)]
            for row in self.rows
        ]
        for cells, row in zip(body, self.rows, strict=True):
            found = row.ratios()
            wish = "more" if row.more_is_better else "less"
            spread = f"{min(found):.2f}..{max(found):.2f}, " if len(found) > 1 else ""
            cells.append(f"{statistics.median(found):.2f} ({spread}{wish} is better)" if found else "-")
        widths = [max(len(line[column]) for line in [head, *body]) for column in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            for line in [head, *body]
        ]
        return "\n".join([self.question, *(line.rstrip() for line in lines)])

    def _cell(self, row: Row, name: str) -> str:
        values = row.samples.get(name)
        if not values:
            return "not measured" if self.missing else "-"
        return f"{figure(statistics.median(values))} ({figure(min(values))}..{figure(max(values))}, n={len(values)})"


def figure(value: float) -> str:
    """Three significant digits, or all of them before the point."""
    digits = 0 if abs(value) >= 100 or not value else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"


def options(
    doc: str | None, *, runs: int, limit: float, peer: str = "ssh", peer_runs: int | None = None
) -> argparse.ArgumentParser:
    """The options that all benchmarks share; `limit` is the default of --limit in seconds.

    `peer` is whom comfytunnel stands beside; with `peer_runs` the peer, who needs minutes, has its own number of runs.
    """
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.set_defaults(peer=peer)
    parser.add_argument("--only", choices=[peer, OURS], help="measure one tunnel alone")
    parser.add_argument("--no-peer", dest="only", action="store_const", const=OURS, help="leave the peer out")
    parser.add_argument("--runs", type=int, default=runs, help="samples of each (default %(default)s)")
    if peer_runs is not None:
        parser.add_argument(
            "--peer-runs", type=int, default=peer_runs, help=f"samples of {peer} (default %(default)s)"
        )
    parser.add_argument(
        "--limit", type=float, default=limit, help="seconds for everything (default %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON with every sample")
    return parser


def run(
    question: str,
    arguments: argparse.Namespace,
    measure: Callable[[Report, argparse.Namespace], Awaitable[None]],
    *,
    also: tuple[str, ...] = (),
) -> int:
    """Measures, prints, and returns the exit status. `also`: others that stand beside, without a ratio."""
    tunnels = [arguments.only] if arguments.only else [arguments.peer, *also, OURS]
    report = Report(question, arguments.peer, tunnels)

    async def bounded() -> None:
        async with asyncio.timeout(arguments.limit):
            await measure(report, arguments)

    try:
        asyncio.run(bounded())
    except NotMeasured as error:
        report.missing["the rig"] = str(error)
    except TimeoutError:
        report.missing["the rest"] = f"{arguments.limit} s have passed; raise --limit or lower --runs"
    print(json.dumps(report.as_json(), indent=2) if arguments.json else report.as_table())
    for what, why in report.missing.items():
        print(f"not measured: {what}: {why}", file=sys.stderr)
    return 1 if report.missing else 0
