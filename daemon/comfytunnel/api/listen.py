"""How the control socket comes to be: the lock that makes us the only daemon, and the bind, or the service manager's own socket.

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
from typing import NamedTuple, Self

from comfytunnel import paths
from comfytunnel.errors import RefusedError, StateError
from comfytunnel.fdstore import Handed

LOCK_NAME = "daemon.lock"
BACKLOG = 128  # connections that wait in the kernel while the loop is busy
CONTROL = "control"  # the socket's name in comfytunnel.socket and in the agent's plist

_ACCEPTS = 0x10000  # __SO_ACCEPTCON of include/linux/net.h: the socket listens


class Lock:
    """flock on `daemon.lock` in each folder, held from `with` to its end, or to the death of the process.

    One lies beside the socket and one in the state folder, since either may be moved alone. The file holds the pid of its last
    holder and is never removed: a removed lock can be held twice.
    """

    def __init__(self, *folders: Path) -> None:
        self.folders = tuple(dict.fromkeys(folders))
        self._held: list[int] = []

    def take(self) -> None:
        """Take all of it or nothing; a second time does nothing. RefusedError names the daemon that holds it, or says what is wrong with a
        folder; StateError when the file cannot be made."""
        if self._held:
            return
        try:
            for folder in self.folders:
                self._held.append(_lock(paths.make_private_folder(folder) / LOCK_NAME))
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        while self._held:
            os.close(self._held.pop())

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


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


def handed_over(handed: Handed) -> socket.socket | None:
    """The control socket if a service manager holds it (comfytunnel.socket, the agent's `Sockets`), else None. The caller closes it."""
    good = None
    for sock in handed.take(CONTROL):
        if good is None and _path_of(sock) is not None:
            good = sock
        else:
            sock.close()
    return good


def _path_of(sock: socket.socket) -> Path | None:
    """Where a Unix socket listens; None if it does not, or has no place in the file system."""
    try:
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
            return None
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return None
        where = sock.getsockname()
    except OSError:
        return None
    return Path(where) if isinstance(where, str) and where.startswith("/") else None


class Place(NamedTuple):
    """Where the control socket lies, and which locks make its daemon the only one."""

    path: Path
    lock: Lock
    given: socket.socket | None


def place(path: Path, state_dir: Path, given: socket.socket | None) -> Place:
    """`path` is where we would bind. A socket that was `given` stays where the manager has it, and the manager's folder needs no lock of
    ours if it is not ours to write: nothing there is removed by us."""
    where = _path_of(given) if given is not None else None
    if where is None:
        return Place(path, Lock(path.parent, state_dir), None)
    try:
        ours = where.parent.stat().st_uid == os.geteuid()
    except (
        OSError
    ):  # removed under the manager's socket: the tunnels are worth more than a socket that nobody finds
        ours = False
    return Place(where, Lock(*([where.parent] if ours else []), state_dir), given)


@contextlib.contextmanager
def control_socket(path: Path, lock: Lock, given: socket.socket | None = None) -> Iterator[socket.socket]:
    """Bind and listen at `path` with mode 0600 from its first moment; close and remove it at the end.

    `lock` is held and covers the socket's folder. A socket that a dead daemon left is replaced; any other file is an error. One that
    was `given` by the manager is only closed here: who calls meanwhile waits for the next daemon.
    UsageError for a path too long, RefusedError if a service manager holds the path, StateError when it cannot be bound.
    """
    if given is not None:
        with given:
            yield given
        return
    if path.parent not in lock.folders:
        raise ValueError(f"the lock does not cover {path.parent}")
    paths.check_socket_path(path)
    sock, bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), False
    try:
        try:
            _refuse_the_managers(path)
            _remove_stale(path)
            usual = os.umask(0o177)  # a chmod after bind would leave a moment in which others may connect
            try:
                sock.bind(os.fspath(path))
                bound = True
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
        if bound:
            with contextlib.suppress(
                OSError
            ):  # gone already: what we want; and nothing is worth failing a stop
                _remove_stale(path)


def _refuse_the_managers(path: Path) -> None:
    """RefusedError if somebody listens at `path` although no daemon holds the lock: then a service manager does, and starts its own
    daemon for the first caller. Linux tells it (/proc/net/unix); elsewhere nothing does."""
    try:
        lines = Path("/proc/net/unix").read_bytes().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        words = line.split(maxsplit=7)  # Num RefCount Protocol Flags Type St Inode Path: proc_pid_net(5)
        if len(words) == 8 and words[7] == os.fsencode(path) and int(words[3], 16) & _ACCEPTS:
            raise RefusedError(
                f"A service manager holds the control socket {path}, for a daemon that it starts itself.",
                hint=f"Use that one (`systemctl --user start {paths.unit_name()}`), or stop it first: "
                f"systemctl --user stop {paths.unit_name()}.socket",
                code="already_running",
            )


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
