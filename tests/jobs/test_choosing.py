"""Which of several instances takes a job that asks for none: the rule in tables, and two real ComfyUIs that follow it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from comfytunnel.jobs.choice import Offer, Wish, best, wish_of
from comfytunnel.jobs.model import Input, Job, Stage, Status
from tests.jobs.bench import DEADLINE, picture
from tests.jobs.pair import Pair, pair

XL, FLUX = frozenset({"xl.safetensors"}), frozenset({"flux.gguf"})


@pytest.mark.parametrize(
    ("why", "a", "b", "wish"),
    [
        ("fewest ahead", Offer("a", 0), Offer("b", 1), Wish()),
        ("of equals the first", Offer("a", 1), Offer("b", 1), Wish()),
        ("known before unknown", Offer("a", 9), Offer("b", None), Wish()),
        ("fewest ahead before the model", Offer("a", 0), Offer("b", 1, loaded=XL), Wish(XL)),
        ("the model among equals", Offer("a", 1, loaded=XL), Offer("b", 1, loaded=FLUX), Wish(XL)),
        ("more of its models", Offer("a", 0, loaded=XL | FLUX), Offer("b", 0, loaded=XL), Wish(XL | FLUX)),
        (
            "the model before the inputs",
            Offer("a", 0, loaded=XL),
            Offer("b", 0, there=XL),
            Wish(XL, {"x": 9}),
        ),
        ("the inputs among equals", Offer("a", 0, there=frozenset("x")), Offer("b", 0), Wish(XL, {"x": 9})),
        (
            "more bytes of inputs",
            Offer("a", 0, there=frozenset("y")),
            Offer("b", 0, there=frozenset("x")),
            Wish(inputs={"x": 9, "y": 10}),
        ),
        ("room among equals", Offer("a", 2), Offer("b", 2, room=False, loaded=XL), Wish(XL)),
        (
            "a short queue without room before many strangers",
            Offer("a", 2, room=False),
            Offer("b", 3),
            Wish(),
        ),
    ],
)
def test_the_rule(why: str, a: Offer, b: Offer, wish: Wish) -> None:
    """`a` it is; and the order in which they are looked at matters only among equals."""
    assert best([a, b], wish) == "a", why
    assert best([b, a], wish) == ("b" if why == "of equals the first" else "a"), why


def test_without_a_place_nobody_takes_it() -> None:
    assert best([], Wish()) is None


def test_a_wish_is_read_from_any_input_that_names_a_model_file() -> None:
    """Whatever the node calls it; a graph from outside may hold anything in the place of a node."""
    graph: dict[str, Any] = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd/XL.SafeTensors"}},
        "2": {
            "class_type": "LoraLoader",
            "inputs": {"lora_name": "a.pt", "model": ["1", 0], "strength": 1.0},
        },
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat"}},
        "4": "nothing",
        "5": {"class_type": "X"},
    }
    item = Input(at=("6", "image"), blake3="ab", size=7, name="cat.png")
    assert wish_of(graph, [item]) == Wish(frozenset({"sd/XL.SafeTensors", "a.pt"}), {"ab": 7})


def with_model(graph: dict[str, Any], name: str) -> dict[str, Any]:
    graph["1"]["inputs"]["ckpt_name"] = name
    return graph


async def places(made: Pair, *jobs: Job) -> list[str]:
    return [(await made.job(job)).place or "" for job in jobs]


async def test_two_jobs_run_side_by_side_before_one_waits_behind_another(tmp_path: Path) -> None:
    async with pair(tmp_path) as made:
        jobs = [await made.submit(picture(n, seconds=1.5)) for n in range(4)]
        for job in jobs:
            await made.reaches(job, Stage.ON_SERVER)
        assert sorted(await places(made, *jobs[:2])) == ["default", "other"]
        assert sorted(await places(made, *jobs[2:])) == ["default", "other"]
        for job in jobs:
            assert ((await made.ends(job)).status, (await made.job(job)).executions) == (Status.SUCCEEDED, 1)
        assert len(made.far.executions) == len(made.other_far.executions) == 2


async def test_prompts_of_others_count(tmp_path: Path) -> None:
    """`default` would be the first of equals; somebody else's prompts are there."""
    async with pair(tmp_path) as made:
        stranger = str(uuid4())
        await made.client.submit(picture(9, seconds=20.0, steps=400), stranger, "stranger")
        done = await made.ends(await made.submit(picture(1)))
        assert (done.status, done.place) == (Status.SUCCEEDED, "other")
        await made.client.interrupt(stranger)


