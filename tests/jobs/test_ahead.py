"""Short jobs are sent further ahead, so that the server does not idle for a round trip; in doubt one waits behind the running one."""

from __future__ import annotations

import asyncio

import pytest

from comfytunnel.comfy.progress import Finished, Started
from comfytunnel.jobs.ahead import LATELY, MOST, Ahead
from comfytunnel.jobs.model import Stage, Status
from tests.jobs.bench import DEADLINE, Bench, picture
from tests.jobs.test_road import assert_whole


def seen(trip: float, *took: float) -> Ahead:
    """A server at a round trip of `trip` s that has run jobs of these lengths, the last of which ended at 100 s."""
    ahead = Ahead()
    ahead.answered(trip)
    for seconds in took:
        ahead.heard(Started("a"), 100 - seconds)
        ahead.heard(Finished("a"), 100)
    return ahead


@pytest.mark.parametrize(
    ("trip", "took", "allowed"),
    [
        (0.1, 10.0, 1),
        (0.1, 0.2, 1),
        (0.1, 0.15, 2),
        (0.1, 0.08, 3),
        (0.1, 0.01, MOST),
        (0.1, 0.0, MOST),
        (0.005, 0.2, 1),
    ],
)
def test_more_wait_there_where_jobs_are_shorter_than_two_round_trips(
    trip: float, took: float, allowed: int
) -> None:
    assert seen(trip, *[took] * LATELY).allowed(1, 100) == allowed


def test_one_long_job_among_the_last_is_enough_for_one_ahead() -> None:
    assert seen(0.1, 0.01, 5, 0.01).allowed(1, 100) == 1
    assert seen(0.1, 0.01, 0.01).allowed(1, 100) == 1  # too few to judge by


def test_a_job_that_runs_long_counts_before_it_has_ended() -> None:
    ahead = seen(0.1, 0.01, 0.01, 0.01)
    ahead.heard(Started("b"), 100)
    assert ahead.allowed(1, 100.05) == MOST
    assert ahead.allowed(1, 100.5) == 1


def test_an_end_of_another_job_than_the_running_one_says_nothing() -> None:
    ahead = seen(0.1, 5, 5, 5)
    for _ in range(LATELY):
        ahead.heard(Started("b"), 100)
        ahead.heard(Finished("c"), 100)
    assert ahead.allowed(1, 100) == 1


@pytest.mark.parametrize("wanted", [0, 2, 6])
def test_what_the_user_wants_is_never_made_less_and_none_stays_none(wanted: int) -> None:
    assert seen(0.1, 5, 5, 5).allowed(wanted, 100) == wanted
    assert seen(0.1, 0.01, 0.01, 0.01).allowed(wanted, 100) == (max(wanted, MOST) if wanted else 0)


@pytest.mark.parametrize(("max_ahead", "least", "most"), [(1, 3, 1 + MOST), (0, 1, 1)])
async def test_on_a_long_way_short_jobs_fill_the_server_in_their_order(
    bench: Bench, max_ahead: int, least: int, most: int
) -> None:
    await bench.kill()
    await bench.start(max_ahead=max_ahead)
    bench.far.faults.slow_answers = 0.2
    jobs = [await bench.submit(picture(n, seconds=0.3, steps=1)) for n in range(12)]
    there = set()

    def all_ran() -> bool:
        there.add(len(bench.far.engine.queue) + len(bench.far.engine.running))
        return len(bench.far.engine.history) == len(jobs)

    async with asyncio.timeout(DEADLINE):
        await bench.far.until(all_ran)
    assert least <= max(there) <= most
    assert bench.far.executions == [job.id for job in jobs]
    bench.far.faults.slow_answers = 0
    for job in jobs:
        done = await bench.ends(job)
        assert (done.status, done.executions) == (Status.SUCCEEDED, 1)
        await assert_whole(bench, done)


async def test_an_end_that_the_websocket_says_makes_room_before_the_history_has_it(bench: Bench) -> None:
    bench.far.faults.history_late = 2.0
    jobs = [await bench.submit(picture(n, seconds=0.3)) for n in range(3)]
    await bench.reaches(jobs[2], Stage.SUBMITTING, Stage.ON_SERVER)
    assert (await bench.job(jobs[0])).stage is Stage.ON_SERVER
    assert not bench.far.engine.history
    bench.far.faults.history_late = 0
    for job in jobs:
        await assert_whole(bench, await bench.ends(job))
    assert bench.far.executions == [job.id for job in jobs]
