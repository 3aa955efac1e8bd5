"""What we need of asyncssh and it does not offer: the only place where its private names are used for the data path.

tests/tunnel/test_inside.py fails when one of them vanishes or changes its meaning.
"""

from __future__ import annotations

from typing import Any

import asyncssh
from asyncssh.constants import MSG_CHANNEL_WINDOW_ADJUST
from asyncssh.packet import UInt32


def take_window(chan: asyncssh.SSHTCPChannel[Any]) -> None:
    """From now on asyncssh enlarges the receive window no more: grant() does. Its own way is to fill the window up whenever half of it is
    used, whether or not what came before has been read: behind a slow reader its buffer grows without bound (decision 0006)."""
    chan._init_recv_window = 0


def grant(chan: asyncssh.SSHTCPChannel[Any], size: int) -> None:
    """Let the far side send `size` bytes more than it may now. Nothing happens on a channel that we have closed."""
    if chan._send_chan is None:
        return
    chan._recv_window += size
    chan.send_packet(MSG_CHANNEL_WINDOW_ADJUST, UInt32(size))


async def answer(conn: asyncssh.SSHClientConnection) -> None:
    """Wait for the far side's answer to a question that touches nothing behind it: a refusal, as RFC 4254 wants it (4).
    OpenSSH's own keepalive; also returns when the connection ends."""
    await conn._make_global_request(b"keepalive@openssh.com")
