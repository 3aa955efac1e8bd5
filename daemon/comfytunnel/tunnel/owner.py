"""Whose process is at the other end of a loopback connection: the kernel's socket table. Asked once for each caller, never cached.

Linux: an exact look-up over netlink (sock_diag(7), some 10 us whatever else is open), or a read of /proc/net/tcp where that is missing.
macOS has no such table without root, so there everybody passes; docs/security.md says so. Nothing is decided by process ids or names.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Any

from comfytunnel.peer import is_owner

Address = tuple[Any, ...]  # as getsockname() gives it: host, port, ...

_NETLINK_SOCK_DIAG = 4  # include/uapi/linux/netlink.h
_SOCK_DIAG_BY_FAMILY = 20  # include/uapi/linux/sock_diag.h; the answer has the same number
_NLMSG_ERROR = 2  # include/uapi/linux/netlink.h, as the next
_NLM_F_REQUEST = 1
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port id
_REQUEST = struct.Struct(
    "=BBBxI"
)  # struct inet_diag_req_v2 up to the id: family, protocol, extensions, states
_ID = struct.Struct(
    ">HH16s16s12s"
)  # struct inet_diag_sockid: ports and addresses in network order, interface, cookie
_ANY_ID = bytes(4) + b"\xff" * 8  # any interface, INET_DIAG_NOCOOKIE
_OWNER = struct.Struct("=II")  # uid, inode: the last two of struct inet_diag_msg
_OWNER_AT = _HEADER.size + 4 + _ID.size + 12
_ANSWER_LIMIT = 8192  # bytes; an answer has 88 and a few attributes
_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, where an IPv6 socket holds an IPv4 peer


class Untold(Exception):  # noqa: N818 - an answer, not an error
    """The kernel knows no process that holds the other end: it has been closed, or it is not on this machine."""


class SocketTable:
    """The kernel's table of TCP sockets. Keeps one netlink socket, because opening one costs more than the question."""

    def __init__(self) -> None:
        self._netlink: socket.socket | None = None
        self._asked = 0  # number of the newest question

    def close(self) -> None:
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def is_ours(self, sock: Any) -> bool:
        """Whether the peer of a connected TCP socket is a process of an owner, or of root, who may anyway. Raises Untold."""
        if sys.platform != "linux":
            return True
        uid = self.peer_uid(sock)
        return uid == 0 or is_owner(uid)

    def peer_uid(self, sock: Any) -> int:
        """The uid of the process that holds the other end of a TCP connection within this machine. Linux only; raises Untold."""
        try:
            ours, theirs = sock.getsockname(), sock.getpeername()
        except OSError as error:
            raise Untold from error  # reset before we looked
        try:
            owner = self._ask(sock.family, theirs, ours)
            if owner is None and self._ask(sock.family, ours, theirs) is None:
                owner = _search(
                    theirs, ours
                )  # it does not find our own end either: no tcp_diag in this kernel
        except OSError:
            self.close()  # what it would still say answers an old question
            owner = _search(theirs, ours)
        # A closed socket that still has bytes to send belongs to nobody any more: uid 0 and no inode.
        if owner is None or owner[1] == 0:
            raise Untold
        return owner[0]

    def _ask(self, family: int, local: Address, remote: Address) -> tuple[int, int] | None:
        """Uid and inode of the socket with these addresses, by netlink; None if there is none. Raises OSError."""
        if self._netlink is None:
            kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            self._netlink = socket.socket(socket.AF_NETLINK, kind, _NETLINK_SOCK_DIAG)
        source, target = _packed(family, local), _packed(family, remote)
        body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0xFFFFFFFF)
        body += _ID.pack(local[1], remote[1], source, target, _ANY_ID)
        self._asked = (self._asked + 1) & 0xFFFFFFFF
        head = _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, self._asked, 0)
        self._netlink.send(head + body)
        answer = self._netlink.recv(
            _ANSWER_LIMIT
        )  # the kernel answers within send(): there is nothing to wait for
        return _read(answer, self._asked, (local[1], remote[1], source, target))


def _read(answer: bytes, asked: int, wanted: tuple[int, int, bytes, bytes]) -> tuple[int, int] | None:
    _, kind, _, number, _ = _HEADER.unpack_from(answer)
    if number != asked:
        raise OSError(errno.EBADMSG, "the answer to another question")
    if kind == _NLMSG_ERROR:
        failure = -struct.unpack_from("=i", answer, _HEADER.size)[0]
        if failure == errno.ENOENT:
            return None
        raise OSError(failure, os.strerror(failure))
    if kind != _SOCK_DIAG_BY_FAMILY or len(answer) < _OWNER_AT + _OWNER.size:
        raise OSError(errno.EBADMSG, "an answer of another kind")
    # Where no connection matches, the kernel takes a listener on the port: that is not who we asked for.
    found = _ID.unpack_from(answer, _HEADER.size + 4)
    if (found[0], found[1], _plain(found[2]), _plain(found[3])) != wanted:
        return None
    uid, inode = _OWNER.unpack_from(answer, _OWNER_AT)
    return uid, inode


def _packed(family: int, address: Address) -> bytes:
    return socket.inet_pton(family, address[0].partition("%")[0]).ljust(16, b"\0")


def _plain(packed: bytes) -> bytes:
    """An IPv4 address that an IPv6 socket holds, as an IPv4 socket has it."""
    return packed[len(_MAPPED) :].ljust(16, b"\0") if packed.startswith(_MAPPED) else packed


def _search(local: Address, remote: Address, root: Path = Path("/proc/net")) -> tuple[int, int] | None:
    """The same from the table that the kernel prints, in time proportional to all sockets of the machine."""
    wanted = {(_printed(local, mapped), _printed(remote, mapped)) for mapped in (False, True)}
    for table in ("tcp", "tcp6"):
        try:
            with (root / table).open(encoding="ascii") as lines:
                for words in map(str.split, lines):
                    if len(words) > 9 and (words[1], words[2]) in wanted:
                        return int(words[7]), int(words[9])
        except OSError:
            continue
    return None


def _printed(address: Address, mapped: bool) -> str:
    """ADDRESS:PORT as /proc/net/tcp has it: words of four bytes, each a number in the machine's own order."""
    host = address[0].partition("%")[0]
    packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    if mapped and len(packed) == 4:
        packed = _MAPPED + packed
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return f"{''.join(f'{word:08X}' for word in words)}:{address[1]:04X}"
