"""Linux's bell: rtnetlink tells of links, addresses and routes. A plain socket, since nothing in the messages is read."""

from __future__ import annotations

import socket
from collections.abc import Callable

from comfytunnel.watch.bell_socket import ring_on

AF_NETLINK = 16  # <linux/socket.h>; `socket` has the names on Linux only
NETLINK_ROUTE = 0
# <linux/rtnetlink.h>, RTMGRP_*
LINK = 0x1
IPV4_IFADDR = 0x10
IPV4_ROUTE = 0x40
IPV6_IFADDR = 0x100
IPV6_ROUTE = 0x400
GROUPS = LINK | IPV4_IFADDR | IPV4_ROUTE | IPV6_IFADDR | IPV6_ROUTE


async def bell(ring: Callable[[], None], *, buffer: int | None = None) -> None:
    """Ring until cancelled. `buffer`: bytes for messages that wait, else the kernel's default. Raises OSError if refused."""
    with socket.socket(AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as messages:
        if buffer is not None:
            messages.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        messages.bind((0, GROUPS))
        await ring_on(messages, ring)
