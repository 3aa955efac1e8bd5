"""Order and hold: pause, drain, resume, priority, place in line, retry; all of it over restarts of the daemon."""

from __future__ import annotations

import asyncio

import pytest

from comfytunnel.errors import NotFoundError, RefusedError, UsageError
from comfytunnel.jobs.model import Job, Mode, Stage, Status, Webhook
from tests.jobs.bench import DEADLINE, Bench, picture
from tests.jobs.test_road import assert_whole


async def three(bench: Bench) -> list[Job]:
    bench.link_down()
    return [await bench.submit(picture(n, prefix=f"p{n}")) for n in range(3)]


async def ran(bench: Bench, jobs: list[Job]) -> list[int]:
    """Bring the link up, let all end, and return the order in which ComfyUI ran them."""
    bench.link_up()
    for done in [await bench.ends(job) for job in jobs]:
        await assert_whole(bench, done)
    ids = [job.id for job in jobs]
    return [ids.index(found) for found in bench.far.executions]


@pytest.mark.parametrize("mode", [Mode.PAUSED, Mode.DRAINING])
@pytest.mark.parametrize("restart", [True, False])
async def test_what_is_on_the_server_ends_and_nothing_follows_until_resumed(
    bench: Bench, mode: Mode, *, restart: bool
) -> None:
    jobs = [await bench.submit(picture(n, seconds=0.3)) for n in range(4)]
    await bench.reaches(jobs[1], Stage.ON_SERVER)
    await bench.scheduler.set_mode(mode)
    if restart:
        await bench.kill()
        await bench.start()
    for job in jobs[:2]:
        await assert_whole(bench, await bench.ends(job))
    async with asyncio.timeout(DEADLINE):
        await bench.scheduler.live.until(lambda _: not bench.scheduler._stations["default"].runs)
    assert bench.far.executions == [job.id for job in jobs[:2]]
    assert bench.scheduler.queue.value.mode is mode
    waits = bench.scheduler.waits_for(await bench.job(jobs[2]))
    assert waits is not None
    assert (waits.code, waits.since) == (mode.value, bench.scheduler.queue.value.since)
    await bench.scheduler.set_mode(Mode.OPEN)
    for job in jobs[2:]:
        await assert_whole(bench, await bench.ends(job))


async def test_a_paused_queue_accepts_and_a_draining_one_does_not(bench: Bench) -> None:
    await bench.scheduler.set_mode(Mode.PAUSED)
    job = await bench.submit(picture())
    await bench.scheduler.set_mode(Mode.DRAINING)
    with pytest.raises(RefusedError) as refused:
        await bench.submit(picture())
    assert refused.value.code_on_wire == "queue_draining"
    assert [found.id for found in await bench.store.since(0)] == [job.id]
    await bench.scheduler.set_mode(Mode.OPEN)
    await assert_whole(bench, await bench.ends(job))


async def test_a_drain_is_kept_by_a_daemon_that_is_asked_before_it_runs(bench: Bench) -> None:
    """The control socket answers before the scheduler runs."""
    await bench.scheduler.set_mode(Mode.DRAINING)
    await bench.kill()
    await bench.start(running=False)
    with pytest.raises(RefusedError):
        await bench.submit(picture())


async def test_a_higher_priority_overtakes_and_the_change_outlives_a_kill(bench: Bench) -> None:
    jobs = await three(bench)
    await bench.scheduler.prioritise(jobs[2].id, 5)
    assert bench.scheduler.queue_position(await bench.job(jobs[2])) == 0
    await bench.kill()
    await bench.start()
    assert await ran(bench, jobs) == [2, 0, 1]


async def test_jobs_stand_where_they_are_moved(bench: Bench) -> None:
    jobs = await three(bench)
    await bench.scheduler.place_first(jobs[2].id)
    await bench.scheduler.place_before(jobs[0].id, None)
    await bench.kill()
    await bench.start()
    assert await ran(bench, jobs) == [2, 1, 0]


