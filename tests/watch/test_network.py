"""Real netlink, real links, addresses and routes: what a World in a namespace of its own tells of what happens there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.watch.conftest import DEADLINE, ROOT, need, ours
from tests.watch.netns import HOP, WIFI, WIFI_GATE, WIRE, WIRE_GATE, Net, networks

AWAY = {"event": "route", "address": None, "orphaned": False}
MOVED = {"event": "route", "address": WIRE, "orphaned": True}


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    need("ip", root=True)
    async with networks() as made:
        yield made


class Watcher:
    """What the process in the namespace says, line by line."""

    def __init__(self, out: asyncio.StreamReader) -> None:
        self._out = out
        self.events: list[dict[str, Any]] = []

    async def line(self) -> dict[str, Any]:
        async with asyncio.timeout(DEADLINE):
            line = await self._out.readline()
        assert line, "the watcher has ended"
        said: dict[str, Any] = json.loads(line)
        if "event" in said:
            self.events.append(said)
        return said

    async def event(self) -> dict[str, Any]:
        """The next event, after however many looks that told nothing."""
        while "event" not in (said := await self.line()):
            pass
        return said

    async def look(self) -> dict[str, Any] | None:
        """The event of the next look, if it told one."""
        said = await self.line()
        if "look" in said:
            return None
        assert "look" in await self.line(), "one tunnel hears at most one event a look"
        return said


@asynccontextmanager
async def python(net: Net, *words: str) -> AsyncIterator[asyncio.StreamReader]:
    process = await asyncio.create_subprocess_exec(
        "ip", "netns", "exec", net.near, sys.executable, "-m", "tests.watch.watcher", *words,
        cwd=ROOT, env=ours(), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process.stdout
    finally:
        with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
            process.kill()
        await process.wait()


@asynccontextmanager
async def watcher(net: Net, peer: str = HOP, local: str = WIFI) -> AsyncIterator[Watcher]:
    async with python(net, "world", peer, local) as out:
        it = Watcher(out)
        assert await it.look() is None, "the ring at the start shows nothing new"
        yield it


async def test_a_link_that_goes_down_takes_the_route_and_its_return_brings_it_back(net: Net) -> None:
    async with watcher(net) as seen:
        await net.ip("link set wifi down")
        assert await seen.event() == AWAY
        await net.ip("link set wifi up", f"route add default via {WIFI_GATE}")
        assert await seen.event() == {"event": "route", "address": WIFI, "orphaned": False}


async def test_an_address_that_moves_to_the_other_network_leaves_the_link_orphaned_and_is_told_once(
    net: Net,
) -> None:
    async with watcher(net) as seen:
        await net.ip(
            f"addr del {WIFI}/24 dev wifi", "link set wifi down", f"route add default via {WIRE_GATE}"
        )
        assert await seen.look() == MOVED
        await net.ip("addr add 10.77.9.9/32 dev lo")
        assert await seen.look() is None
        await net.ip("link set wire down")
        await seen.event()
        assert seen.events == [MOVED, AWAY]


async def test_a_route_through_the_other_interface_is_told_but_orphans_nothing(net: Net) -> None:
    async with watcher(net) as seen:
        await net.ip(f"route replace default via {WIRE_GATE}")
        assert await seen.event() == {"event": "route", "address": WIRE, "orphaned": False}


async def test_what_happens_elsewhere_on_the_machine_is_nothing(net: Net) -> None:
    async with watcher(net) as seen:
        for change in (
            "link set wire down",
            "link set wire up",
            "addr add 10.77.9.9/32 dev lo",
            "route add 10.98.0.0/16 via " + WIFI_GATE,
        ):
            await net.ip(change)
            assert await seen.look() is None
        await net.ip("link set wifi down")  # the first that matters
        await seen.event()
        assert seen.events == [AWAY]


async def test_fifty_flaps_tell_at_most_one_change(net: Net) -> None:
    """The first hop is a neighbour, so its route returns with the link. A last change marks the end."""
    async with watcher(net, peer=WIFI_GATE) as seen:
        await net.ip(*["link set wifi down", "link set wifi up"] * 50)
        await net.ip(f"addr del {WIFI}/24 dev wifi")
        while not (await seen.event())["orphaned"]:
            pass
        assert len(seen.events) <= 2, "one for the flaps, one for the end"


async def test_messages_that_the_kernel_had_to_drop_ring_all_the_same(net: Net) -> None:
    async with python(net, "flood", "100") as out, asyncio.timeout(DEADLINE):
        assert json.loads(await out.readline()) == {"lost": True, "ended": True}
