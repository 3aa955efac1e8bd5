"""macOS's bell: a routing socket tells of interfaces, addresses and routes, see route(4). Not yet run on a Mac."""

from __future__ import annotations

import socket
from collections.abc import Callable

from comfytunnel.watch.bell_socket import ring_on

AF_ROUTE = 17  # <sys/socket.h>; `socket` has the name on BSD only
ANY_FAMILY = 0


async def bell(ring: Callable[[], None]) -> None:
    """Ring until cancelled. Raises OSError if refused."""
    with socket.socket(AF_ROUTE, socket.SOCK_RAW, ANY_FAMILY) as messages:
        await ring_on(messages, ring)
