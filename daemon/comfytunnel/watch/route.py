"""Which local address the kernel would use towards an address, and whether a local address still exists.

Asked of the kernel through UDP sockets: connecting one chooses a route and sends nothing. Only IP addresses are taken, so nothing
here ever waits for DNS. What cannot be told (no file descriptors left) is never told as "no route" or "gone".
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Any

from comfytunnel.tunnel.state import Route

ANY_PORT = 9  # discard; the kernel wants a port, and nothing is sent to it
ELSEWHERE = (
    "192.0.2.1",
    "2001:db8::1",
)  # RFC 5737, RFC 3849: nobody's addresses, so the default route leads there


def local_address(peer: str) -> Route:
    """The route towards the IP address `peer`; Route(None, known=True) if there is none, Route() if it cannot be told."""
    try:
        found = _numeric(peer, ANY_PORT)
        if found is None:
            return Route()
        family, address = found
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
            return Route(str(probe.getsockname()[0]), known=True)
    except OSError as error:
        # The rest are the kernel's ways to say no: unreachable, prohibited and blackhole routes, no address, no IPv6 at all.
        return Route() if error.errno in _OUT_OF_MEANS else Route(None, known=True)


def default_address() -> str | None:
    """The local address of the default route (IPv4 first): the sign of a new network while the first hop is not known."""
    for elsewhere in ELSEWHERE:
        route = local_address(elsewhere)
        if route.address is not None:
            return route.address
    return None


def address_exists(address: str) -> bool:
    """Whether the IP address `address` is one of this machine's now. True if it cannot be told."""
    try:
        found = _numeric(address, 0)
        if found is None:
            return True
        family, where = found
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind(where)
    except OSError as error:
        return error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV, errno.EAFNOSUPPORT)
    return True


_OUT_OF_MEANS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def _numeric(address: str, port: int) -> tuple[socket.AddressFamily, Any] | None:
    """Family and socket address, with the scope of a link-local one; None if `address` is no IP address.

    Raises OSError for an interface that is not there.
    """
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return None
    try:
        found = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror as error:  # the scope names an interface that has gone
        raise OSError(errno.ENODEV, str(error)) from error
    return found[0][0], found[0][4]
