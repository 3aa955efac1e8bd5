"""What is done to the daemon and to what is around it, one function a fault, and what must be true after each.

A fault does its damage, undoes what it must undo, and returns; the soak then expects both tunnels up within `bound` seconds. What
callers may meanwhile see is said in `Leave`, which is taken back a moment after the tunnels are up again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

from comfytunnel import wire
from tests.fakes.relay import Relay
from tests.fakes.sshd import free_port
from tests.soak.ledger import sockets_to
from tests.soak.site import TUNNELS, Broken, Site

SOON = 5.0  # seconds for what takes a moment: the machine may be busy
BACK = 6.0  # seconds: with somebody waiting, tries are at most 2 s apart, and a link that dies young may have failed before
BURST = 200  # callers that connect and reset at once


Links = Literal["lost", "kept", "either"]


@dataclass
class Leave:
    """What callers may see while a fault is at work."""

    refused: bool = False  # nobody listens
    turned_away: bool = False  # 503
    silent: bool = False  # the control socket does not answer
    shortened: bool = False  # the kernel ends the sockets of a killed process in an orderly way


@dataclass(frozen=True)
class Fault:
    """`links`: whether the tunnels may, must or must not have made new ones. `sockets`: whether the websockets' far end goes as well."""

    name: str
    do: Callable[[Site, Leave], Awaitable[None]]
    bound: float  # seconds from its end until everything is up
    links: Links = "lost"
    far_end: bool = False
    once: bool = False  # memory is measured over the life of one process, so it dies early only


ALL: list[Fault] = []


def fault(
    name: str, bound: float, links: Links = "lost", *, far_end: bool = False, once: bool = False
) -> Callable[[Callable[[Site, Leave], Awaitable[None]]], Callable[[Site, Leave], Awaitable[None]]]:
    def enter(do: Callable[[Site, Leave], Awaitable[None]]) -> Callable[[Site, Leave], Awaitable[None]]:
        ALL.append(Fault(name, do, bound, links, far_end, once))
        return do

    return enter


# --- the road --------------------------------------------------------------------------------------------------------


@fault("reset", bound=BACK)
async def reset(site: Site, leave: Leave) -> None:
    site.relay.reset_all()


@fault("silent death", bound=BACK)
async def silence(site: Site, leave: Leave) -> None:
    """Found by the callers' impatience. What sshd keeps of it is ended here, as its own keepalive would in a while."""
    orphans = site.sshd.sessions
    links = await site.links()
    site.relay.swallow()
    await _noticed(site, links, 8)
    for pid in orphans:
        os.kill(pid, signal.SIGKILL)


@fault("refused for a while", bound=BACK)
async def refuse(site: Site, leave: Leave) -> None:
    await _outage(site, refuse_with_reset=False)


@fault("accepted and reset for a while", bound=BACK)
async def refuse_reset(site: Site, leave: Leave) -> None:
    await _outage(site, refuse_with_reset=True)


async def _outage(site: Site, *, refuse_with_reset: bool) -> None:
    """Shorter than `hold`: nobody is turned away. The status must not say "up" meanwhile."""
    await site.relay.refuse(reset=refuse_with_reset)
    try:
        site.relay.reset_all()
        await _all(site, lambda found: found.phase in ("connecting", "waiting"), "seen as away")
        end = asyncio.get_running_loop().time() + site.rng.uniform(1, 7)
        while asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.1)
            for name, found in (await site.ask(site.client.tunnels)).items():
                if found.phase in ("up", "doubtful"):
                    raise Broken(f"{name} is said to be {found.phase} while nothing can be reached")
    finally:
        await site.relay.heal()


@fault("slow line", bound=BACK)
async def slow(site: Site, leave: Leave) -> None:
    """A line that delivers is never torn down, however late its answers are."""
    async with _by_way_of(site, site.thin):
        links = await site.links()
        await asyncio.sleep(site.rng.uniform(6, 10))
        if (now := await site.links()) != links:
            raise Broken(f"links were renewed on a slow line that delivers: {links}, then {now}")


