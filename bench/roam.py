"""The route moves to another network, with ten calls a second: how long until calls go through again?

Two network namespaces joined by two networks, as a laptop between Wi-Fi and Ethernet; this process goes into the near one.
`address gone`: the Wi-Fi goes down with its address. `address kept`: it keeps its address and carries nothing any more, which is
told to nobody. Needs Linux, root, ip and nft; nothing outside the two namespaces is touched.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.watch.netns import HOP, WIFI, WIFI_GATE, WIRE_GATE, Net, networks
from tests.watch.netns import run as run_command

from bench.calls import handshake
from bench.faults import Fault, suffer
from bench.report import OURS, Report, options, run
from bench.rig import NotMeasured, rig
from bench.tunnels import Tunnel

LIMIT = 120.0  # seconds
BY_WIRE = f"default via {WIRE_GATE}"
CLONE_NEWNET = 0x40000000  # setns(2)
DROP = (
    "add table inet bench; add chain inet bench input { type filter hook input priority 0; }; "
    f"add rule inet bench input ip saddr {WIFI} drop"
)


async def measure(report: Report, arguments: argparse.Namespace) -> None:
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("nft"):
        raise NotMeasured("needs Linux, root, ip (iproute2) and nft (nftables)")
    rows = {
        kind: (
            report.row(f"{kind}, back within", "s", more_is_better=False),
            report.row(f"{kind}, calls lost", "calls", more_is_better=False),
        )
        for kind in ("address gone", "address kept")
    }
    bare = report.row("handshake alone", "s", more_is_better=False)
    async with networks() as net:
        beyond = ("ip", "netns", "exec", net.far)
        # Once, before there is any thread: each thread keeps the network in which it was started.
        with inside(net.near):
            for name in report.turns(arguments):
                for kind, (back, lost) in rows.items():
                    with report.trying(name, kind):
                        async with rig(host=HOP, beyond=beyond) as made:
                            toll = await suffer(made, name, move(net, gone=kind == "address gone"), LIMIT)
                            await move_back(net)
                            back.add(name, toll.back)
                            lost.add(name, toll.lost)
                            if name == OURS:
                                bare.add(name, await handshake(made))


def move(net: Net, *, gone: bool) -> Fault:
    async def do(_: Tunnel) -> None:
        if gone:
            await net.ip(f"addr del {WIFI}/24 dev wifi", "link set wifi down", f"route add {BY_WIRE}")
        else:
            await nft(net, DROP)
            await net.ip(f"route replace {BY_WIRE}")

    return do


async def move_back(net: Net) -> None:
    await net.ip(
        "link set wifi up", f"addr replace {WIFI}/24 dev wifi", f"route replace default via {WIFI_GATE}"
    )
    await nft(net, "add table inet bench; delete table inet bench")


async def nft(net: Net, commands: str) -> None:
    await run_command("ip", "netns", "exec", net.far, "nft", commands)


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread's new sockets and processes belong to the network namespace for the length of the block."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        there = os.open(Path("/run/netns") / namespace, os.O_RDONLY)
        try:
            _enter(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _enter(home)
    finally:
        os.close(home)


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


if __name__ == "__main__":
    parser = options(__doc__, runs=3, limit=900, peer="autossh", peer_runs=1)
    sys.exit(run("Route moved to another interface", parser.parse_args(), measure))
