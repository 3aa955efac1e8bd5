"""What the service costs a person: `python -m bench.service`, under a systemd user manager (`make bench-service` prepares the wheel).

Has no peer: nothing else that keeps a tunnel is started by its control socket. The far end is the demo's SSH server and its stand-in for
ComfyUI, in this process; the service is installed under a name and in places of its own, and removed.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.app.stream import Stream, to_path, to_port
from tests.app.world import World
from tests.system.conftest import Unit

PACE = 0.05  # seconds between two calls of a stream: twenty a second
STEADY = 10  # calls that are served before and after a restart


async def started(unit: Unit) -> float:
    """Seconds from `systemctl start` to the first answer of the control socket."""
    await unit.do("stop")
    began = time.monotonic()
    await unit.do("start")
    await unit.world.ask(unit.world.client.health)
    return time.monotonic() - began


async def activated(unit: Unit) -> float:
    """Seconds that the first question takes when it has to start the daemon."""
    await unit.do("stop")
    began = time.monotonic()
    await unit.world.ask(unit.world.client.health)
    return time.monotonic() - began


async def installed(unit: Unit) -> float:
    """Seconds from `comfytunnel install` to ComfyUI's first answer through the tunnel."""
    await unit.remove()
    began = time.monotonic()
    await unit.install()
    await unit.world.ask(lambda: unit.world.client.wait(timeout=20))
    return time.monotonic() - began


async def failed(unit: Unit) -> float:
    """Of the calls of two clients, twenty a second each, one at the port and one at the control socket: those that a restart lost."""
    port = Stream(to_port(unit.world.port), pace=PACE)
    control = Stream(to_path(unit.world.client.socket_path), "/v1/health", PACE)
    async with port, control:
        await asyncio.gather(port.serves(STEADY), control.serves(STEADY))
        await unit.do("restart")
        await asyncio.gather(port.serves(STEADY), control.serves(STEADY))
    return sum(stream.began - stream.count()["served"] for stream in (port, control))


ROWS: list[tuple[str, str, Callable[[Unit], Awaitable[float]]]] = [
    ("`systemctl --user start` to the first answer", "s", started),
    ("the first question, which starts it", "s", activated),
    ("`comfytunnel install` to serving", "s", installed),
    ("calls lost by a restart", "", failed),
]


async def main(runs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="ct-") as folder:
        async with World(Path(folder)) as world:
            unit = Unit(world)
            await unit.install()
            try:
                await world.answers()
                for what, sign, measure in ROWS:
                    values = [await measure(unit) for _ in range(runs)]
                    spread = f"({min(values):.2f}..{max(values):.2f}, n={runs})"
                    print(f"{what:<46} {statistics.median(values):.2f} {sign:<2}{spread}", flush=True)
            finally:
                await unit.remove()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    asyncio.run(main(parser.parse_args().runs))
