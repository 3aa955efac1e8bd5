"""The listening sockets: each is bound once and outlives the door that serves it, and where a service manager keeps it, the process.

The law: a socket is here as long as the config wants its address. Doors serve duplicates, so a door that is built anew finds the callers
of the moment between in the backlog. A socket that comes from the manager is used only if it listens where its name says; one that
no tunnel wants is closed, at the manager too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from comfytunnel.endpoints import Endpoint, Tcp, Unix
from comfytunnel.fdstore import Handed, name_of
from comfytunnel.notify import Notifier

log = structlog.get_logger(__name__)

BACKLOG = 1024  # callers that the kernel keeps for us while the loop is busy, or no daemon runs


class Listeners:
    """One for the process; `with` closes what is left."""

    def __init__(self, notifier: Notifier, handed: Handed) -> None:
        self._notifier = notifier
        self._handed = handed
        self._kept: dict[Endpoint, tuple[str, socket.socket]] = {}  # with the name that the manager knows

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self, endpoint: Endpoint) -> socket.socket:
        """A duplicate of the socket that listens at `endpoint`, for the caller to close. Raises OSError if it cannot be bound."""
        if endpoint not in self._kept:
            self._kept[endpoint] = self._taken_back(endpoint) or self._bound(endpoint)
        return self._kept[endpoint][1].dup()

    def retain(self, endpoints: Collection[Endpoint]) -> None:
        """`endpoints` is all that the config wants: whatever else is kept, here or by the manager, is closed."""
        for endpoint in [kept for kept in self._kept if kept not in endpoints]:
            self._discard(*self._kept.pop(endpoint))
        for name, sock in self._handed.take_all_but({name_of(endpoint) for endpoint in endpoints}):
            self._discard(name, sock)

    def close(self) -> None:
        """Close our side. What the manager keeps goes on listening, for the process that comes after us."""
        for name, sock in self._kept.values():
            if not self._notifier.listens:
                _unlink(name, sock)
            sock.close()
        self._kept.clear()
        self._handed.close()

    def _taken_back(self, endpoint: Endpoint) -> tuple[str, socket.socket] | None:
        name = name_of(endpoint)
        found = self._handed.take(name)
        good = next((sock for sock in found if _listens_at(sock, endpoint)), None)
        for sock in found:
            if sock is not good:
                sock.close()
        if len(found) > 1 or (found and good is None):
            log.warning(
                "listener", listen=str(endpoint), message="The service manager kept what is not ours."
            )
            self._notifier.forget(name)
            if good is not None:
                self._notifier.keep(name, good)
        if good is None:
            return None
        log.info("listener", listen=str(endpoint), message="Taken back from the service manager.")
        return name, good

    def _bound(self, endpoint: Endpoint) -> tuple[str, socket.socket]:
        sock = _bind(endpoint)
        name = name_of(endpoint)
        self._notifier.keep(name, sock)
        return name, sock

    def _discard(self, name: str, sock: socket.socket) -> None:
        self._notifier.forget(name)
        _unlink(name, sock)
        sock.close()


def _listens_at(sock: socket.socket, endpoint: Endpoint) -> bool:
    try:
        if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return False
        where = sock.getsockname()
    except OSError:
        return False
    if isinstance(endpoint, Unix):
        return sock.family == socket.AF_UNIX and bool(where == str(endpoint.path))
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    return sock.family == family and bool(where[:2] == (endpoint.host, endpoint.port))


def _unlink(name: str, sock: socket.socket) -> None:
    """Remove the file of a Unix socket that is given up, if it is still that socket's."""
    if sock.family != socket.AF_UNIX:
        return
    with contextlib.suppress(OSError):  # gone already: what we want
        path = sock.getsockname()
        if isinstance(path, str) and path and name_of(Unix(Path(path))) == name:
            Path(path).unlink()


def _bind(endpoint: Endpoint) -> socket.socket:
    """A non-blocking socket that listens. Raises OSError."""
    if not isinstance(endpoint, Tcp):
        return _bind_unix(endpoint.path)
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((endpoint.host, endpoint.port))
        listener.listen(BACKLOG)  # two programs may bind a port, only one may listen: find out here
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _bind_unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket() and _is_stale(path):
            path.unlink()
        usual = os.umask(0o177)  # a chmod after bind would leave a moment in which others may connect
        try:
            listener.bind(str(path))
        finally:
            os.umask(usual)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _is_stale(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full backlog is an answer too
        return probe.connect_ex(str(path)) == errno.ECONNREFUSED
