"""What a process holds, counted from outside: descriptors by kind, threads, memory; and the sockets that it keeps open far away.

Linux only (/proc). Nothing here waits or decides.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

STATES = {1: "established", 2: "connecting", 4: "closing", 5: "closing", 8: "left open", 9: "closing"}
TIME_WAIT = 6  # as /proc/net/tcp has it: the kernel's, not a process's


@dataclass(frozen=True)
class Holdings:
    """`rss` and `pss` in MB (10^6 bytes)."""

    descriptors: Counter[str]
    threads: int
    rss: float
    pss: float


def holdings(pid: int) -> Holdings:
    """What the process holds now."""
    root = Path(f"/proc/{pid}")
    kinds: Counter[str] = Counter()
    for entry in (root / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since the listing
            target = str(entry.readlink())
            kinds[target.split(":[")[0] if ":[" in target else target] += 1
    lines = (root / "smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split()[0]: int(line.split()[1]) * 1024 / 1e6 for line in lines}
    return Holdings(kinds, len(list((root / "task").iterdir())), sizes["Rss:"], sizes["Pss:"])


def sockets_to(port: int, pid: int | None = None) -> Counter[str]:
    """By state, the sockets of this machine that are connected to 127.0.0.1:`port`, closing ones included; with `pid`, those of that
    process alone."""
    count: Counter[str] = Counter()
    mine = _sockets_of(pid) if pid is not None else set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            state, inode = int(fields[3], 16), fields[9]
            there = int(fields[2].rpartition(":")[2], 16) == port and state != TIME_WAIT
            if there and (pid is None or inode in mine):
                count[STATES.get(state, str(state))] += 1
    return count


def _sockets_of(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since the listing
            target = str(entry.readlink())
            if target.startswith("socket:["):
                found.add(target[len("socket:[") : -1])
    return found
