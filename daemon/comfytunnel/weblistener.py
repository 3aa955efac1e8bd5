"""`[web] listen`: the API on a loopback port, from the config to the sockets. Part of the composition root.

It ties what the rooms have: bound.py keeps the addresses, guard.py and owner.py say who may pass, api/tcp.py answers. No route here,
and no decision about jobs or tunnels.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence

import structlog

from comfytunnel import wire
from comfytunnel.api.context import Context
from comfytunnel.api.tcp import TcpApi
from comfytunnel.config import Tcp, WebConfig
from comfytunnel.ending import end
from comfytunnel.errors import Error, RefusedError, UsageError
from comfytunnel.tunnel.bound import Bound, Doorway
from comfytunnel.tunnel.framing import Head, Refusal
from comfytunnel.tunnel.guard import OTHER_USER, Rules, judge
from comfytunnel.tunnel.listeners import Listeners
from comfytunnel.tunnel.owner import SocketTable, Untold

log = structlog.get_logger(__name__)

HINT = "Only programs of yours may use this port: at http://{address}, without headers that web pages send."
REFUSALS_TOLD = 100  # distinct refusals that are logged, once each


class WebListener:
    """None or one at a time, as the config has it. serve() and leave() are called one after the other, never at once."""

    def __init__(
        self,
        its: Context,
        listeners: Listeners,
        group: asyncio.TaskGroup,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._its = its
        self._listeners = listeners
        self._group = group
        self._on_change = on_change
        self._config = WebConfig()
        self._api: TcpApi | None = None
        self._task: asyncio.Task[None] | None = None
        self._doorway = Doorway()

    def view(self) -> wire.Web | None:
        """Where it listens and what is wrong with it; None where the config wants none."""
        if not self._config.listen:
            return None
        cause = self._doorway.cause
        told = wire.Cause(cause.code.value, cause.message, cause.hint) if cause else None
        return wire.Web(list(self._doorway.listening), told)

    def serve(self, config: WebConfig) -> None:
        """Begin to serve as `config` says. Where it serves already, only the token may differ: leave() came before."""
        self._config = config
        if self._api is not None:
            self._api.token = config.token
        elif config.listen:
            guard = _Guard(config.listen)
            self._api = TcpApi(self._its, guard, config.token)
            self._task = self._group.create_task(self._run(self._api, guard, config), name="web")
        self._on_change()

    async def leave(self, config: WebConfig | None = None) -> None:
        """End what `config` does not want: before the tunnels change, one of which may want the port. None: all of it."""
        if self._task is None or (config is not None and config.listen == self._config.listen):
            return
        task, self._task, self._api = self._task, None, None
        await end([task])
        self._doorway = Doorway()

    async def _run(self, api: TcpApi, guard: _Guard, config: WebConfig) -> None:
        async with api, asyncio.TaskGroup() as group:
            bound = Bound("web", config.listen, self._listeners, api)
            group.create_task(self._follow(bound), name="web/state")
            try:
                await bound.run()
            finally:
                await bound.end_accepting()
                guard.close()

    async def _follow(self, bound: Bound) -> None:
        async for self._doorway in bound.state.changes():
            self._on_change()


class _Guard:
    """The rules of the door, strictly: also a link on another page leads nowhere, and Host must name our port. Satisfies api.tcp.Guard."""

    def __init__(self, listen: tuple[Tcp, ...]) -> None:
        self._rules = Rules(navigation=False, port=listen[0].port)
        self._hint = HINT.format(address=f"localhost:{listen[0].port}")
        self._sockets = SocketTable()
        self._told: set[Refusal] = set()

    def close(self) -> None:
        self._sockets.close()

    def stranger(self, sock: socket.socket) -> Error | None:
        try:
            if self._sockets.is_ours(sock):
                return None
        except Untold:
            pass
        self._tell(OTHER_USER)
        return RefusedError(OTHER_USER.message, hint="Its owner alone may use it.", code=OTHER_USER.code)

    def wrong(
        self, method: str, target: str, minor: int, fields: Mapping[str, Sequence[str]]
    ) -> Error | None:
        refusal = judge(
            self._rules, Head(method, target, minor, {name: list(values) for name, values in fields.items()})
        )
        if refusal is None:
            return None
        self._tell(refusal)
        if refusal.status == 400:
            return UsageError(refusal.message, code=refusal.code)
        return RefusedError(refusal.message, hint=self._hint, code=refusal.code)

    def _tell(self, refusal: Refusal) -> None:
        if refusal not in self._told and len(self._told) < REFUSALS_TOLD:
            self._told.add(refusal)
            log.warning("refused", listener="web", cause=refusal.code, message=refusal.message)
