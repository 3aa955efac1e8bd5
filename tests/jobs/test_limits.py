"""Those who do not want to wait: time to start, time to run, fail_fast; and keys that are in memory only."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from comfytunnel.errors import StateError, UsageError
from comfytunnel.feed import Feed
from comfytunnel.jobs.model import Job, Mode, Stage, Status, Waits
from comfytunnel.jobs.scheduler import Gate, Place
from tests.jobs.bench import DEADLINE, Bench, picture
from tests.jobs.test_road import assert_whole


def end(job: Job) -> tuple[Status, str | None]:
    return job.status, job.error.code if job.error else None


@pytest.mark.parametrize("restart", [True, False])
async def test_a_job_that_has_not_begun_in_time_expires_while_the_tunnel_is_down(
    bench: Bench, *, restart: bool
) -> None:
    bench.link_down()
    job = await bench.submit(picture(), ttl=0.3)
    other = await bench.submit(picture(1))
    if restart:
        await bench.kill()
        await bench.start()
    done = await bench.ends(job)
    assert end(done) == (Status.EXPIRED, "not_started_in_time")
    assert done.completed_at is not None
    assert (done.completed_at - done.created_at).total_seconds() >= 0.3
    bench.link_up()
    await assert_whole(bench, await bench.ends(other))
    assert bench.far.executions == [other.id]


async def test_a_job_that_waits_on_the_server_is_taken_out_when_its_time_has_passed(bench: Bench) -> None:
    running = await bench.submit(picture(seconds=2.0, steps=100))
    job = await bench.submit(picture(1), ttl=0.5)
    await bench.reaches(job, Stage.ON_SERVER)
    assert end(await bench.ends(job)) == (Status.EXPIRED, "not_started_in_time")
    await assert_whole(bench, await bench.ends(running))
    assert bench.far.executions == [running.id]


async def test_a_job_that_began_in_time_is_not_hurt_by_its_ttl(bench: Bench) -> None:
    job = await bench.submit(picture(seconds=0.8), ttl=0.5)
    done = await bench.ends(job)
    await assert_whole(bench, done)


async def test_a_job_that_runs_for_too_long_is_stopped_and_says_so(bench: Bench) -> None:
    bench.far.faults.lose_interrupts = 1
    job = await bench.submit(picture(seconds=20.0, steps=400), time_to_run=0.3)
    done = await bench.ends(job)
    assert end(done) == (Status.FAILED, "ran_too_long")
    await assert_whole(bench, await bench.ends(await bench.submit(picture(1))))


async def test_a_job_that_ends_before_it_can_be_stopped_has_succeeded(bench: Bench) -> None:
    """It runs over its limit while the tunnel is down: what it made is worth having."""
    job = await bench.submit(picture(seconds=0.4), time_to_run=0.1)
    bench.far.faults.lose_interrupts = 100
    done = await bench.ends(job)
    await assert_whole(bench, done)
    assert done.note == "It finished before the cancel took effect."


async def test_a_limit_is_kept_over_a_kill_between_the_stop_and_its_end(bench: Bench) -> None:
    bench.far.faults.lose_interrupts = 1000
    job = await bench.submit(picture(seconds=20.0, steps=400), time_to_run=0.2)
    await bench.reaches(job, Status.CANCELING)
    await bench.kill()
    bench.far.faults.lose_interrupts = 0
    await bench.start()
    assert end(await bench.ends(job)) == (Status.FAILED, "ran_too_long")


async def test_the_limits_of_the_config_are_for_jobs_that_name_none(bench: Bench) -> None:
    await bench.kill()
    await bench.start(time_to_start=0.3, time_to_run=50.0)
    bench.link_down()
    job = await bench.submit(picture())
    own = await bench.submit(picture(1), ttl=500.0, time_to_run=70.0)
    assert (job.ttl, job.time_to_run, own.ttl, own.time_to_run) == (0.3, 50.0, 500.0, 70.0)
    assert end(await bench.ends(job)) == (Status.EXPIRED, "not_started_in_time")
    assert (await bench.job(own)).status is Status.QUEUED


async def test_a_job_that_fails_fast_ends_at_once_with_the_reason(bench: Bench) -> None:
    bench.gate.set(Gate(None, False, Waits("auth_denied", "The host did not accept our key.")))
    job = await bench.submit(picture(), fail_fast=True)
    assert end(job) == (Status.FAILED, "fail_fast")
    assert job.error is not None
    assert "auth_denied" in job.error.message
    assert "did not accept our key" in job.error.message
    assert bench.scheduler.queue_position(job) is None


async def test_a_job_that_fails_fast_waits_behind_others_but_for_nothing_else(bench: Bench) -> None:
    running = await bench.submit(picture(seconds=2.0))
    await bench.reaches(running, Status.RUNNING)
    behind = [await bench.submit(picture(n), fail_fast=True) for n in (1, 2, 3)]
    assert {job.status for job in behind} == {Status.QUEUED}
    await bench.reaches(behind[0], Stage.ON_SERVER)
    await bench.scheduler.set_mode(Mode.PAUSED)
    for job in behind[1:]:
        assert end(await bench.ends(job)) == (Status.FAILED, "fail_fast")
    await assert_whole(bench, await bench.ends(behind[0]))  # ComfyUI had it: nothing was to wait for


async def test_a_link_that_goes_away_fails_those_that_fail_fast_and_no_others(bench: Bench) -> None:
    running = await bench.submit(picture(seconds=4.0), fail_fast=True)
    await bench.reaches(running, Status.RUNNING)
    await bench.reaches(await bench.submit(picture(1)), Stage.ON_SERVER)
    hasty, patient = await bench.submit(picture(2), fail_fast=True), await bench.submit(picture(3))
    bench.link_down()
    assert end(await bench.ends(hasty)) == (Status.FAILED, "fail_fast")
    bench.link_up()
    for job in (running, patient):
        await assert_whole(bench, await bench.ends(job))


async def test_only_the_tunnel_that_a_hasty_job_wants_counts(bench: Bench) -> None:
    bench.scheduler.add_place(Place("other", bench.client, Feed(Gate(None, False))))
    job = await bench.submit(picture(), fail_fast=True, tunnel="default")
    assert job.status is Status.QUEUED
    lost = await bench.submit(picture(1), fail_fast=True, tunnel="other")
    assert end(lost) == (Status.FAILED, "fail_fast")
    await assert_whole(bench, await bench.ends(job))


async def test_an_end_that_cannot_be_written_is_written_later_and_the_job_is_accepted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full for a moment: the submitter must not hear of a refusal while the job is on disk."""
    bench.link_down()
    waiting = await bench.submit(picture(), ttl=0.2)

    async def full(*_: object, **__: object) -> None:
        failed.set()
        raise StateError("There is no room on the disk.", code="disk_full")

    failed = asyncio.Event()
    with monkeypatch.context() as patch:
        patch.setattr(bench.store, "move", full)
        job = await bench.submit(picture(1), fail_fast=True)
        assert job.status is Status.QUEUED
        failed.clear()
        async with asyncio.timeout(DEADLINE):
            await failed.wait()
    assert end(await bench.ends(job)) == (Status.FAILED, "fail_fast")
    assert end(await bench.ends(waiting)) == (Status.EXPIRED, "not_started_in_time")


