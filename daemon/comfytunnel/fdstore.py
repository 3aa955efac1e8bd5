"""Sockets that the service manager kept for us, as it passes them at start: systemd's LISTEN_FDS, launchd's sockets, by name.

The law: nothing that the environment says is believed before the kernel confirms it, and nothing that is wrong with it stops a
start. Who wants a socket takes it by its name and judges it. Handing sockets to the manager is notify.py's.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import socket
import stat
import sys
from collections.abc import Collection, Iterable, MutableMapping
from urllib.parse import quote

from comfytunnel.endpoints import Endpoint, Unix

FIRST = 3  # the first descriptor that is passed: SD_LISTEN_FDS_START of sd_listen_fds(3)
FDS_MOST = 1024  # descriptors that are looked at; a store holds as many as doors have addresses
NAMELESS = "unknown"  # what sd_listen_fds_with_names(3) calls a descriptor without a name
# FDNAME of sd_pid_notify_with_fds(3): printable ASCII without a colon.
_NAME_MOST = 255  # characters
_LEGAL = re.compile(rf"[ -9;-~]{{1,{_NAME_MOST}}}")


def name_of(endpoint: Endpoint) -> str:
    """What the manager knows the socket of a forwarded port by: its address, and of a path also which file it is, since a file that
    was removed or replaced leads nobody to the socket that is kept. A digest where the text would be too long. In a launchd agent these
    are the keys of `Sockets`; a path's cannot be known there before it is bound."""
    text = str(endpoint)
    if isinstance(endpoint, Unix):
        try:
            found = endpoint.path.lstat()
            text = f"{text}@{found.st_dev}-{found.st_ino}-{found.st_mtime_ns}"
        except OSError:
            text = f"{text}@"  # no file, no socket: nothing is kept under this name
    name = f"door/{quote(text, safe='/[]@')}"
    return name if len(name) <= _NAME_MOST else f"door/{hashlib.sha256(text.encode()).hexdigest()}"


class Handed:
    """What was passed and not yet taken. Whoever takes a socket closes it; the sockets are non-blocking and not inheritable."""

    def __init__(self, sockets: Iterable[tuple[str, socket.socket]] = ()) -> None:
        self._left = list(sockets)

    def take(self, name: str) -> list[socket.socket]:
        """All sockets of that name: one as a rule, none if the manager has none."""
        found = [sock for given, sock in self._left if given == name]
        self._left = [(given, sock) for given, sock in self._left if given != name]
        return found or _from_launchd(name)

    def take_all_but(self, names: Collection[str]) -> list[tuple[str, socket.socket]]:
        """What was passed under other names than these: nobody has a use for it."""
        found = [(given, sock) for given, sock in self._left if given not in names]
        self._left = [(given, sock) for given, sock in self._left if given in names]
        return found

    def close(self) -> None:
        """Close what nobody has taken; the manager keeps its own."""
        for _, sock in self._left:
            sock.close()
        self._left = []


def inherited(environ: MutableMapping[str, str] = os.environ) -> Handed:
    """What systemd passes to this process, and to no child of it: the variables are removed. To be called before this process
    opens anything, since a descriptor is known by its number alone."""
    pid, count, names, _ = (
        environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
    )
    if pid != str(os.getpid()) or not re.fullmatch(r"[0-9]{1,4}", count):
        return Handed()  # meant for another process, or no number
    fds = range(FIRST, FIRST + min(int(count), FDS_MOST))
    given = names.split(":")
    if len(given) != len(fds):
        given = [NAMELESS] * len(fds)
    return Handed(
        (name if _LEGAL.fullmatch(name) else NAMELESS, sock)
        for name, fd in zip(given, fds, strict=True)
        if (sock := _socket_of(fd)) is not None
    )


def _socket_of(fd: int) -> socket.socket | None:
    """None for what is not open, and for what is no socket: that stays as it is, for it may be somebody else's in this process."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return None
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
    except OSError:
        return None
    return sock


def _from_launchd(name: str) -> list[socket.socket]:
    """The sockets under `name` in the agent's `Sockets`; launch_activate_socket(3). Written from the manual, not run on a Mac."""
    if sys.platform == "darwin":
        system = ctypes.CDLL(None)
        fds, count = ctypes.POINTER(ctypes.c_int)(), ctypes.c_size_t()
        if system.launch_activate_socket(name.encode(), ctypes.byref(fds), ctypes.byref(count)):
            return []  # ESRCH: not launchd's child, ENOENT: no such name, EALREADY: taken before
        try:
            return [sock for at in range(count.value) if (sock := _socket_of(fds[at])) is not None]
        finally:
            system.free(fds)
    else:
        return []
