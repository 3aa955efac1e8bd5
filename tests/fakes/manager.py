"""A service manager with an fd store: a real datagram socket that takes descriptors, and the way to start a process with them.

It does what systemd does and no more: a name may stand for several sockets, and whoever starts gets duplicates of all.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from comfytunnel.feed import Feed

MESSAGE_MOST = 4096  # bytes
BECOME = """
import fcntl, os, sys
given = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 500) for fd in sys.argv[1].split(",") if fd]
for at, fd in enumerate(given):
    os.dup2(fd, 3 + at)
os.closerange(3 + len(given), 1000)
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


def becoming(fds: Sequence[int]) -> tuple[str, ...]:
    """The head of a command line: a program that becomes the rest of it, with `fds` as 3, 4, ... and, unless it is set, LISTEN_PID."""
    return (sys.executable, "-c", BECOME, ",".join(map(str, fds)))


class Manager:
    """`async with Manager(folder) as manager`. `names` are those in the store, in the order in which they came."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self.names: Feed[tuple[str, ...]] = Feed(())
        self.said: list[str] = []
        self._store: list[tuple[str, socket.socket]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    async def __aenter__(self) -> Self:
        self._socket.bind(self.address)
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self._read)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self.drop()

    def drop(self, name: str | None = None) -> None:
        """Close what is kept, as at the unit's stop, or what is kept under `name`."""
        for kept, sock in self._store:
            if name in (None, kept):
                sock.close()
        self._store = [(kept, sock) for kept, sock in self._store if sock.fileno() >= 0]
        self._announce()

    def put(self, name: str, sock: socket.socket) -> None:
        """Keep a duplicate of `sock`."""
        self._store.append((name, sock.dup()))
        self._announce()

    def addresses(self, name: str) -> list[object]:
        return [sock.getsockname() for kept, sock in self._store if kept == name]

    @property
    def fds(self) -> list[int]:
        return [sock.fileno() for _, sock in self._store]

    @property
    def environment(self) -> dict[str, str]:
        """What a process sees, but for LISTEN_PID."""
        names = [name for name, _ in self._store]
        passed = {"LISTEN_FDS": str(len(names)), "LISTEN_FDNAMES": ":".join(names)} if names else {}
        return {"NOTIFY_SOCKET": self.address} | passed

    def _announce(self) -> None:
        self.names.set(tuple(name for name, _ in self._store))

    def _read(self) -> None:
        data, fds, _, _ = socket.recv_fds(self._socket, MESSAGE_MOST, 8)
        lines = dict(line.split("=", 1) for line in data.decode().split("\n"))
        passed = [socket.socket(fileno=fd) for fd in fds]
        if "FDSTORE" in lines:
            self._store += [(lines["FDNAME"], sock) for sock in passed]
            self._announce()
        elif "FDSTOREREMOVE" in lines:
            self.drop(lines["FDNAME"])
        else:
            self.said += [f"{name}={value}" for name, value in lines.items()]
