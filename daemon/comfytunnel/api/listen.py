"""How the control socket comes to be: the lock that makes us the only daemon, and the bind.

The law: a socket file is removed only while the lock is held, so that a second daemon never takes the first one's place. Nobody
connects to find out whether a daemon lives: a frozen daemon is one too. Nothing here serves a request.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from comfytunnel import paths
from comfytunnel.errors import RefusedError, StateError

LOCK_NAME = "daemon.lock"
BACKLOG = 128  # connections that wait in the kernel while the loop is busy


class Lock:
    """flock on `daemon.lock` in each folder, held from `with` to its end, or to the death of the process.

    One lies beside the socket and one in the state folder, since either may be moved alone. The file holds the pid of its last
    holder and is never removed: a removed lock can be held twice.
    """

    def __init__(self, *folders: Path) -> None:
        self.folders = tuple(dict.fromkeys(folders))
        self._held: list[int] = []

    def __enter__(self) -> Self:
        """Take all of it or nothing. RefusedError names the daemon that holds it; StateError when the file cannot be made."""
        try:
            for folder in self.folders:
                self._held.append(_lock(paths.make_private_folder(folder) / LOCK_NAME))
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def _release(self) -> None:
        while self._held:
            os.close(self._held.pop())


def _lock(path: Path) -> int:
    try:
        held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StateError(
            f"The lock {path} cannot be opened: {error.strerror}.",
            hint="Check the permissions of the folder, and whether its disk is full.",
        ) from error
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(held, 20, 0).decode("ascii", "replace").strip()
            raise RefusedError(
                f"Another daemon runs already{f', with the pid {pid}' if pid.isdigit() else ''}; it holds {path}.",
                hint="It goes on undisturbed. Ask it with `comfytunnel status`, or stop it first.",
                code="already_running",
                details={"pid": int(pid)} if pid.isdigit() else {},
            ) from None
        os.ftruncate(held, 0)
        os.pwrite(held, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        os.close(held)
        raise StateError(
            f"The lock {path} cannot be taken: {error.strerror}.",
            hint="A full disk or a network file system without locks does this; see COMFYTUNNEL_STATE_DIR.",
        ) from error
    except BaseException:
        os.close(held)
        raise
    return held


@contextlib.contextmanager
def control_socket(path: Path, lock: Lock) -> Iterator[socket.socket]:
    """Bind and listen at `path` with mode 0600 from its first moment; close and remove it at the end.

    `lock` is held and covers the socket's folder. A socket that a dead daemon left is replaced; any other file is an error.
    UsageError for a path too long, StateError when it cannot be bound.
    """
    if path.parent not in lock.folders:
        raise ValueError(f"the lock does not cover {path.parent}")
    paths.check_socket_path(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            _remove_stale(path)
            usual = os.umask(0o177)  # a chmod after bind would leave a moment in which others may connect
            try:
                sock.bind(os.fspath(path))
            finally:
                os.umask(usual)
            sock.listen(BACKLOG)
            sock.setblocking(False)
        except OSError as error:
            raise StateError(
                f"The control socket {path} cannot be bound: {error.strerror}.",
                hint="Check the folder, or set COMFYTUNNEL_SOCKET.",
            ) from error
        yield sock
    finally:
        sock.close()
        with contextlib.suppress(OSError):  # gone already: what we want; and nothing is worth failing a stop
            _remove_stale(path)


def _remove_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise StateError(
            f"{path} is in the way of the control socket: it is not a socket.",
            hint="Move it away, or set COMFYTUNNEL_SOCKET.",
        )
    path.unlink()
