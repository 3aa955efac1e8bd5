"""A machine with two networks, of the kernel's own make: two namespaces joined by two veth pairs. Needs root and `ip`.

`wifi` (10.77.1.1) and `wire` (10.77.2.1) both lead to HOP, and nothing of it is visible outside. Only end and set up: what happens to
the networks is the test's affair, with `ip(...)` as on a command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

HOP = "10.99.0.1"  # the first hop, behind either network
WIFI, WIFI_GATE = "10.77.1.1", "10.77.1.2"
WIRE, WIRE_GATE = "10.77.2.1", "10.77.2.2"
DEADLINE = 10.0  # seconds for one command, of which each takes milliseconds

_numbers = count()


async def run(*words: str, text: str = "") -> None:
    """Run a command; RuntimeError with what it said if it fails."""
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(DEADLINE):
            said, _ = await process.communicate(text.encode())
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)}: {said.decode().strip()}")


class Net:
    """The namespaces' names, and the near one's `ip`."""

    def __init__(self, near: str, far: str) -> None:
        self.near = near
        self.far = far

    async def ip(self, *lines: str) -> None:
        """One or more commands of ip(8), in one go."""
        await run("ip", "-n", self.near, "-batch", "-", text="\n".join(lines))


@asynccontextmanager
async def networks() -> AsyncIterator[Net]:
    """Both networks up, the route to HOP through the wifi."""
    unique = f"ct{os.getpid()}n{next(_numbers)}"
    near, far = f"{unique}near", f"{unique}far"
    try:
        for name in (near, far):
            await run("ip", "netns", "add", name)
            # IPv6 says hello for seconds after each change, which would blur what a test does.
            quiet = "f=/proc/sys/net/ipv6/conf; for c in all default; do [ ! -e $f ] || echo 1 > $f/$c/disable_ipv6; done"
            await run("ip", "netns", "exec", name, "sh", "-c", quiet)
        net = Net(near, far)
        await net.ip(
            "link set lo up",
            f"link add wifi type veth peer name wifi netns {far}",
            f"link add wire type veth peer name wire netns {far}",
            f"addr add {WIFI}/24 dev wifi",
            f"addr add {WIRE}/24 dev wire",
        )
        await Net(far, near).ip(
            "link set lo up",
            f"addr add {WIFI_GATE}/24 dev wifi",
            f"addr add {WIRE_GATE}/24 dev wire",
            f"addr add {HOP}/32 dev lo",
            "link set wifi up",
            "link set wire up",
        )
        await net.ip("link set wifi up", "link set wire up", f"route add default via {WIFI_GATE}")
        yield net
    finally:
        for name in (near, far):
            with contextlib.suppress(RuntimeError):  # not made: the set-up has failed before it
                await run("ip", "netns", "del", name)
