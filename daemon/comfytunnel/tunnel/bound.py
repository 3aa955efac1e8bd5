"""One listener's addresses: each bound when it can be, served by one factory of protocols, and given up without losing a caller.

For a door, and for the API on TCP. A port that is taken is a cause and is tried again every 5 s; one address in trouble does not
close the other. What a caller gets is none of this file's business.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from comfytunnel.config import Endpoint, Tcp
from comfytunnel.ending import end_accepting
from comfytunnel.feed import Feed
from comfytunnel.tunnel.holder import holder_of
from comfytunnel.tunnel.listeners import BACKLOG, Listeners
from comfytunnel.tunnel.state import Cause, Code

log = structlog.get_logger(__name__)

BIND_AGAIN = 5.0  # seconds between tries for a port that is taken


@dataclass(frozen=True, slots=True)
class Doorway:
    """What is bound now, and what keeps the rest from being bound."""

    listening: tuple[str, ...] = ()
    cause: Cause | None = None


class Bound:
    """`name` is who listens, in the log. run() is called once; cancel it, then call end_accepting()."""

    def __init__(
        self,
        name: str,
        endpoints: tuple[Endpoint, ...],
        listeners: Listeners,
        factory: Callable[[], asyncio.BaseProtocol],
    ) -> None:
        self.state: Feed[Doorway] = Feed(Doorway())
        self._name = name
        self._endpoints = endpoints
        self._listeners = listeners
        self._factory = factory
        self._causes: dict[Endpoint, Cause] = {}
        self._servers: dict[Endpoint, asyncio.Server] = {}

    async def run(self) -> None:
        """Bind what can be bound, keep trying for the rest, serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            for endpoint in self._endpoints:
                group.create_task(self._keep_bound(endpoint), name=f"{self._name}/bind {endpoint}")
            await asyncio.Event().wait()  # until cancelled: the listeners work by callbacks

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
                        listener=self._name,
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
        # For paths too: create_unix_server removes the file at its close (3.13), under the feet of whoever serves it next.
        # Started once it is ours to close: the call below is a point where we may be cancelled.
        server = await loop.create_server(self._factory, sock=listener, backlog=BACKLOG, start_serving=False)
        self._servers[endpoint] = server
        await server.start_serving()
        self._announce(endpoint, None)

    async def end_accepting(self) -> None:
        """From here on callers wait in the backlog, for whoever serves the socket after us; nobody is lost between."""
        await end_accepting(*self._servers.values())

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