@fault("flurry", bound=BACK)
async def flurry(site: Site, leave: Leave) -> None:
    """One damage upon the other, without waiting; the last one ends whatever was swallowed. A handshake that is swallowed takes its
    15 s, longer than `hold`."""
    leave.turned_away = True
    for _ in range(6):
        match site.rng.choice(["reset", "swallow", "cut", "reconnect", "refuse", "stand still"]):
            case "reset":
                site.relay.reset_all()
            case "swallow":
                site.relay.swallow()
            case "cut":
                await site.sshd.cut()
            case "reconnect":
                await reconnect(site, leave)
            case "refuse":
                await site.relay.refuse()
                site.relay.reset_all()
                await asyncio.sleep(site.rng.uniform(0, 1))
                await site.relay.heal()
            case "stand still":
                leave.silent = True
                os.kill(site.pid, signal.SIGSTOP)
                await asyncio.sleep(site.rng.uniform(0, 1))
                os.kill(site.pid, signal.SIGCONT)
        await asyncio.sleep(site.rng.choice([0.0, 0.01, 0.1, 0.5]))
    await site.settled(25)
    links = await site.links()
    await site.sshd.cut()
    await _noticed(site, links, SOON)


# --- the far end -----------------------------------------------------------------------------------------------------


@fault("sshd's sessions killed", bound=BACK)
async def cut(site: Site, leave: Leave) -> None:
    await site.sshd.cut()


@fault("sshd restarted, same host key", bound=BACK)
async def restart_sshd(site: Site, leave: Leave) -> None:
    await site.sshd.stop()
    await asyncio.sleep(site.rng.uniform(0, 3))
    await site.sshd.start()


@fault("host key changed and trusted", bound=10)
async def change_host_key(site: Site, leave: Leave) -> None:
    leave.turned_away = True
    await site.sshd.change_host_key()
    await site.sshd.cut()
    await _all(site, lambda found: found.phase == "halted", "halted")
    for name, found in (await site.ask(site.client.tunnels)).items():
        if found.cause is None or found.cause.code != "host_key_changed":
            raise Broken(f"{name} is halted for another reason: {found.cause}")
    site.trust()


@fault("ComfyUI restarted", bound=15, links="kept", far_end=True)
async def restart_comfyui(site: Site, leave: Leave) -> None:
    leave.turned_away = True
    await site.comfyui.stop()
    await site.until(lambda seen: seen["comfy"].comfyui.state != "serving", "seen that ComfyUI is away", SOON)
    site.lives.append(len(site.comfyui.executions))
    await site.comfyui.start(port=site.comfyui.port)


# --- the daemon and its machine --------------------------------------------------------------------------------------


@fault("daemon stopped and continued", bound=5, links="either")
async def stand_still(site: Site, leave: Leave) -> None:
    leave.silent = True
    os.kill(site.pid, signal.SIGSTOP)
    await asyncio.sleep(site.rng.uniform(0.5, 12))
    os.kill(site.pid, signal.SIGCONT)


@fault("link dead while the daemon stood still", bound=BACK)
async def sleep_through_it(site: Site, leave: Leave) -> None:
    links = await site.links()
    orphans = site.sshd.sessions
    leave.silent = True
    os.kill(site.pid, signal.SIGSTOP)
    site.relay.swallow()
    await asyncio.sleep(site.rng.uniform(5, 12))
    os.kill(site.pid, signal.SIGCONT)
    await _noticed(site, links, 8)
    for pid in orphans:
        os.kill(pid, signal.SIGKILL)


@fault("killed and started again", bound=10, links="either", once=True)
async def kill(site: Site, leave: Leave) -> None:
    leave.refused = leave.silent = leave.shortened = True
    await site.stop(signal.SIGKILL)
    await asyncio.sleep(site.rng.uniform(0, 1))
    await site.start()


@fault("stopped and started again", bound=10, links="either", once=True)
async def restart(site: Site, leave: Leave) -> None:
    leave.refused = leave.silent = True
    await site.stop()
    await site.start()


