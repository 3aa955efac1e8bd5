"""The local listener, open through every reconnect. It holds callers while there is no link.

The door asks only whether there is a link, never how ComfyUI feels. Accepting ends first on stop; open calls get a moment to finish.
Where it listens is bound.py's, what one caller goes through caller.py's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog

from comfytunnel.config import Endpoint
from comfytunnel.feed import Feed
from comfytunnel.tunnel.bound import Bound, Doorway
from comfytunnel.tunnel.caller import Caller
from comfytunnel.tunnel.driver import View
from comfytunnel.tunnel.framing import Refusal
from comfytunnel.tunnel.guard import STRICT, Rules
from comfytunnel.tunnel.listeners import Listeners
from comfytunnel.tunnel.owner import SocketTable

log = structlog.get_logger(__name__)

CALLERS_MOST = 4096  # open callers; more is a runaway program, and each may hold memory
STREAMING = 2.0  # seconds since a large read in which a transfer counts as going on
STOP_GRACE = 1.2  # seconds that open calls get on stop; the whole has 2, on a busy machine too
REFUSALS_TOLD = 100  # distinct refusals that are logged, once each: a page can invent as many as it likes


@dataclass(slots=True)
class Tally:
    """Counters since the daemon's start; bytes are payload. Written by the door and its callers only."""

    callers: int = 0
    held: int = 0
    lost: int = 0
    refused: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class Door:
    """One tunnel's door. run() is called once; cancel it to stop."""

    def __init__(
        self,
        name: str,
        endpoints: tuple[Endpoint, ...],
        view: Feed[View],
        listeners: Listeners,
        *,
        hold: float,
        on_held: Callable[[bool], None],
        rules: Rules = STRICT,
    ) -> None:
        self.name = name
        self.rules = (
            rules  # this and `hold` may be replaced at any time: they count for callers that come after
        )
        self.hold = hold
        self.view = view
        self.tally = Tally()
        self.bulk_at = float("-inf")
        self.sockets = SocketTable()
        self._bound = Bound(name, endpoints, listeners, partial(Caller, self))
        self._on_held = on_held
        self._callers: set[Caller] = set()
        self._held: set[Caller] = set()
        self._told: set[Refusal] = set()

    @property
    def state(self) -> Feed[Doorway]:
        return self._bound.state

    @property
    def streaming(self) -> bool:
        """Whether a caller moves bulk data just now."""
        return asyncio.get_running_loop().time() - self.bulk_at < STREAMING

    @property
    def open_callers(self) -> int:
        return len(self._callers)

    @property
    def open_channels(self) -> int:
        """Callers that are connected to the far side; spares do not count."""
        return sum(caller.has_channel for caller in self._callers)

    @property
    def held_callers(self) -> int:
        return len(self._held)

    async def run(self) -> None:
        """Bind what can be bound, keep trying for the rest, serve until cancelled."""
        try:
            await self._bound.run()
        finally:
            await self._bound.end_accepting()
            await self._let_out()
            self.sockets.close()

    # --- callers ----------------------------------------------------------------------------------------------------

    def admit(self, caller: Caller) -> bool:
        """A caller has connected. False: there are too many."""
        self.tally.callers += 1
        if len(self._callers) >= CALLERS_MOST:
            return False
        self._callers.add(caller)
        return True

    def is_held(self, caller: Caller) -> bool:
        return caller in self._held

    def holds(self, caller: Caller, held: bool) -> None:
        """`caller` waits for a link, or not any more."""
        before = bool(self._held)
        if held and caller not in self._held:
            self.tally.held += 1
            self._held.add(caller)
        elif not held:
            self._held.discard(caller)
        if bool(self._held) != before:
            self._on_held(bool(self._held))

    def leave(self, caller: Caller) -> None:
        """The caller's connection is closed."""
        self.holds(caller, False)
        self._callers.discard(caller)

    def refused(self, refusal: Refusal) -> None:
        """A caller is turned away by the guard."""
        self.tally.refused += 1
        if refusal not in self._told and len(self._told) < REFUSALS_TOLD:
            self._told.add(refusal)
            log.warning(
                "refused", tunnel=self.name, cause=refusal.code, message=refusal.message, hint=refusal.hint
            )

    async def _let_out(self) -> None:
        """Callers that wait are sent away, calls that run may end; what is left after the grace is reset."""
        endings = [caller.ended for caller in self._callers]
        for caller in list(self._held):
            caller.close()  # it tries again, with the daemon that comes after us
        if endings:
            await asyncio.wait(endings, timeout=STOP_GRACE)
        for caller in list(self._callers):
            caller.reset()
