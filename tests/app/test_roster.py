"""The set of tunnels: changes that come at once, and demand that was there before the tunnel was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from comfytunnel import wire
from comfytunnel.announced import together
from comfytunnel.config import Tcp, TunnelConfig
from comfytunnel.fdstore import Handed
from comfytunnel.jobs.model import NewJob
from comfytunnel.jobs.scheduler import JobsSettings, Scheduler
from comfytunnel.jobs.store import Store
from comfytunnel.notify import Notifier
from comfytunnel.roster import Roster
from comfytunnel.tunnel.listeners import Listeners
from comfytunnel.watch.world import World
from tests.app.world import DEADLINE, workflow
from tests.app.world import World as WholeRoad
from tests.fakes.sshd import free_port


def configs(folder: Path, **ports: int) -> dict[str, TunnelConfig]:
    """Tunnels to a port where nothing listens."""
    return {
        name: TunnelConfig(
            name=name,
            host="127.0.0.1",
            port=free_port(),
            known_hosts=folder / "known_hosts",
            ssh_config=None,
            listen=(Tcp("127.0.0.1", port),),
        )
        for name, port in ports.items()
    }


@asynccontextmanager
async def roster(folder: Path, *, waiting: bool = False) -> AsyncIterator[tuple[Roster, Scheduler]]:
    store = await Store.open(folder / "jobs.db")
    if waiting:
        await store.add(NewJob(workflow=workflow()), now=datetime.now(UTC))
    async with asyncio.TaskGroup() as group:
        scheduler = Scheduler(store, {}, JobsSettings(output_dir=folder))
        made = Roster(scheduler, World(), Listeners(Notifier(), Handed()), group)
        jobs = group.create_task(scheduler.run())
        yield made, scheduler
        await made.stop()
        jobs.cancel()
    await store.close()


async def test_two_reloads_at_once_end_where_the_second_says(tmp_path: Path) -> None:
    """SIGHUP and `config reload` may come together; neither may crash on the other nor leave a tunnel without an owner."""
    first, second, third = free_port(), free_port(), free_port()
    before = configs(tmp_path, a=first, b=second)
    only_a = {"a": before["a"]}
    async with roster(tmp_path) as (made, _):
        await made.apply(before)
        await made.load()
        done = await asyncio.gather(made.apply(only_a), made.apply(only_a))
        assert [each["removed"] for each in done] == [["b"], []]
        await asyncio.gather(made.apply(configs(tmp_path, a=second)), made.apply(configs(tmp_path, a=third)))
        assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "a"] == ["a"]
        async with asyncio.timeout(10):
            while made.status("a").listen != [f"127.0.0.1:{third}"]:  # noqa: ASYNC110 - no feed tells the listener alone
                await asyncio.sleep(0.01)


async def test_a_job_that_waited_before_the_tunnel_was_there_counts_as_demand(tmp_path: Path) -> None:
    """Otherwise the first retries after a start with a full queue would be 30 s apart instead of 2."""
    async with roster(tmp_path, waiting=True) as (made, scheduler):
        await made.apply(configs(tmp_path, a=free_port()))
        async with asyncio.timeout(10):
            await scheduler.demand.until(lambda jobs: jobs.get("a") == 1)
            await made.load()
            driver = made._assemblies["a"]._driver
            await driver.view.until(lambda view: view.tunnel.waiting)


async def test_counters_go_on_when_the_tunnel_is_built_anew_for_another_port(world: WholeRoad) -> None:
    await world.start()
    assert (await world.fetch())[0] == 200
    before = (await world.ask(lambda: world.client.tunnel("default"))).counters
    world.port = free_port()
    world.write_config()
    assert (await world.ask(world.client.reload))["changed"] == ["default"]
    await world.ask(lambda: world.client.wait(timeout=DEADLINE))
    assert (await world.fetch())[0] == 200
    after = (await world.ask(lambda: world.client.tunnel("default"))).counters
    assert after.links == before.links + 1
    assert after.callers > before.callers
    assert after.bytes_in > before.bytes_in


def test_only_what_is_counted_goes_on_and_not_what_is_there_now() -> None:
    earlier = wire.Counters(
        links=2, callers=7, open=3, channels=3, held=1, reconnects={"reset": 1}, down_seconds=1.5
    )
    present = wire.Counters(links=1, callers=4, open=1, channels=2, reconnects={"reset": 2, "silent": 1})
    assert together(earlier, present) == wire.Counters(
        links=3, callers=11, open=1, channels=2, reconnects={"reset": 3, "silent": 1}, down_seconds=1.5
    )


async def test_the_sign_of_life_wants_every_driver_and_waits_for_none_that_has_ended(tmp_path: Path) -> None:
    """A driver that stands still keeps the sign back; a tunnel that a reload takes away meanwhile does not."""
    async with roster(tmp_path) as (made, _):
        await made.apply(configs(tmp_path, a=free_port(), b=free_port()))
        await made.load()
        await asyncio.wait_for(made.beat(), DEADLINE)
        stuck: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        made._assemblies["b"]._driver.beat = lambda: stuck  # type: ignore[method-assign,assignment,return-value]
        sign = asyncio.create_task(made.beat())
        for _ in range(20):  # turns of the loop, many more than the sign takes
            await asyncio.sleep(0)
        assert not sign.done()
        await made.apply({"a": made._configs["a"]})
        await asyncio.wait_for(sign, DEADLINE)