@fault("burst of callers that reset", bound=SOON, links="kept")
async def burst(site: Site, leave: Leave) -> None:
    linger = struct.pack("ii", 1, 0)
    for number in range(BURST):
        with socket.create_connection(("127.0.0.1", site.ports[site.rng.choice(TUNNELS)])) as caller:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            if number % 3:
                caller.send(b"GET /big HTTP/1.1\r\nHost: localhost\r\n" + b"\r\n" * (number % 2))
            if number % 5 == 0:
                await asyncio.sleep(0.001)  # some come as far as a channel


# --- asked for -------------------------------------------------------------------------------------------------------


@fault("reload of an unrelated key", bound=SOON, links="kept")
async def reload_unrelated(site: Site, leave: Leave) -> None:
    site.max_ahead = 1 + site.max_ahead % 3
    await _reload(site, changed=[])


@fault("reload with another port here", bound=SOON, links="either")
async def reload_listen(site: Site, leave: Leave) -> None:
    """The old port is closed, so its callers are refused until they know the new one."""
    leave.refused = True
    before = site.ports["files"]
    site.ports["files"] = free_port()
    await _reload(site, changed=["files"])
    await _all(site, lambda found: found.listen != [f"127.0.0.1:{before}"], "moved to the new port")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", before)) == 0:
            raise Broken("the old port still takes callers")


@fault("reload with another endpoint", bound=BACK)
async def reload_endpoint(site: Site, leave: Leave) -> None:
    """By the other way to the same server and back; the doors stay open."""
    async with _by_way_of(site, site.detour):
        pass


@asynccontextmanager
async def _by_way_of(site: Site, relay: Relay) -> AsyncIterator[None]:
    """Both tunnels go by `relay` for the length of the block."""
    try:
        await _move(site, relay)
        yield
    finally:
        await _move(site, site.relay)


async def _move(site: Site, relay: Relay) -> None:
    for name in TUNNELS:
        site.settings[name]["port"] = relay.port
    links = await site.links()
    await _reload(site, changed=list(TUNNELS))
    # Behind the downloads of a slow line nobody may hear of ComfyUI for long.
    await site.settled(2 * SOON, after=links, serving=relay is not site.thin)
    end = asyncio.get_running_loop().time() + SOON
    for other in {site.relay, site.detour, site.thin} - {relay}:
        while still := sockets_to(other.port, site.pid):
            if asyncio.get_running_loop().time() > end:
                raise Broken(f"connections still go by the old way: {dict(still)}")
            await asyncio.sleep(0.1)


async def _reload(site: Site, changed: list[str]) -> None:
    site.write_config()
    told = await site.ask(site.client.reload)
    if sorted(told["changed"]) != sorted(changed):
        raise Broken(f"the reload is said to have changed {told['changed']}, not {changed}")


@fault("reconnect from the API", bound=BACK)
async def reconnect(site: Site, leave: Leave) -> None:
    for name in TUNNELS:
        await site.ask(partial(site.client.reconnect, name))


@fault("down and up from the API", bound=BACK)
async def down_and_up(site: Site, leave: Leave) -> None:
    leave.turned_away = True
    for name in TUNNELS:
        found = await site.ask(partial(site.client.down, name))
        if found.phase != "down":
            raise Broken(f"right after down {name} is {found.phase}")
    await asyncio.sleep(site.rng.uniform(0, 2))
    for name in TUNNELS:
        await site.ask(partial(site.client.up, name))


async def _all(site: Site, wanted: Callable[[wire.Tunnel], bool], what: str) -> None:
    await site.until(lambda seen: all(map(wanted, seen.values())), what, SOON)


async def _noticed(site: Site, links: dict[str, int], bound: float) -> None:
    """Wait until both tunnels have begun other links than those."""
    await site.until(
        lambda seen: all(found.counters.links > links[name] for name, found in seen.items()), "noticed", bound
    )
