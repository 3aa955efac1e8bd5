"""What the driver's last try says against a step that the doctor cannot or may not try by itself: which step a cause breaks.

Nothing is tried here: the tunnel is only read, at the time of asking.
"""

from __future__ import annotations

from collections.abc import Callable

from comfytunnel import wire
from comfytunnel.doctor.chain import Broken
from comfytunnel.feed import Feed
from comfytunnel.tunnel.driver import View
from comfytunnel.tunnel.state import Code, Phase

_BLAMED = {
    Code.CONFIG_ERROR: "config",
    Code.KEY_UNREADABLE: "key",
    Code.DNS_FAILED: "dns",
    Code.NO_ROUTE: "tcp",
    Code.CONNECT_REFUSED: "tcp",
    Code.CONNECT_TIMEOUT: "tcp",
    Code.CONNECT_RESET: "banner",
    Code.PROTOCOL_ERROR: "banner",
    Code.HOST_KEY_CHANGED: "host_key",
    Code.HOST_KEY_UNKNOWN: "host_key",
    Code.AUTH_DENIED: "authentication",
    Code.FORWARD_DENIED: "channel",
}
"""By the cause that a tunnel is left with."""


class LastTry:
    """That of one tunnel, as its `view` and `status` tell of it."""

    def __init__(self, view: Feed[View], status: Callable[[], wire.Tunnel]) -> None:
        self._view = view
        self._status = status

    def raise_blame(self, *steps: str) -> None:
        """Raise what it says against `steps`, if it does."""
        tunnel = self._view.value.tunnel
        if tunnel.cause is None or tunnel.phase is Phase.DOWN or _BLAMED.get(tunnel.cause.code) not in steps:
            return
        raise Broken(f"{tunnel.cause.message} ({self.next()})", tunnel.cause.hint)

    def next(self) -> str:
        """When the tunnel tries again, in words."""
        after = self._status().next
        if after is None:
            return "the tunnel waits for you"
        return (
            f"the tunnel tries by itself at {after.at.astimezone():%H:%M:%S}" if after.at else "it tries now"
        )
