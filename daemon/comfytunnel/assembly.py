"""One configured tunnel put together: driver and link, door, ComfyUI's health, the gate of its jobs, what is announced of it.

Only app.py builds assemblies. Here feeds are tied to gates; nothing here decides about links (machine.py) or jobs. The door stops
before the driver, so that open calls have a link to finish on.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from comfytunnel import announced, wire
from comfytunnel.comfy.health import Health
from comfytunnel.config import TunnelConfig
from comfytunnel.feed import Feed
from comfytunnel.history import on_wire
from comfytunnel.jobs.scheduler import Gate, Place
from comfytunnel.tunnel.dial import Resolver
from comfytunnel.tunnel.door import Door
from comfytunnel.tunnel.driver import Driver
from comfytunnel.tunnel.guard import Rules
from comfytunnel.tunnel.listeners import Listeners
from comfytunnel.tunnel.machine import ALIVE, Policy
from comfytunnel.tunnel.outages import Callers, Ledger, Moved, Outage
from comfytunnel.tunnel.ssh import SshOpener
from comfytunnel.tunnel.state import (
    AboutToSleep,
    Code,
    ConfigChanged,
    Phase,
    Reconnect,
    RouteChanged,
    TrustChanged,
    Tunnel,
    Want,
    Woke,
)
from comfytunnel.tunnel.trust import trust
from comfytunnel.words import ComfyState

if TYPE_CHECKING:
    from comfytunnel.doctor.road import Patient

TRUST_LOOK = 5.0  # seconds between looks at known_hosts while we are halted because of it

_ENDPOINT = (
    "host", "port", "user", "identity_files", "agent", "ssh_config", "known_hosts", "host_key", "host_key_alias",
    "proxy_jump", "proxy_command", "remote", "spares",
)  # fmt: skip
"""Settings that concern the link: the door stays open when they change."""
_CALLERS = ("allowed_hosts", "allowed_origins", "allow_other_users", "hold")
"""Settings that concern callers to come: nobody is disturbed when they change."""


class Assembly:
    """One tunnel. run() is called once; the rest may be called from the event loop at any time."""

    def __init__(
        self,
        config: TunnelConfig,
        place: Place,
        resolver: Resolver,
        listeners: Listeners,
        *,
        busy: Callable[[], bool],
        on_change: Callable[[], None],
        on_outage: Callable[[wire.Outage], None],
        earlier: wire.Counters,
    ) -> None:
        """`on_outage` hears of each outage when it has ended. `earlier`: what was counted before the tunnel was built anew."""
        self.config = config
        self._place = place
        self._resolver = resolver
        self._on_change = on_change
        self._on_outage = on_outage
        self._earlier = earlier
        self._ledger = Ledger()
        self._since = datetime.now(UTC)
        self._ssh = wire.Ssh(host=config.host, port=config.port, user=config.user)
        self._link: Feed[int | None] = Feed(None)
        self.begun = False  # before that it is "down" without anybody having asked for it
        self._peer: str | None = None
        self._local: str | None = None
        self._wanted = False  # by jobs
        self._health = Health(place.client, self._link, busy=busy)
        self._driver = Driver(config.name, self._opener(config), _policy(config), on_move=self._moved)
        self._door = Door(
            config.name,
            config.listen,
            self._driver.view,
            listeners,
            hold=config.hold,
            on_held=lambda held: self._driver.demand("door", held),
            rules=_rules(config),
        )

    def _opener(self, config: TunnelConfig) -> SshOpener:
        def on_banner(said: str) -> None:
            if config is self.config:  # else it is the last word of an endpoint that we have left
                self._ssh = msgspec.structs.replace(self._ssh, banner=said)

        return SshOpener(
            config,
            self._resolver,
            on_refused=lambda: self._health.poke(),
            on_banner=on_banner,
            eager=lambda: self._driver.view.value.tunnel.waiting,
        )

    async def run(self, *, wanted: bool) -> None:
        """Hold the tunnel until cancelled."""
        try:
            await self._run(wanted)
        finally:
            self._tell_outage(
                self._ledger.close(
                    _now(), datetime.now(UTC), self._callers(), self._driver.view.value.tunnel.link
                )
            )

    async def _run(self, wanted: bool) -> None:
        async with asyncio.TaskGroup() as outer:
            outer.create_task(self._driver.run(), name=f"{self.config.name}/driver")
            self._driver.tell(Want(wanted))
            await self._driver.view.until(lambda view: view.tunnel.wanted == wanted)
            self.begun = True
            async with asyncio.TaskGroup() as inner:
                inner.create_task(self._door.run(), name=f"{self.config.name}/door")
                inner.create_task(self._health.run(), name=f"{self.config.name}/health")
                inner.create_task(self._follow_link(), name=f"{self.config.name}/link")
                inner.create_task(self._follow_health(), name=f"{self.config.name}/gate")
                inner.create_task(self._follow_door(), name=f"{self.config.name}/doorway")
                inner.create_task(self._follow_trust(), name=f"{self.config.name}/trust")

    # --- asked ------------------------------------------------------------------------------------------------------

    async def want(self, up: bool) -> None:
        self._driver.tell(Want(up))
        await self._driver.taken()

    async def reconnect(self) -> None:
        self._driver.tell(Reconnect())
        await self._driver.taken()

    async def trust(self, fingerprint: str | None) -> wire.Trust:
        """See tunnel.trust. A key that is trusted by now is tried at once."""
        answer = await trust(self.config, fingerprint)
        if fingerprint is not None:
            self._driver.tell(TrustChanged())
            await self._driver.taken()
        return answer

    def demand(self, waiting: bool) -> None:
        """Jobs want this tunnel, or not any more. It is said at each change of their number: while ComfyUI serves only the first is a reason to look."""
        self._driver.demand("jobs", waiting)
        if waiting and not (self._wanted and self._health.state.value.state is ComfyState.SERVING):
            self._health.poke()
        self._wanted = waiting

    def doubt(self) -> None:
        """A request to ComfyUI failed: look at once."""
        self._health.poke()

    def apply(self, config: TunnelConfig) -> bool:
        """Take up a new config without closing the door. False: it changes the door itself, so build anew."""
        changed = {
            name
            for name in config.__dataclass_fields__
            if getattr(config, name) != getattr(self.config, name)
        }
        if not changed <= {*_ENDPOINT, *_CALLERS, "keepalive_interval"}:
            return False
        self.config = config
        self._door.rules, self._door.hold = _rules(config), config.hold
        self._driver.aim(self._opener(config), _policy(config))
        if changed & set(_ENDPOINT):
            self._ssh = wire.Ssh(host=config.host, port=config.port, user=config.user)
            self._peer = self._local = None
            self._driver.tell(ConfigChanged())
        return True

    async def beat(self) -> None:
        """Return when the driver has had a turn."""
        await self._driver.beat()

    # --- happened ---------------------------------------------------------------------------------------------------

    def _moved(self, moved: Moved) -> None:
        self._tell_outage(self._ledger.saw(moved, datetime.now(UTC), self._callers()))

    def _tell_outage(self, ended: Outage | None) -> None:
        if ended is not None:
            self._on_outage(on_wire(self.config.name, ended, _now()))

    def _callers(self) -> Callers:
        return Callers(self._door.tally.held, self._door.tally.lost)

    async def _follow_link(self) -> None:
        phase: Phase | None = None
        async for view in self._driver.view.changes():
            if view.tunnel.phase is not phase:
                phase, self._since = view.tunnel.phase, datetime.now(UTC)
            if view.link is not None:
                facts = view.link.facts
                self._peer, self._local = facts.peer_address, facts.local_address
                self._ssh = wire.Ssh(
                    facts.host, facts.port, facts.user, facts.host_key, facts.server_version, facts.banner
                )
            elif view.tunnel.phase not in ALIVE:
                self._local = None
            self._open_gate()

    async def _follow_health(self) -> None:
        async for _ in self._health.state.changes():
            self._open_gate()

    async def _follow_door(self) -> None:
        async for _ in self._door.state.changes():
            self._open_gate()

    async def _follow_trust(self) -> None:
        """While a host key halts us, a changed known_hosts may be the user's answer."""
        while True:
            halted = (await self._driver.view.until(lambda view: _untrusted(view.tunnel))).tunnel.link
            before = self._stamp_of_known_hosts()
            while self._stamp_of_known_hosts() == before:
                await asyncio.sleep(TRUST_LOOK)  # a file has no event that every platform would tell
                tunnel = self._driver.view.value.tunnel
                if not _untrusted(tunnel) or tunnel.link != halted:
                    break
            else:
                self._driver.tell(TrustChanged())
                await self._driver.taken()

    def _stamp_of_known_hosts(self) -> tuple[int, int] | None:
        try:
            found = self.config.known_hosts.stat()
        except OSError:
            return None
        # Not the time of its text: a chmod may be the answer, and a copy may keep times.
        return found.st_ctime_ns, found.st_ino

    def _open_gate(self) -> None:
        """Jobs may pass when the link is up, the port is ours and ComfyUI serves. While another program has the port, ComfyUI is
        not asked either: the answer would be that program's."""
        tunnel, doorway = self._driver.view.value.tunnel, self._door.state.value
        # The client calls the first address: one that is not bound yet may turn out to be another program's.
        ours = doorway.cause is None and str(self.config.listen[0]) in doorway.listening
        self._link.set(tunnel.link if tunnel.phase in ALIVE and ours else None)
        serving = self._link.value is not None and self._health.state.value.state is ComfyState.SERVING
        why_not = None if serving else announced.waits(tunnel, doorway, self._health.state.value)
        self._place.gate.set(Gate(self._link.value, serving, why_not))
        self._on_change()

    # --- the world's subject: see watch.world ------------------------------------------------------------------------

    def peer(self) -> str | None:
        return self._peer

    def local(self) -> str | None:
        return self._local

    def streaming(self) -> bool:
        return self._door.streaming

    def tell(self, event: RouteChanged | Woke | AboutToSleep) -> None:
        self._driver.tell(event)

    async def taken(self) -> None:
        await self._driver.taken()

    # --- announced --------------------------------------------------------------------------------------------------

    def outage(self) -> wire.Outage | None:
        """The outage that goes on."""
        current = self._ledger.current(self._callers(), self._driver.view.value.tunnel.link)
        return None if current is None else on_wire(self.config.name, current, _now())

    def status(self) -> wire.Tunnel:
        """The whole of it, for GET /v1/status."""
        found = announced.tunnel(
            self._driver.view.value.tunnel,
            self._door,
            self._health.state.value,
            self._ledger,
            since=self._since,
            remote=str(self.config.remote),
            ssh=self._ssh,
            now=_now(),
        )
        return msgspec.structs.replace(found, counters=announced.together(self._earlier, found.counters))

    def patient(self) -> Patient:
        """What the doctor may look at."""
        from comfytunnel.doctor.road import Patient  # here, because most days nobody asks for a doctor

        return Patient(
            config=self.config,
            view=self._driver.view,
            resolver=self._resolver,
            client=self._place.client,
            status=self.status,
            doorway=lambda: self._door.state.value.cause,
        )


def _now() -> float:
    """The clock of the driver."""
    return asyncio.get_running_loop().time()


def _untrusted(tunnel: Tunnel) -> bool:
    if tunnel.phase is not Phase.HALTED or tunnel.cause is None:
        return False
    return tunnel.cause.code in (Code.HOST_KEY_CHANGED, Code.HOST_KEY_UNKNOWN)


def _rules(config: TunnelConfig) -> Rules:
    return Rules(frozenset(config.allowed_hosts), frozenset(config.allowed_origins), config.allow_other_users)


def _policy(config: TunnelConfig) -> Policy:
    """The seed is drawn anew for each: many daemons behind one relay must not retry in step."""
    return Policy(keepalive=config.keepalive_interval, seed=secrets.randbits(32))
