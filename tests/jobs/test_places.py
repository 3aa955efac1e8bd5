"""A place that goes away at any moment takes no job with it: what waits stands in line again, what was canceled is known."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from comfytunnel.comfy.client import Client
from comfytunnel.demo.comfyui import ComfyUI
from comfytunnel.feed import Feed
from comfytunnel.jobs.model import Job, Stage, Status
from comfytunnel.jobs.scheduler import Gate, Place
from tests.jobs.bench import DEADLINE, Bench, picture
from tests.jobs.test_road import assert_whole


class Halt:
    """Lets a method of the store do its work, but keeps the caller from hearing of it: there somebody is cancelled."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch, method: str, **wanted: Any) -> None:
        self.reached = asyncio.Event()
        self.released = asyncio.Event()
        real = getattr(bench.store, method)

        async def halting(*args: Any, **given: Any) -> Any:
            result = await real(*args, **given)
            if wanted.items() <= given.items() and not self.reached.is_set():
                self.reached.set()
                await self.released.wait()
            return result

        monkeypatch.setattr(bench.store, method, halting)


@pytest.mark.parametrize("comes_back", [True, False])
async def test_a_job_that_was_just_being_given_out_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, comes_back: bool
) -> None:
    """At the same place when it comes back, else at another one."""
    bench.link_down()
    job = await bench.submit(picture())
    halt = Halt(bench, monkeypatch, "get")
    bench.link_up()
    async with asyncio.timeout(DEADLINE), ComfyUI(bench.folder / "other") as other:
        await halt.reached.wait()
        client = Client(other.url)
        await bench.scheduler.remove_place("default")
        place = Place("default", bench.client, bench.gate)
        bench.scheduler.add_place(place if comes_back else Place("other", client, Feed(Gate(1, True))))
        done = await bench.ends(job)
        assert (done.status, done.executions) == (Status.SUCCEEDED, 1)
        assert done.place == ("default" if comes_back else "other")
        await bench.scheduler.remove_place("other")
        await client.close()


async def test_a_job_that_just_began_to_wait_again_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.far.faults.drop_prompt_request = 1
    halt = Halt(bench, monkeypatch, "move", stage=Stage.WAITING)
    job = await bench.submit(picture())
    async with asyncio.timeout(DEADLINE):
        await halt.reached.wait()
    await bench.scheduler.remove_place("default")
    bench.scheduler.add_place(Place("default", bench.client, bench.gate))
    await assert_whole(bench, await bench.ends(job))


async def test_a_job_in_the_hands_of_another_place_is_not_given_out_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It still waits on disk while `default` is about to take it and a third place comes and goes."""
    bench.link_down()
    job = await bench.submit(picture(seconds=0.3))
    halt = Halt(bench, monkeypatch, "get")
    bench.link_up()
    async with asyncio.timeout(DEADLINE), ComfyUI(bench.folder / "other") as other:
        await halt.reached.wait()
        client = Client(other.url)
        place = Place("other", client, Feed(Gate(1, True)))
        bench.scheduler.add_place(place)
        await bench.scheduler.remove_place("other")
        bench.scheduler.add_place(place)
        bench.scheduler.add_place(place)
        assert bench.scheduler.queue_position(job) is None
        halt.released.set()
        await assert_whole(bench, await bench.ends(job))
        assert other.prompts_received == 0
        await bench.scheduler.remove_place("other")
        await client.close()


async def test_a_cancel_while_a_place_opens_reaches_comfyui(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await bench.submit(picture(seconds=20.0, steps=400))
    await bench.reaches(job, Status.RUNNING)
    await bench.scheduler.remove_place("default")
    real = bench.store.active

    async def active() -> list[Job]:
        """Before the place hears what was read, somebody cancels."""
        jobs = await real()
        assert (await bench.scheduler.cancel(job.id)).status is Status.CANCELING
        return jobs

    monkeypatch.setattr(bench.store, "active", active)
    bench.scheduler.add_place(Place("default", bench.client, bench.gate))
    done = await bench.ends(job)
    assert (done.status, done.error) == (Status.CANCELED, None)
    assert len(bench.far.executions) == 1
