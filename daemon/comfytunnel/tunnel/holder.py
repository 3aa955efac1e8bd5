"""Who holds a local port: a process to name in a message, where the system tells. Never a reason for anything but words.

Linux: /proc/net/tcp gives the socket's inode, /proc/PID/fd who has it open (our own processes, all of them for root). Other
systems: lsof, if it is there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

_LISTEN = "0A"  # TCP_LISTEN in include/net/tcp_states.h, as /proc/net/tcp prints it
_LSOF_DEADLINE = 2.0  # seconds; lsof can hang on dead network mounts
_COMMAND_LIMIT = 120  # characters of a command line that are worth showing


def holder_of(port: int) -> str | None:
    """`1234 (ssh -N -L ...)` or None if the system does not tell. Blocks for the time of a look through /proc."""
    return _from_proc(port) if sys.platform == "linux" else _from_lsof(port)


def _from_proc(port: int, root: Path = Path("/proc")) -> str | None:
    inodes = _listening_inodes(port, root)
    if not inodes:
        return None
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in root.iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue  # we may hold the port of the other loopback address ourselves
        try:
            if any(str(handle.readlink()) in wanted for handle in (process / "fd").iterdir()):
                return _describe(process)
        except OSError:
            continue  # gone meanwhile, or another user's
    return None


def _listening_inodes(port: int, root: Path) -> set[str]:
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (root / "net" / table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if len(fields) > 9 and fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(fields[9])
    return inodes


def _describe(process: Path) -> str:
    words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    shown = "".join(char for char in words if char.isprintable())[:_COMMAND_LIMIT]
    return f"{process.name} ({shown})" if shown else process.name


def _from_lsof(port: int) -> str | None:
    program = shutil.which("lsof")
    if program is None:
        return None
    try:
        found = subprocess.run(
            [program, "-nP", "-a", "-p", f"^{os.getpid()}", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc"],
            capture_output=True,
            text=True,
            timeout=_LSOF_DEADLINE,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    fields = {line[0]: line[1:] for line in reversed(found.splitlines()) if line}
    return f"{fields['p']} ({fields.get('c', '?')})" if "p" in fields else None