# --- keys for partner nodes -------------------------------------------------------------------------------------------


async def with_key(bench: Bench, n: int = 0) -> Job:
    return await bench.scheduler.submit(bench.new(picture(n)), partner_key="sk-secret")


async def forwarding(bench: Bench) -> None:
    await bench.kill()
    await bench.start(forward_partner_key=True)


async def test_a_partner_key_is_refused_unless_the_config_allows_it(bench: Bench) -> None:
    with pytest.raises(UsageError) as refused:
        await with_key(bench)
    assert "forward_partner_key" in refused.value.hint
    assert "sk-secret" not in str(refused.value)
    assert await bench.store.since(0) == []


async def test_a_partner_key_reaches_comfyui_and_no_file_of_ours(bench: Bench) -> None:
    await forwarding(bench)
    job = await with_key(bench)
    await assert_whole(bench, await bench.ends(job))
    [entry] = bench.far.engine.history.values()
    assert entry["prompt"][3]["api_key_comfy_org"] == "sk-secret"
    bench.link_down()
    await bench.scheduler.cancel((await with_key(bench)).id)
    assert bench.scheduler._partner_keys == {}
    await bench.kill()
    for path in bench.folder.glob("jobs.db*"):
        assert b"sk-secret" not in path.read_bytes()
    await bench.start()
    with pytest.raises(UsageError) as refused:
        await bench.scheduler.retry(job.id)
    assert refused.value.code_on_wire == "credential_gone"


async def test_a_restart_before_submission_ends_a_job_with_a_key(bench: Bench) -> None:
    await forwarding(bench)
    bench.link_down()
    job, plain = await with_key(bench), await bench.submit(picture(1))
    await forwarding(bench)
    assert end(await bench.ends(job)) == (Status.FAILED, "credential_gone")
    bench.link_up()
    await assert_whole(bench, await bench.ends(plain))
    assert bench.far.executions == [plain.id]


async def test_a_permission_that_is_taken_back_counts_for_those_that_wait(bench: Bench) -> None:
    await forwarding(bench)
    bench.link_down()
    job = await with_key(bench)
    bench.scheduler.apply(replace(bench.settings, forward_partner_key=False))
    bench.link_up()
    assert end(await bench.ends(job)) == (Status.FAILED, "credential_gone")
    assert bench.far.prompts_received == 0


async def test_a_restart_in_the_doubt_about_a_post_ends_a_job_with_a_key_only_if_it_did_not_arrive(
    bench: Bench,
) -> None:
    await forwarding(bench)
    bench.far.faults.drop_prompt_request = 1
    job = await with_key(bench)
    await bench.reaches(job, Stage.SUBMITTING)
    await forwarding(bench)
    assert end(await bench.ends(job)) == (Status.FAILED, "credential_gone")
    bench.far.faults.drop_prompt_request, bench.far.faults.drop_prompt_response = 0, 1
    before = bench.far.prompts_received
    other = await with_key(bench, 1)
    async with asyncio.timeout(DEADLINE):
        await bench.far.until(lambda: bench.far.prompts_received > before)
    await forwarding(bench)
    await assert_whole(bench, await bench.ends(other))


async def test_a_loss_does_not_lose_the_key(bench: Bench) -> None:
    await forwarding(bench)
    job = await bench.scheduler.submit(bench.new(picture(seconds=1.0)), partner_key="sk-secret")
    await bench.reaches(job, Status.RUNNING)
    await bench.restart_far()
    done = await bench.ends(job)
    assert (done.status, done.losses) == (Status.SUCCEEDED, 1)
    [entry] = bench.far.engine.history.values()
    assert entry["prompt"][3]["api_key_comfy_org"] == "sk-secret"
