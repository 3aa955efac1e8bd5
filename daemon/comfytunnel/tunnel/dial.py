"""From a host name to a connected TCP socket, and from the kernel's refusals to causes.

Names are resolved in a thread of their own, one look-up in flight: after a wake getaddrinfo can hang for ten seconds and more
and cannot be cancelled, and must not use up the threads that others need. Addresses are tried as in RFC 8305.
"""

from __future__ import annotations

import asyncio
import errno
import re
import select
import socket
import struct
from collections.abc import Callable
from typing import Any

import aiohappyeyeballs

from comfytunnel.threads import in_thread
from comfytunnel.tunnel.link import LinkError
from comfytunnel.tunnel.state import Cause, Code

CONNECT_DEADLINE = 10.0  # seconds for name and TCP together: three SYN retransmissions (1 + 2 + 4) fit
_FAMILY_DELAY = 0.25  # seconds before the next address is tried beside the first: RFC 8305, section 5

Address = tuple[int, int, int, str, Any]


class Resolver:
    """getaddrinfo with at most one thread, which nobody waits for at exit."""

    def __init__(self) -> None:
        self._flight: tuple[tuple[str, int], asyncio.Future[list[Address]]] | None = None

    async def resolve(self, host: str, port: int) -> list[Address]:
        """Addresses in the order of the system's preference. Raises socket.gaierror. The caller sets the deadline."""
        while self._flight is not None and self._flight[0] != (host, port):
            await asyncio.wait({self._flight[1]})
        if self._flight is None:
            self._flight = ((host, port), self._start(host, port))
        return await asyncio.shield(self._flight[1])

    def _start(self, host: str, port: int) -> asyncio.Future[list[Address]]:
        def look_up() -> list[Any]:
            try:
                return [tuple(info) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
            except UnicodeError as error:
                raise socket.gaierror(str(error)) from error

        future = in_thread(look_up, "resolver")
        future.add_done_callback(self._landed)
        return future

    def _landed(self, _: object) -> None:
        self._flight = None


async def dial(host: str, port: int, resolver: Resolver) -> socket.socket:
    """A connected, non-blocking TCP socket. Raises LinkError with the cause; takes CONNECT_DEADLINE at most."""
    stage = Code.DNS_FAILED
    try:
        async with asyncio.timeout(CONNECT_DEADLINE):
            addresses: Any = await resolver.resolve(host, port)
            stage = Code.CONNECT_TIMEOUT
            return await aiohappyeyeballs.start_connection(
                addresses, happy_eyeballs_delay=_FAMILY_DELAY, interleave=1
            )
    except TimeoutError:
        raise LinkError(Cause(stage, f"{host}:{port}, {CONNECT_DEADLINE:.0f} s.")) from None
    except socket.gaierror as error:
        raise LinkError(Cause(Code.DNS_FAILED, f"{host}: {error.strerror or error}.")) from error
    except OSError as error:
        raise LinkError(Cause(code_of(error), f"{host}:{port}.")) from error


def code_of(error: OSError) -> Code:
    """Which cause a failed connect() is. Of several addresses' errors the one that says most about the host counts."""
    numbers = (
        {error.errno} if error.errno else {int(found) for found in re.findall(r"\[Errno (\d+)\]", str(error))}
    )
    for number, code in _CODES.items():
        if number in numbers:
            return code
    return Code.CONNECT_TIMEOUT


_CODES = {
    errno.ECONNREFUSED: Code.CONNECT_REFUSED,
    errno.ECONNRESET: Code.CONNECT_RESET,
    errno.ECONNABORTED: Code.CONNECT_RESET,
    errno.ETIMEDOUT: Code.CONNECT_TIMEOUT,
    errno.ENETUNREACH: Code.NO_ROUTE,
    errno.EHOSTUNREACH: Code.NO_ROUTE,
    errno.ENETDOWN: Code.NO_ROUTE,
    errno.EADDRNOTAVAIL: Code.NO_ROUTE,
}


def reset_on_close(sock: socket.socket) -> None:
    """Let close() send RST and drop what is unsent: nothing may be delivered later by a link that we gave up."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def hung_up(sock: socket.socket | None) -> bool:
    """Whether the kernel has seen the other side's end, even behind bytes that nobody has read yet. No socket: not known.

    Linux tells of a FIN (POLLRDHUP); elsewhere only of what is closed in both directions.
    """
    return _polled(sock, getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR)


def was_reset(sock: socket.socket | None) -> bool:
    """Whether the other side has reset the connection: what it sent before is not to be delivered any more."""
    return _polled(sock, select.POLLERR)


def _polled(sock: socket.socket | None, events: int) -> bool:
    if sock is None:
        return False
    if sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock.fileno(), events)
    return any(seen & events for _, seen in poll.poll(0))


def acknowledger(sock: socket.socket | None) -> Callable[[], None]:
    """A function that asks the kernel to acknowledge what has come at once, to be called after each read.

    sshd leaves Nagle's algorithm on for a connection without a session, so its next small packet (a channel's confirmation) waits
    for our acknowledgement, which Linux delays by 40 ms: a fresh call took 42 ms on loopback, and takes 1.5 so. The option is
    not sticky (tcp(7)); other systems have none and need none.
    """
    option = getattr(socket, "TCP_QUICKACK", None)
    if sock is None or option is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return lambda: None

    def acknowledge() -> None:
        if sock.fileno() >= 0:
            sock.setsockopt(socket.IPPROTO_TCP, option, 1)

    return acknowledge
