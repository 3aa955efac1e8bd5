"""The world with bells and clocks that the test moves: one look for many rings, one Woke for one sleep."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from comfytunnel.tunnel.state import AboutToSleep, Route, RouteChanged, Woke
from comfytunnel.watch import bell_poll
from comfytunnel.watch.sleep import Clocks, Sleep
from comfytunnel.watch.world import MOST, QUIET, SAME_SLEEP, World, WorldEvent
from tests.watch.conftest import DEADLINE

NEVER = 3600.0
GONE = "203.0.113.7"  # RFC 5737: an address that this machine does not have


class Tunnel:
    """A subject whose first hop and link are on loopback, and all that it was told."""

    def __init__(self, *, streaming: bool = False) -> None:
        self.told: list[WorldEvent] = []
        self.link: str | None = "127.0.0.1"
        self._streaming = streaming

    def peer(self) -> str | None:
        return "127.0.0.1"

    def local(self) -> str | None:
        return self.link

    def streaming(self) -> bool:
        return self._streaming

    def tell(self, event: WorldEvent) -> None:
        self.told.append(event)

    async def taken(self) -> None:
        pass


class Hands:
    """Everything of a World that the test moves by hand, and how often it looked."""

    def __init__(self, *, goodbye: Callable[[], Awaitable[None]] | None = None) -> None:
        self.through = self.running = 0.0
        self.looks: asyncio.Queue[float] = asyncio.Queue()
        hands = self

        class Counting(World):
            def look(self) -> None:
                super().look()
                hands.looks.put_nowait(asyncio.get_running_loop().time())

        self.ring: Callable[[], None] | None = None
        self.broken: OSError | None = None

        async def silent() -> None:
            pass

        self.world = Counting(
            bell=self._bell,
            sleep=Sleep(Clocks(lambda: self.through, lambda: self.running)),
            announcer=self,
            interval=NEVER,
            goodbye=goodbye or silent,
        )

    async def _bell(self, ring: Callable[[], None]) -> None:
        if self.broken:
            raise self.broken
        self.ring = ring
        ring()
        await asyncio.Event().wait()

    async def run(self, on_sleep: Callable[[], Awaitable[None]], on_wake: Callable[[], None]) -> None:
        """The announcer: says nothing; the test calls the world's methods itself."""

    def sleeps(self, seconds: float, *, awake: float = 1.0) -> None:
        self.through += seconds + awake
        self.running += awake

    async def looked(self) -> float:
        async with asyncio.timeout(DEADLINE):
            return await self.looks.get()


