"""What the network looks like to one tunnel at one moment, and whether the difference of two such moments concerns it.

compare() is pure and holds every decision about bells. A link whose local address is gone is dead; another route is a reason to
doubt; everything else is nothing, and says why.
"""

from __future__ import annotations

from dataclasses import dataclass

from comfytunnel.tunnel.state import Route, RouteChanged
from comfytunnel.watch import route as kernel


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Addresses are IP addresses of this machine, but for `peer`. `gone` says that `local` exists no more."""

    peer: str | None  # the first hop; None: not known, or behind a proxy
    route: Route  # towards the first hop; while that is not known, the default route, marked as not known
    default: str | None  # the local address of the default route
    local: str | None  # of the live link
    gone: bool


@dataclass(frozen=True, slots=True)
class Finding:
    event: RouteChanged | None
    reason: str


def take(peer: str | None, local: str | None) -> Snapshot:
    """Ask the kernel; a few system calls, nothing is sent."""
    default = kernel.default_address()
    route = Route(default, known=False) if peer is None else kernel.local_address(peer)
    gone = local is not None and not kernel.address_exists(local)
    return Snapshot(peer, route, default, local, gone)


def compare(before: Snapshot, after: Snapshot) -> Finding:
    """What the tunnel must hear of the way from one snapshot to the next."""
    if after.gone and not (before.gone and before.local == after.local):
        return _changed(after, f"the address {after.local} of the link is gone")
    if not after.route.usable:
        if before.route.usable:
            return _changed(after, "no route to the first hop")
        return Finding(None, "still no route to the first hop")
    if not before.route.usable:
        return _changed(after, f"a route to the first hop again, from {after.route.address}")
    if before.peer == after.peer:
        if before.route == after.route:
            return Finding(None, f"the route still leads from {after.route.address}")
        return _changed(after, f"the route leads from {after.route.address}, not {before.route.address}")
    # Routes to two hosts say nothing about each other (one may be reached over IPv6), the default route does.
    if before.default == after.default:
        return Finding(None, f"another first hop, but the default route still leads from {after.default}")
    return _changed(after, f"the default route leads from {after.default}, not {before.default}")


def _changed(after: Snapshot, reason: str) -> Finding:
    return Finding(RouteChanged(after.route, orphaned=after.gone), reason)
