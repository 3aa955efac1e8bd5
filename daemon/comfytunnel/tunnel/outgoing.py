"""How far our bytes have come: what the other end of the TCP connection has acknowledged, and what is still on its way.

The other end may be a relay, so this proves nothing about the SSH server. It tells a slow line that is still taking an upload from
one that takes nothing. Linux only; elsewhere nothing is known.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
from dataclasses import dataclass

_SIOCOUTQ = 0x5411  # include/uapi/linux/sockios.h: bytes not acknowledged, those not sent yet among them
_ACKNOWLEDGED = (
    120  # offset of tcpi_bytes_acked, u64, in struct tcp_info (include/uapi/linux/tcp.h, since 4.1)
)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Bytes of one TCP connection: `queued` in the kernel and not acknowledged yet, `acknowledged` since its beginning."""

    queued: int
    acknowledged: int

    def moved_since(self, before: Outgoing) -> bool:
        """Whether some of what was on its way `before` has arrived since."""
        return before.queued > 0 and self.acknowledged > before.acknowledged


NOTHING = Outgoing(0, 0)


def outgoing(sock: socket.socket | None) -> Outgoing:
    """Look. NOTHING if there is no socket of ours (a jump host, a command), or if the system does not tell."""
    if sys.platform != "linux" or sock is None or sock.fileno() < 0:
        return NOTHING
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return NOTHING
    queued = struct.unpack("i", fcntl.ioctl(sock.fileno(), _SIOCOUTQ, bytes(4)))[0]
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED + 8)
    if len(info) < _ACKNOWLEDGED + 8:
        return NOTHING
    return Outgoing(queued, struct.unpack_from("Q", info, _ACKNOWLEDGED)[0])