async def test_a_job_moved_before_another_takes_its_priority(bench: Bench) -> None:
    jobs = await three(bench)
    await bench.scheduler.prioritise(jobs[1].id, 7)
    itself = await bench.scheduler.place_before(jobs[1].id, jobs[1].id)
    assert itself.priority == 7
    moved = await bench.scheduler.place_before(jobs[2].id, jobs[1].id)
    assert moved.priority == 7
    assert await ran(bench, jobs) == [2, 1, 0]


async def test_only_a_waiting_job_can_be_moved(bench: Bench) -> None:
    done = await bench.ends(await bench.submit(picture()))
    running = await bench.submit(picture(1, seconds=5.0, steps=50))
    await bench.reaches(running, Status.RUNNING)
    for job in (done, running):
        for order in (
            bench.scheduler.prioritise(job.id, 3),
            bench.scheduler.place_first(job.id),
            bench.scheduler.place_before(job.id, None),
        ):
            with pytest.raises(RefusedError) as refused:
                await order
            assert refused.value.code_on_wire == "job_not_waiting"
    with pytest.raises(NotFoundError):
        await bench.scheduler.prioritise("nobody", 3)
    bench.link_down()
    waiting = await bench.submit(picture(2))
    with pytest.raises(NotFoundError):
        await bench.scheduler.place_before(waiting.id, done.id)


async def test_a_retry_is_a_new_job_like_the_old_one(bench: Bench) -> None:
    job = await bench.submit(
        picture(3), label="night", priority=4, ttl=600.0, time_to_run=60.0, tunnel="default"
    )
    done = await bench.ends(job)
    again = await bench.scheduler.retry(done.id)
    assert again.id != done.id
    assert again.retry_of == done.id
    same = ("label", "priority", "ttl", "time_to_run", "tunnel", "fail_fast")
    assert [getattr(again, name) for name in same] == [getattr(done, name) for name in same]
    assert await bench.store.workflow(again.id) == await bench.store.workflow(done.id)
    await bench.ends(again)
    assert bench.far.executions == [done.id, again.id]


async def test_a_retry_takes_its_webhook_along_unless_it_shall_not(bench: Bench) -> None:
    hook = Webhook(url="http://localhost:9/hook")
    done = await bench.ends(await bench.submit(picture(3), webhook=hook))
    assert (await bench.scheduler.retry(done.id)).webhook
    assert not (await bench.scheduler.retry(done.id, hooked=False)).webhook


async def test_only_an_ended_job_can_be_retried(bench: Bench) -> None:
    bench.link_down()
    job = await bench.submit(picture())
    with pytest.raises(RefusedError) as refused:
        await bench.scheduler.retry(job.id)
    assert refused.value.code_on_wire == "job_not_ended"
    with pytest.raises(NotFoundError):
        await bench.scheduler.retry("nobody")


async def test_a_bound_of_waiting_jobs_holds_for_many_at_once(bench: Bench) -> None:
    await bench.kill()
    await bench.start(max_waiting=3)
    bench.link_down()
    results = await asyncio.gather(*(bench.submit(picture(n)) for n in range(8)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, RefusedError)]
    assert (len(refused), {error.code_on_wire for error in refused}) == (5, {"queue_full"})
    assert len(await bench.store.since(0)) == 3
    first = next(result for result in results if isinstance(result, Job))
    await bench.scheduler.cancel(first.id)
    await bench.submit(picture())


async def test_a_claim_is_used_once_even_by_two_at_once_and_names_what_it_made(bench: Bench) -> None:
    submits = [bench.scheduler.submit(bench.new(picture(n)), claim="k") for n in range(4)]
    results = await asyncio.gather(*submits, return_exceptions=True)
    [job] = [result for result in results if isinstance(result, Job)]
    refused = [result for result in results if isinstance(result, UsageError)]
    assert len(refused) == 3
    assert {error.code_on_wire for error in refused} == {"idempotency_key_reuse"}
    assert {error.details["job_id"] for error in refused} == {job.id}
    await bench.kill()
    await bench.start()
    with pytest.raises(UsageError):
        await bench.scheduler.submit(bench.new(picture()), claim="k")
    assert len(await bench.store.since(0)) == 1