@asynccontextmanager
async def running(hands: Hands) -> AsyncIterator[None]:
    task = asyncio.create_task(hands.world.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


# --- the network ----------------------------------------------------------------------------------------------------


async def test_a_change_that_concerns_one_tunnel_is_told_to_that_one() -> None:
    hands, moved, still = Hands(), Tunnel(), Tunnel()
    hands.world.add("moved", moved)
    hands.world.add("still", still)
    moved.link = GONE
    with capture_logs() as lines:
        hands.world.look()
    assert moved.told == [RouteChanged(Route("127.0.0.1", known=True), orphaned=True)]
    assert still.told == []
    assert {line["tunnel"]: line["log_level"] for line in lines} == {"moved": "info", "still": "debug"}
    assert all(line["reason"] for line in lines)


async def test_what_was_told_once_is_not_told_again() -> None:
    hands, tunnel = Hands(), Tunnel()
    hands.world.add("t", tunnel)
    tunnel.link = GONE
    hands.world.look()
    hands.world.look()
    assert len(tunnel.told) == 1


async def test_a_tunnel_that_was_removed_hears_nothing() -> None:
    hands, tunnel = Hands(), Tunnel()
    hands.world.add("t", tunnel)
    hands.world.remove("t")
    hands.world.remove("t")
    tunnel.link = GONE
    hands.world.look()
    assert tunnel.told == []


async def test_many_rings_are_one_look_after_a_moment_of_quiet() -> None:
    hands = Hands()
    async with running(hands):
        await hands.looked()
        assert hands.ring is not None
        begin = asyncio.get_running_loop().time()
        for _ in range(50):
            hands.ring()
            await asyncio.sleep(0)
        assert await hands.looked() - begin >= QUIET
        assert hands.looks.empty()


async def test_a_network_that_never_rests_is_looked_at_all_the_same() -> None:
    hands = Hands()
    async with running(hands):
        await hands.looked()
        ring = hands.ring
        assert ring is not None

        async def restless() -> None:
            while True:
                ring()
                await asyncio.sleep(QUIET / 10)  # the load, not a wait

        rings = asyncio.create_task(restless())
        begin = asyncio.get_running_loop().time()
        assert MOST <= await hands.looked() - begin < MOST + 1
        rings.cancel()
        await asyncio.wait([rings])


async def test_a_bell_that_fails_is_replaced_by_polling_and_said_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hands = Hands()
    hands.broken = OSError("no such family")

    async def quick(ring: Callable[[], None], interval: float) -> None:
        while True:
            await asyncio.sleep(QUIET * 1.5)  # slower than the quiet that a look waits for
            ring()

    monkeypatch.setattr(bell_poll, "tick", quick)
    with capture_logs() as lines:
        async with running(hands):
            for _ in range(3):
                await hands.looked()
    assert [line["error"] for line in lines if line["log_level"] == "warning"] == ["no such family"]


# --- sleep ----------------------------------------------------------------------------------------------------------


async def asleep(hands: Hands, tunnel: Tunnel) -> None:
    """logind announces a sleep of ten minutes, and it comes."""
    await hands.world.on_sleep()
    assert tunnel.told == [AboutToSleep(streaming=False)]
    tunnel.told.clear()
    hands.sleeps(600)


@pytest.mark.parametrize("order", ["tick, logind", "logind, tick"])
async def test_all_signs_of_one_sleep_are_one_waking(order: str) -> None:
    hands, tunnel = Hands(), Tunnel()
    hands.world.add("t", tunnel)
    await asleep(hands, tunnel)
    for sign in order.split(", "):
        {"tick": hands.world.on_tick, "logind": hands.world.on_wake}[sign]()
        hands.sleeps(0, awake=SAME_SLEEP / 2)
    assert tunnel.told == [Woke(600.0)]


async def test_the_clocks_alone_suffice() -> None:
    hands, tunnel = Hands(), Tunnel()
    hands.world.add("t", tunnel)
    hands.world.on_tick()
    hands.sleeps(600)
    hands.world.on_tick()
    hands.sleeps(0)
    hands.world.on_tick()
    assert tunnel.told == [Woke(600.0)]


async def test_a_late_tick_alone_suffices() -> None:
    """As on a kernel whose second clock runs on in s2idle, and as after SIGSTOP."""
    hands, tunnel = Hands(), Tunnel()
    hands.world.add("t", tunnel)
    hands.sleeps(0, awake=NEVER + 600)
    hands.world.on_tick()
    hands.sleeps(0, awake=NEVER)
    hands.world.on_tick()
    assert tunnel.told == [Woke(600.0)]


async def test_logind_alone_suffices() -> None:
    """The clocks show nothing: it did not sleep after all, or only for a moment."""
    hands, tunnel = Hands(), Tunnel()
    hands.world.add("t", tunnel)
    await hands.world.on_sleep()
    hands.world.on_wake()
    assert tunnel.told == [AboutToSleep(streaming=False), Woke(0.0)]


async def test_a_sleep_that_was_announced_and_did_not_come_is_told_even_soon_after_another() -> None:
    """The link was closed for it, so somebody has to say that it is wanted again."""
    hands, tunnel = Hands(), Tunnel()
    hands.world.add("t", tunnel)
    hands.sleeps(600)
    hands.world.on_tick()
    await hands.world.on_sleep()
    hands.world.on_wake()
    assert tunnel.told == [Woke(600.0), AboutToSleep(streaming=False), Woke(0.0)]


async def test_logind_is_heard_even_if_its_announcement_was_lost() -> None:
    hands, tunnel = Hands(), Tunnel()
    hands.world.add("t", tunnel)
    hands.world.on_wake()
    hands.sleeps(0, awake=SAME_SLEEP)
    hands.world.on_wake()
    assert tunnel.told == [Woke(0.0), Woke(0.0)]


async def test_two_sleeps_in_a_row_are_two_wakings() -> None:
    hands, tunnel = Hands(), Tunnel()
    hands.world.add("t", tunnel)
    await asleep(hands, tunnel)
    hands.world.on_tick()
    hands.world.on_wake()
    await hands.world.on_sleep()
    hands.sleeps(30)
    hands.world.on_wake()
    hands.world.on_tick()
    assert tunnel.told == [Woke(600.0), AboutToSleep(streaming=False), Woke(30.0)]


async def test_waking_on_another_network_is_told_without_a_bell() -> None:
    hands, tunnel = Hands(), Tunnel()
    hands.world.add("t", tunnel)
    tunnel.link = GONE
    hands.sleeps(600)
    hands.world.on_tick()
    assert tunnel.told == [Woke(600.0), RouteChanged(Route("127.0.0.1", known=True), orphaned=True)]


async def test_before_sleep_each_tunnel_hears_whether_it_streams_and_goodbyes_are_awaited() -> None:
    said: list[str] = []

    async def goodbye() -> None:
        said.append(f"after {[len(tunnel.told) for tunnel in (quiet, busy)]}")

    hands, quiet, busy = Hands(goodbye=goodbye), Tunnel(), Tunnel(streaming=True)
    hands.world.add("quiet", quiet)
    hands.world.add("busy", busy)
    await hands.world.on_sleep()
    assert (quiet.told, busy.told) == ([AboutToSleep(streaming=False)], [AboutToSleep(streaming=True)])
    assert said == ["after [0, 0]"], "while the links still live"