async def test_a_job_does_not_queue_behind_strangers_where_it_would_wait_longer(tmp_path: Path) -> None:
    """`default` is full with two of ours and is waited for: three strangers are at `other`. Until they go."""
    async with pair(tmp_path) as made:
        made.other_down()
        ours = [await made.submit(picture(n, seconds=20.0, steps=400)) for n in range(2)]
        await made.reaches(ours[1], Stage.ON_SERVER)
        strangers = [str(uuid4()) for _ in range(3)]
        for each in strangers:
            await made.other_client.submit(picture(9, seconds=20.0, steps=400), each, "stranger")
        job = await made.submit(picture(3))
        bound = await made.submit(picture(4), tunnel="other")
        made.other_up()
        await made.reaches(bound, Stage.ON_SERVER)
        assert (await made.job(job)).stage is Stage.WAITING
        for each in strangers[1:]:
            await made.other_client.delete_pending(each)
        await made.other_client.interrupt(strangers[0])
        assert (await made.ends(job)).place == "other"
        for each_job in ours:
            await made.scheduler.cancel(each_job.id)
        assert (await made.ends(bound)).status is Status.SUCCEEDED


async def test_among_equals_the_one_with_the_model_takes_it(tmp_path: Path) -> None:
    async with pair(tmp_path) as made:
        for tunnel, model in (("default", "flux.gguf"), ("other", "xl.safetensors")):
            await made.ends(await made.submit(with_model(picture(1), model), tunnel=tunnel))
        for n, (model, place) in enumerate([("xl.safetensors", "other"), ("flux.gguf", "default")] * 2):
            assert (await made.ends(await made.submit(with_model(picture(n), model)))).place == place
        plain = await made.ends(await made.submit(picture(7)))
        assert plain.place == "default"


async def test_a_place_in_trouble_holds_nothing_back(tmp_path: Path) -> None:
    """`default` has the shorter queue and does not answer; its gate does not know yet."""
    async with pair(tmp_path) as made:
        await made.reaches(await made.submit(picture(1, seconds=1.0), tunnel="other"), Stage.ON_SERVER)
        await made.stop_far()
        done = await made.ends(await made.submit(picture(2)))
        assert (done.status, done.place) == (Status.SUCCEEDED, "other")


async def test_a_place_that_comes_up_takes_what_waits(tmp_path: Path) -> None:
    async with pair(tmp_path) as made:
        made.other_down()
        jobs = [await made.submit(picture(n, seconds=20.0, steps=400)) for n in range(2)]
        await made.reaches(jobs[1], Stage.ON_SERVER)
        job = await made.submit(picture(3))
        assert (await made.job(job)).stage is Stage.WAITING
        made.other_up()
        done = await made.ends(job)
        assert done.place == "other"
        for each in jobs:
            await made.scheduler.cancel(each.id)
            await made.ends(each)


async def test_a_position_counts_what_is_before_a_job_where_it_may_go(tmp_path: Path) -> None:
    """One on a server counts those of that server; one that asks for a tunnel does not count those that ask for another."""
    async with pair(tmp_path) as made:
        given = [
            await made.submit(picture(n, seconds=20.0, steps=400), tunnel=tunnel)
            for n, tunnel in enumerate(["default", "other", "default", "other"])
        ]
        for job in given:
            await made.reaches(job, Stage.ON_SERVER)
        waiting = [
            await made.submit(picture(9), tunnel=tunnel) for tunnel in ("default", "other", None, "other")
        ]
        positions = [made.scheduler.queue_position(await made.job(job)) for job in given[2:] + waiting]
        assert positions == [1, 1, 2, 2, 6, 4]
        for job in reversed(given + waiting):
            await made.scheduler.cancel(job.id)
        for job in given:
            await made.ends(job)


async def test_many_jobs_on_two_places_run_once_each_and_both_work(tmp_path: Path) -> None:
    async with pair(tmp_path) as made:
        jobs = [await made.submit(picture(n, seconds=0.05)) for n in range(30)]
        async with asyncio.timeout(DEADLINE):
            ends = [await made.ends(job) for job in jobs]
        assert {(job.status, job.executions) for job in ends} == {(Status.SUCCEEDED, 1)}
        ran = made.far.executions + made.other_far.executions
        assert sorted(ran) == sorted(job.id for job in jobs)
        assert min(len(made.far.executions), len(made.other_far.executions)) >= 10
