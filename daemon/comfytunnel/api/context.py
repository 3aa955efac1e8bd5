"""What the handlers may reach: the values that app.py hands over, under one key of the aiohttp application.

The API asks and asks for; it decides nothing about links or jobs. `Tunnels` is all it knows of tunnels, so that this room never
imports the other.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from aiohttp import web

from comfytunnel import wire
from comfytunnel.feed import Feed
from comfytunnel.jobs.assets import Assets
from comfytunnel.jobs.scheduler import Scheduler
from comfytunnel.jobs.store import Store
from comfytunnel.named import Folder

_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")


class Tunnels(Protocol):
    """The tunnels as the API sees them. A name that is not known raises NotFoundError `tunnel_not_found` with the known ones."""

    @property
    def changed(self) -> Feed[int]:
        """Pokes when any tunnel, the set of tunnels or the daemon-wide cause has changed."""

    def names(self) -> list[str]: ...

    def status(self, name: str) -> wire.Tunnel: ...

    def outage(self, name: str) -> wire.Outage | None:
        """The outage that goes on."""

    async def up(self, name: str) -> None:
        """Like the next two: returns when the tunnel's state shows what was asked, not when it is done."""

    async def down(self, name: str) -> None: ...

    async def reconnect(self, name: str) -> None: ...

    async def trust(self, name: str, fingerprint: str | None) -> wire.Trust:
        """What known_hosts holds and what the host shows; with a fingerprint (SHA256:...) that key is trusted from now on. Raises
        Error (host_unreachable, host_key_mismatch, host_key_revoked, state_error, not_ready)."""

    def cause(self) -> wire.Cause | None:
        """The daemon's own trouble (`config_error`, `state_broken`), or None."""


class Outages(Protocol):
    """The outages that have ended, oldest first; `ended` counts those since the daemon's start and pokes at each."""

    @property
    def ended(self) -> Feed[int]: ...

    def all(self) -> Sequence[wire.Outage]: ...

    def since(self, seen: int) -> Sequence[wire.Outage]:
        """Those that `ended` has counted after it stood at `seen`."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """`config`: the path of the config file. `reload` reads it again and says what changed; it raises ConfigError and changes nothing.

    `web`: where the API is served over TCP. `doctor` examines one tunnel, or all of them; it raises NotFoundError as `Tunnels` does, and takes up to a minute.
    `closing` turns true when the daemon stops: every stream ends at once. `streams`, `waiting`: requests that are held open, so that they can be counted.
    """

    tunnels: Tunnels
    store: Store
    assets: Assets
    scheduler: Scheduler
    outages: Outages
    workflows: Folder
    reload: Callable[[], Awaitable[dict[str, Any]]]
    doctor: Callable[[str | None], Awaitable[wire.Doctor]]
    config: str
    started_at: datetime
    web: Callable[[], wire.Web | None] = lambda: None
    closing: Feed[bool] = field(default_factory=lambda: Feed(False))
    streams: set[object] = field(default_factory=set)
    waiting: set[object] = field(default_factory=set)


CONTEXT = web.AppKey("context", Context)
TCP = web.AppKey("tcp", bool)
"""Whether the application is served over TCP: to programs and pages that are trusted less."""


def context(request: web.Request) -> Context:
    return request.app[CONTEXT]


def over_tcp(request: web.Request) -> bool:
    return request.app.get(TCP, False)


def origin(request: web.Request) -> str:
    """Return "http://HOST" as the caller named us: what absolute URLs start with. Nonsense in Host becomes localhost."""
    host = request.headers.get("Host", "")
    return f"http://{host if _HOST.fullmatch(host) else 'localhost'}"
