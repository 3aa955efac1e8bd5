"""Whose the process at the other end of a socket is, and whether that user counts as an owner of this daemon. The kernel says the first,
as of the moment of connect() or listen()."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import socket
import struct
import sys
from collections.abc import Mapping
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


def is_owner(uid: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this user may do what the daemon's own may. In a service of the whole machine ($COMFYTUNNEL_GROUP, set by its unit) these are
    root and the members of that group, too."""
    if uid == os.geteuid():
        return True
    group = environ.get("COMFYTUNNEL_GROUP")
    if not group:
        return False
    if uid == 0:
        return True
    with contextlib.suppress(KeyError):  # no such group, no such user
        found, user = grp.getgrnam(group), pwd.getpwuid(uid)
        return user.pw_gid == found.gr_gid or user.pw_name in found.gr_mem
    return False
