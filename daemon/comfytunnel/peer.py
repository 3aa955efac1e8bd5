"""Whose the process at the other end of a Unix socket is. The kernel says it, as of the moment of connect() or listen()."""

from __future__ import annotations

import socket
import struct
import sys
from typing import Any, Protocol

_LINUX_UCRED = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))
_MACOS_XUCRED = struct.Struct(
    "IIh"
)  # the head of struct xucred: version, uid, number of groups (sys/ucred.h)
_MACOS_XUCRED_SIZE = 76  # bytes; the head, padding, and 16 groups
_MACOS_SOL_LOCAL, _MACOS_LOCAL_PEERCRED = 0, 1  # sys/un.h


class AskableSocket(Protocol):
    """What `peer_uid` needs: a socket, or asyncio's view of one."""

    def getsockopt(self, level: int, name: int, size: int, /) -> Any: ...


def peer_uid(sock: AskableSocket) -> int:
    """Return the uid that the process at the other end of a Unix socket had when it connected, or began to listen. OSError if it cannot be told."""
    if sys.platform == "darwin":
        credentials = sock.getsockopt(_MACOS_SOL_LOCAL, _MACOS_LOCAL_PEERCRED, _MACOS_XUCRED_SIZE)
        return int(_MACOS_XUCRED.unpack_from(credentials)[1])
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _LINUX_UCRED.size)
    return int(_LINUX_UCRED.unpack(credentials)[1])
