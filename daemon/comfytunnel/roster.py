"""Which tunnels there are: the one owner of the assemblies and their tasks, and what the API sees of them.

A tunnel is known, and its place is open for jobs, as soon as the config names it; the assembly behind it follows when the SSH library
is loaded, so that the control socket answers first.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from comfytunnel import wire
from comfytunnel.comfy.client import Client
from comfytunnel.config import Endpoint, TunnelConfig, Unix
from comfytunnel.ending import end
from comfytunnel.errors import Error, NotFoundError, RefusedError
from comfytunnel.feed import Feed
from comfytunnel.jobs.model import Waits
from comfytunnel.jobs.scheduler import Gate, Place, Scheduler
from comfytunnel.tunnel.listeners import Listeners
from comfytunnel.watch.world import World
from comfytunnel.words import Action

if TYPE_CHECKING:
    from comfytunnel.assembly import Assembly
    from comfytunnel.doctor.road import Patient


class Roster:
    """The set of tunnels as the API sees it, and the owner of their tasks. Satisfies api.context.Tunnels."""

    def __init__(
        self,
        scheduler: Scheduler,
        world: World,
        listeners: Listeners,
        group: asyncio.TaskGroup,
        on_outage: Callable[[wire.Outage], None] = lambda _: None,
    ) -> None:
        self.changed: Feed[int] = Feed(0)
        self._scheduler = scheduler
        self._world = world
        self._listeners = listeners
        self._group = group
        self._on_outage = on_outage
        self._started = datetime.now(UTC)
        self._configs: dict[str, TunnelConfig] = {}
        self._wanted: dict[str, bool] = {}
        self._places: dict[str, Place] = {}
        self._assemblies: dict[str, Assembly] = {}
        self._counted: dict[str, wire.Counters] = {}  # by assemblies that others have taken the place of
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._make: Any = None  # the module that is heavy to import, once it is there
        self._resolver: Any = None
        self._cause: wire.Cause | None = None
        self.loaded = asyncio.Event()  # what is heavy is there, and every tunnel with it
        self._changing = asyncio.Lock()  # one change of the set at a time: each awaits in the middle

    # --- as the API sees it -----------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        return list(self._configs)

    def status(self, name: str) -> wire.Tunnel:
        found = self._find(name)
        assembly = self._assemblies.get(name)
        if assembly is not None and assembly.begun:
            return assembly.status()
        return wire.Tunnel(  # the first moments, while the SSH library is still being loaded
            phase="connecting",
            since=self._started,
            cause=None,
            next=wire.Next(Action.CONNECT),
            comfyui=wire.ComfyUI(),
            rtt_ms=None,
            listen=[],
            remote=str(found.remote),
            ssh=wire.Ssh(host=found.host, port=found.port, user=found.user),
            counters=self._counted.get(name, wire.Counters()),
        )

    def outage(self, name: str) -> wire.Outage | None:
        self._find(name)
        return self._assemblies[name].outage() if name in self._assemblies else None

    async def up(self, name: str) -> None:
        await self._want(name, True)

    async def down(self, name: str) -> None:
        await self._want(name, False)

    async def reconnect(self, name: str) -> None:
        if self.status(name).phase == "down":
            raise RefusedError(
                f"{name} is down because it was told so, and reconnect makes no tunnel that nobody wants.",
                hint=f"Run: comfytunnel up {name}",
                code="tunnel_down",
            )
        if name in self._assemblies:
            await self._assemblies[name].reconnect()

    async def trust(self, name: str, fingerprint: str | None) -> wire.Trust:
        self._find(name)
        if name not in self._assemblies:
            raise Error(
                "The SSH library is still being loaded.", hint="Try again in a second.", code="not_ready"
            )
        return await self._assemblies[name].trust(fingerprint)

    def cause(self) -> wire.Cause | None:
        return self._cause

    def _find(self, name: str) -> TunnelConfig:
        try:
            return self._configs[name]
        except KeyError:
            known = ", ".join(self._configs) or "none"
            raise NotFoundError(
                f"There is no tunnel {name!r}.", hint=f"Known: {known}.", code="tunnel_not_found"
            ) from None

    async def _want(self, name: str, up: bool) -> None:
        self._find(name)
        self._wanted[name] = up
        if name in self._assemblies:
            await self._assemblies[name].want(up)

    # --- as the app sees it -----------------------------------------------------------------------------------------

    async def patients(self, name: str | None) -> list[Patient]:
        """What the doctor may look at: one tunnel, or all of them. Waits for the SSH library. Raises NotFoundError."""
        if name is not None:
            self._find(name)
        await self.loaded.wait()
        return [
            assembly.patient() for key, assembly in self._assemblies.items() if name is None or key == name
        ]

    def poke(self) -> None:
        self.changed.set(self.changed.value + 1)

    def trouble(self, cause: wire.Cause | None) -> None:
        """The daemon's own trouble, or the end of it."""
        if cause != self._cause:
            self._cause = cause
            self.poke()

    async def load(self) -> None:
        """Import what is heavy, in a thread: the control socket answers meanwhile. Then start what waits for it."""
        made = await asyncio.to_thread(importlib.import_module, "comfytunnel.assembly")
        async with self._changing:
            self._make, self._resolver = made, made.Resolver()
            for name in self._configs:
                self._start(name)
            self.loaded.set()

    async def apply(
        self, configs: Mapping[str, TunnelConfig], besides: Collection[Endpoint] = ()
    ) -> dict[str, list[str]]:
        """Make the tunnels those of `configs`. Returns names under added, removed, changed; the rest is not disturbed. `besides`: addresses
        that are wanted too, by others."""
        async with self._changing:
            return await self._apply(configs, besides)

    async def _apply(
        self, configs: Mapping[str, TunnelConfig], besides: Collection[Endpoint]
    ) -> dict[str, list[str]]:
        done: dict[str, list[str]] = {"added": [], "removed": [], "changed": []}
        for name in [name for name in self._configs if name not in configs]:
            await self._scheduler.remove_place(name)
            await self._stop(name)
            del self._configs[name], self._places[name]
            self._counted.pop(name, None)
            done["removed"].append(name)
        self._listeners.retain({*besides, *(endpoint for new in configs.values() for endpoint in new.listen)})
        for name, new in configs.items():
            old = self._configs.get(name)
            if old == new:
                continue
            done["added" if old is None else "changed"].append(name)
            self._configs[name] = new
            if name in self._assemblies and self._assemblies[name].apply(new):
                continue
            await self._scheduler.remove_place(name)
            await self._stop(name)
            gate = Feed(Gate(None, False, _CONNECTING))
            self._places[name] = Place(
                name, _client_for(new), gate, partial(self._doubt, name), partial(self._address, name)
            )
            self._scheduler.add_place(self._places[name])
            if self._make is not None:
                self._start(name)
        self.poke()
        return done

    async def beat(self) -> None:
        """Return when every driver has had a turn; one that ends meanwhile is not waited for."""
        for name, assembly in list(self._assemblies.items()):
            turn = asyncio.create_task(assembly.beat(), name=f"{name}/beat")
            try:
                await asyncio.wait({turn, self._tasks[name]}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await end([turn])

    def demand(self, jobs: Mapping[str, int]) -> None:
        for name, assembly in self._assemblies.items():
            assembly.demand(jobs.get(name, 0) > 0)

    def _doubt(self, name: str) -> None:
        if name in self._assemblies:
            self._assemblies[name].doubt()

    def _address(self, name: str) -> str:
        """Which ComfyUI a tunnel leads to: its config may change under it."""
        found = self._configs[name]
        return f"{found.host}:{found.port} {found.remote}"

    def _start(self, name: str) -> None:
        assembly: Assembly = self._make.Assembly(
            self._configs[name],
            self._places[name],
            self._resolver,
            self._listeners,
            busy=lambda: self._scheduler.demand.value.get(name, 0) > 0,
            on_change=self.poke,
            on_outage=self._on_outage,
            earlier=self._counted.get(name, wire.Counters()),
        )
        self._assemblies[name] = assembly
        self._world.add(name, assembly)
        wanted = self._wanted.setdefault(name, True)
        self._tasks[name] = self._group.create_task(assembly.run(wanted=wanted), name=name)
        self._tasks[name].add_done_callback(lambda _: self.poke())
        assembly.demand(
            self._scheduler.demand.value.get(name, 0) > 0
        )  # jobs may have waited for it before it was there

    async def _stop(self, *names: str) -> None:
        """End these tunnels at once: our own calls first, then the doors, each with its moment for the calls of others."""
        tasks = []
        stopped = {name: self._assemblies.pop(name) for name in names if name in self._assemblies}
        for name in names:
            self._world.remove(name)
            if name in self._places:
                await self._places[name].client.close()
            if name in self._tasks:
                tasks.append(self._tasks.pop(name))
        await end(tasks)
        for name, assembly in stopped.items():
            self._counted[name] = assembly.status().counters

    async def stop(self) -> None:
        """End all of them."""
        self._listeners.close()  # the doors have their own until they end: then nobody here holds a port
        await self._stop(*self._configs)


def _client_for(found: TunnelConfig) -> Client:
    """ComfyUI's client, through the door like any other program."""
    endpoint = found.listen[0]
    if isinstance(endpoint, Unix):
        return Client("http://localhost", unix_socket=str(endpoint.path))
    return Client(f"http://{endpoint}")


_CONNECTING = Waits("connecting", "The tunnel is connecting.")
