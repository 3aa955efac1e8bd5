"""The local listener, open through every reconnect. It holds callers while there is no link.

The door asks only whether there is a link, never how ComfyUI feels. A port that is taken is a cause and is tried again every
5 s; one address in trouble does not close the other. Accepting ends first on stop; open calls get a moment to finish. What one
caller goes through is in caller.py.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import structlog

from comfytunnel.config import Endpoint, Tcp
from comfytunnel.feed import Feed
from comfytunnel.tunnel.caller import Caller
from comfytunnel.tunnel.driver import View
from comfytunnel.tunnel.framing import Refusal
from comfytunnel.tunnel.guard import STRICT, Rules
from comfytunnel.tunnel.holder import holder_of
from comfytunnel.tunnel.listeners import BACKLOG, Listeners
from comfytunnel.tunnel.owner import SocketTable
from comfytunnel.tunnel.state import Cause, Code

log = structlog.get_logger(__name__)

BIND_AGAIN = 5.0  # seconds between tries for a port that is taken
CALLERS_MOST = 4096  # open callers; more is a runaway program, and each may hold memory
STREAMING = 2.0  # seconds since a large read in which a transfer counts as going on
STOP_GRACE = 1.2  # seconds that open calls get on stop; the whole has 2, on a busy machine too
_ARRIVAL_TURNS = 3  # of the loop from accept() to connection_made (3.11-3.13); a server that is closed between drops the caller
REFUSALS_TOLD = 100  # distinct refusals that are logged, once each: a page can invent as many as it likes


@dataclass(frozen=True, slots=True)
class Doorway:
    """What is bound now, and what keeps the rest from being bound."""

    listening: tuple[str, ...] = ()
    cause: Cause | None = None


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
        self.state: Feed[Doorway] = Feed(Doorway())
        self._endpoints = endpoints
        self._listeners = listeners
        self._on_held = on_held
        self._callers: set[Caller] = set()
        self._held: set[Caller] = set()
        self._told: set[Refusal] = set()
        self._causes: dict[Endpoint, Cause] = {}
        self._servers: dict[Endpoint, asyncio.Server] = {}

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
            async with asyncio.TaskGroup() as group:
                for endpoint in self._endpoints:
                    group.create_task(self._keep_bound(endpoint), name=f"{self.name}/bind {endpoint}")
                await asyncio.Event().wait()  # until cancelled: the listeners work by callbacks
        finally:
            await self._end_accepting()
            await self._let_out()
            self.sockets.close()

    async def _keep_bound(self, endpoint: Endpoint) -> None:
        while True:
            try:
                listener = self._listeners.open(endpoint)
            except OSError as error:
                cause = await asyncio.to_thread(_why, endpoint, error)
                if cause is None:
                    return  # this machine has no such address family: the other one serves
                if cause != self._causes.get(endpoint):
                    log.warning(
                        "port",
                        tunnel=self.name,
                        cause=cause.code.value,
                        message=cause.message,
                        hint=cause.hint,
                    )
                self._announce(endpoint, cause)
                await asyncio.sleep(BIND_AGAIN)
            else:
                await self._serve(endpoint, listener)
                return

    async def _serve(self, endpoint: Endpoint, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        factory = partial(Caller, self)
        # For paths too: create_unix_server removes the file at its close (3.13), under the feet of whoever serves it next.
        # Started once it is ours to close: the call below is a point where we may be cancelled.
        server = await loop.create_server(factory, sock=listener, backlog=BACKLOG, start_serving=False)
        self._servers[endpoint] = server
        await server.start_serving()
        self._announce(endpoint, None)

    async def _end_accepting(self) -> None:
        """From here on callers wait in the backlog, for the door or the process that comes after us; nobody is lost between."""
        loop = asyncio.get_running_loop()
        for server in self._servers.values():
            for sock in server.sockets:
                loop.remove_reader(sock.fileno())
        for _ in range(_ARRIVAL_TURNS):
            await asyncio.sleep(0)
        for server in self._servers.values():
            server.close()

    def _announce(self, endpoint: Endpoint, cause: Cause | None) -> None:
        self._causes.pop(endpoint, None)
        if cause is not None:
            self._causes[endpoint] = cause
        listening = tuple(self._address(bound) for bound in self._endpoints if bound in self._servers)
        self.state.set(Doorway(listening, next(iter(self._causes.values()), None)))

    def _address(self, endpoint: Endpoint) -> str:
        """Where a bound endpoint is reached: for port 0 the one that the kernel chose."""
        if not isinstance(endpoint, Tcp):
            return str(endpoint)
        return str(Tcp(endpoint.host, self._servers[endpoint].sockets[0].getsockname()[1]))

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


def _why(endpoint: Endpoint, error: OSError) -> Cause | None:
    """What a failed bind means; None if it is only an address family that this machine does not have."""
    if (
        error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
        and isinstance(endpoint, Tcp)
        and ":" in endpoint.host
    ):
        return None
    cause = Cause(Code.PORT_IN_USE, f"{endpoint}: {error.strerror}.")
    if error.errno != errno.EADDRINUSE or not isinstance(endpoint, Tcp):
        return replace(cause, advice="Choose another `listen` in the config.")
    holder = holder_of(endpoint.port)
    if holder is None:
        return replace(
            cause,
            advice=f"Find it with `ss -ltnp 'sport = {endpoint.port}'`; once it is stopped I take over by myself.",
        )
    return replace(
        cause,
        detail=f"{endpoint} is held by process {holder}.",
        advice=f"Stop it (kill {holder.split()[0]}), I take over by myself.",
    )
