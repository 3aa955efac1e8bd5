"""What does a job cost that goes through comfytunnel's queue, beside a script that drives ComfyUI through `ssh -L` and beside comfy-api-proxy?

Three questions without delay and at 100 ms round trip: how many jobs a second, where each takes 0.2 s of the server and where each takes next to
nothing (no delay only); how long one job takes, from its posting to its picture on disk; how fast an output of 120 MB comes home, beside curl through `ssh -L`
(which knows the file's name; a job's time counts from the moment when ComfyUI's history has it). The server is the stand-in, or with `--comfyui PORT`
one that runs on this machine: then the rows that need the stand-in's own nodes are left out. The ways take turns, in alternating order.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

from bench.report import Report, Row, options, run
from bench.rig import CALL_DEADLINE, NotMeasured, Rig, rig
from bench.tunnels import plain_ssh
from bench.ways import PROXY, STRAIGHT, Graph, Straight, Way, installed, ways

SECONDS = 0.2  # of the server, for a job that takes time
SLOW_JOBS = 25  # a round
NOOP_JOBS = 200  # a round
SINGLE_JOBS = 5  # a round, one after the other
MB = 1_000_000  # bytes
WARM_UP = 2  # jobs that are not counted: the first meets a link that nothing has been sent through

_number = itertools.count(random.randrange(1, 2**22))


def graphs(many: int, seconds: float = 0.0) -> list[Graph]:
    """Workflows that each make one small picture of a colour of its own, so that none is answered from the cache; one folder for each call."""
    numbers = [next(_number) for _ in range(many)]
    return [_graph(number, f"bench-{numbers[0]}/p", seconds) for number in numbers]


def _graph(number: int, prefix: str, seconds: float) -> Graph:
    size = {"width": 16, "height": 16, "batch_size": 1, "color": number % 2**24}
    graph: Graph = {
        "1": {"class_type": "EmptyImage", "inputs": size},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }
    if seconds:
        graph["2"] = {"class_type": "DemoSlow", "inputs": {"image": ["1", 0], "seconds": seconds, "steps": 1}}
        graph["3"]["inputs"]["images"] = ["2", 0]
    return graph


def turns(report: Report, rounds: int) -> Iterator[str]:
    """Who is next: forth in one round, back in the next, so that a drift of the machine is unfair to nobody."""
    for number in range(rounds):
        yield from report.able()[:: -1 if number % 2 else 1]


async def measure(report: Report, arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-proxy-") as base:
        program: Path | None = None
        if PROXY in report.tunnels:
            with report.trying(PROXY, "installation"):
                program = arguments.proxy or await installed(Path(base))
        for path, rtt in (("no delay", 0.0), (f"{arguments.rtt:g} ms", arguments.rtt / 1000)):
            await _on_path(report, arguments, path, rtt, program)


async def _on_path(
    report: Report, arguments: argparse.Namespace, path: str, rtt: float, program: Path | None
) -> None:
    stand_in = not arguments.comfyui
    async with rig(rtt=rtt, size=1, comfyui=arguments.comfyui) as made, contextlib.AsyncExitStack() as stack:
        entered: dict[str, Way] = {}
        known = ways(program)
        for name in report.able():
            with report.trying(name, path):
                entered[name] = await stack.enter_async_context(known[name](made))
                await entered[name].run(graphs(WARM_UP))
        if stand_in and "slow" in arguments.rows:
            row = report.row(f"{SECONDS:g} s jobs, {path}", "jobs/s", more_is_better=True, paired=True)
            await _rate(report, arguments, row, entered, arguments.slow_jobs, SECONDS)
        if not rtt and "noop" in arguments.rows:
            row = report.row(f"no-op jobs, {path}", "jobs/s", more_is_better=True, paired=True)
            await _rate(report, arguments, row, entered, arguments.noop_jobs, 0.0)
        if "single" in arguments.rows:
            await _single(report, arguments, path, entered)
        if stand_in and rtt and "output" in arguments.rows:
            await _output(report, arguments, path, made, entered)


async def _rate(
    report: Report,
    arguments: argparse.Namespace,
    row: Row,
    entered: dict[str, Way],
    many: int,
    seconds: float,
) -> None:
    for name in turns(report, arguments.runs):
        with report.trying(name, row.what):
            ran = await entered[name].run(graphs(many, seconds))
            row.add(name, many / ran.seconds)


async def _single(report: Report, arguments: argparse.Namespace, path: str, entered: dict[str, Way]) -> None:
    whole = report.row(f"one no-op job, {path}", "ms", more_is_better=False, paired=True)
    added = report.row(f"added to it, {path}", "ms", more_is_better=False)
    for name in turns(report, arguments.runs * SINGLE_JOBS):
        with report.trying(name, whole.what):
            whole.add(name, (await entered[name].run(graphs(1))).seconds * 1000)
    plain = whole.samples.get(STRAIGHT, [])
    for name in report.able():
        if name != STRAIGHT:
            for mine, other in zip(whole.samples.get(name, []), plain, strict=False):
                added.add(name, mine - other)


async def _output(
    report: Report, arguments: argparse.Namespace, path: str, made: Rig, entered: dict[str, Way]
) -> None:
    """ComfyUI makes the file for a job of the straight way, for curl to fetch again, and for one of ours."""
    row = report.row(
        f"{arguments.size:g} MB output, {path} ({STRAIGHT}: curl)", "MB/s", more_is_better=True, paired=True
    )
    size = int(arguments.size * MB)
    assert made.far is not None
    await made.far.command(f"output {size}")
    for name in turns(report, arguments.runs):
        if name == PROXY:
            continue
        with report.trying(name, row.what):
            way = entered[name]
            before = set(way.pictures())
            ran = await way.run(graphs(1))
            ended = (await made.far.command(f"ended {ran.prompts[0]}"))["ended"]
            took = await _curl(made, way.seen, size) if isinstance(way, Straight) else ran.done - ended
            row.add(name, size / MB / took)
            for picture in set(way.pictures()) - before:
                picture.unlink()
    await made.far.command("output 0")


async def _curl(made: Rig, seen: dict[str, str], size: int) -> float:
    """Seconds of curl's download of a file of at least `size` bytes, through an `ssh -L` of its own."""
    if shutil.which("curl") is None:
        raise NotMeasured("needs curl: install it")
    there = made.folder / "curl.png"
    async with plain_ssh(made) as tunnel:
        url = f"http://127.0.0.1:{tunnel.port}/view?{urlencode(seen)}"
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec("curl", "-sSf", "-o", str(there), url)
        status = await asyncio.wait_for(process.wait(), CALL_DEADLINE)
        took = time.monotonic() - began
    if status or there.stat().st_size < size:
        raise NotMeasured(f"curl ended with status {status}, or without the whole file")
    there.unlink()
    return took


if __name__ == "__main__":
    parser = options(__doc__, runs=5, limit=1200, peer=STRAIGHT)
    rows = ("slow", "noop", "single", "output")
    parser.add_argument("--rows", nargs="+", choices=rows, default=rows, help="only these questions")
    parser.add_argument(
        "--rtt", type=float, default=100, help="milliseconds of the slow path (default %(default)s)"
    )
    parser.add_argument(
        "--size", type=float, default=120, help="megabytes of the output (default %(default)s)"
    )
    parser.add_argument("--slow-jobs", type=int, default=SLOW_JOBS, help="a round (default %(default)s)")
    parser.add_argument("--noop-jobs", type=int, default=NOOP_JOBS, help="a round (default %(default)s)")
    parser.add_argument(
        "--proxy", type=Path, help="comfy-api-proxy's program (default: install it for this run)"
    )
    parser.add_argument(
        "--comfyui", type=int, default=0, help="port of a ComfyUI on this machine (default: the stand-in)"
    )
    chosen = parser.parse_args()
    sys.exit(run("Jobs through the queue", chosen, measure, also=(PROXY,)))
