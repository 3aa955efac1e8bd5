"""A job moves to another instance: by itself what was never sent, by the user's word anything; the old instance is cleared, and there is one end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comfytunnel.demo.comfyui import ComfyUI
from comfytunnel.errors import Error, NotFoundError, RefusedError
from comfytunnel.jobs.assets import Assets
from comfytunnel.jobs.model import Job, Stage, Status, Waits
from comfytunnel.jobs.scheduler import Place
from tests.jobs.bench import DEADLINE, picture
from tests.jobs.pair import Pair, pair
from tests.jobs.test_inputs import inverted, keep, png
from tests.jobs.test_places import Halt
from tests.jobs.test_road import assert_whole

LONG: dict[str, Any] = {"seconds": 20.0, "steps": 400}


async def says(made: Pair, job: Job, wanted: Callable[[Waits], bool]) -> Waits:
    """Wait until the job waits for that."""
    async with asyncio.timeout(DEADLINE):
        async for _ in made.scheduler.live.changes():
            waits = made.scheduler.waits_for(await made.job(job))
            if waits is not None and wanted(waits):
                return waits
    raise AssertionError


def is_idle(far: ComfyUI) -> bool:
    return not far.engine.queue and not far.engine.running


async def cleared(made: Pair, place: str) -> None:
    """Wait until nothing is known to be left behind at a place."""
    async with asyncio.timeout(DEADLINE):
        while await made.store.strays(place):  # noqa: ASYNC110 - no feed tells of it
            await asyncio.sleep(0.02)


async def test_a_job_moved_by_word_ends_once_and_the_old_instance_is_cleared(tmp_path: Path) -> None:
    """`default` goes away while it runs the job, and comes back when the job has ended elsewhere."""
    async with pair(tmp_path) as made:
        job = await made.submit(picture(1, **LONG), tunnel="default")
        await made.reaches(job, Status.RUNNING)
        made.link_down()
        after = await made.scheduler.move_to(job.id, "other")
        assert (after.stage, after.moves, after.tunnel) == (Stage.WAITING, 1, "other")
        assert "default" in (after.note or "")
        there = await made.reaches(job, Status.RUNNING)
        assert (there.place, there.executions) == ("other", 2)
        assert there.prompt_id != job.id
        made.link_up()
        async with asyncio.timeout(DEADLINE):
            await made.far.until(lambda: is_idle(made.far))
        await cleared(made, "default")
        assert (await made.job(job)).status is Status.RUNNING
        await made.scheduler.cancel(job.id)
        assert (await made.ends(job)).status is Status.CANCELED
        assert (made.far.executions, made.other_far.executions) == ([job.id], [there.prompt_id])


async def test_what_a_moved_job_left_pending_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    """The job behind it on the old instance, and the one before, are not touched."""
    async with pair(tmp_path) as made:
        first = await made.submit(picture(1, seconds=2.0), tunnel="default")
        await made.reaches(first, Status.RUNNING)
        second = await made.submit(picture(2), tunnel="default")
        await made.reaches(second, Stage.ON_SERVER)
        await made.scheduler.move_to(second.id, "other")
        done = await made.ends(second)
        assert (done.status, done.place) == (Status.SUCCEEDED, "other")
        assert (await made.ends(first)).status is Status.SUCCEEDED
        await cleared(made, "default")
        assert made.far.executions == [first.id]
        assert len(await made.files()) == 2


async def test_a_job_that_nobody_took_up_goes_on_where_it_was(tmp_path: Path) -> None:
    """Moved to any, the old instance is the first to be back: what ran there meanwhile is not run again."""
    async with pair(tmp_path) as made:
        made.other_down()
        job = await made.submit(picture(1, seconds=0.5))
        await made.reaches(job, Status.RUNNING)
        made.link_down()
        after = await made.scheduler.move_to(job.id, None)
        assert after.stage is Stage.WAITING
        async with asyncio.timeout(DEADLINE):
            await made.far.until(lambda: is_idle(made.far))
        made.link_up()
        done = await made.ends(job)
        assert (done.place, done.executions, done.moves) == ("default", 1, 1)
        await assert_whole(made, done)
        assert await made.store.strays("default") == []


async def test_a_job_whose_submission_is_in_doubt_moves_by_word_and_its_late_start_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The POST arrived, its answer did not, and the instance went away: nobody here knows, and the job says how often it was moved."""
    async with pair(tmp_path) as made:
        real = made.store.move

        async def losing(job_id: str, **given: Any) -> Job | None:
            if given.get("place") == "default":
                made.far.faults.drop_prompt_response = 1
                made.link_down()
            return await real(job_id, **given)

        monkeypatch.setattr(made.store, "move", losing)
        job = await made.submit(picture(1, **LONG), tunnel="default")
        async with asyncio.timeout(DEADLINE):
            await made.far.until(lambda: made.far.executions == [job.id])
        assert (await made.job(job)).stage is Stage.SUBMITTING
        await made.scheduler.move_to(job.id, None)
        there = await made.reaches(job, Status.RUNNING)
        assert (there.place, there.executions, there.moves) == ("other", 1, 1)
        made.link_up()
        await cleared(made, "default")
        assert is_idle(made.far)
        await made.scheduler.cancel(job.id)
        assert (await made.ends(job)).status is Status.CANCELED


async def test_a_move_outlives_a_kill(tmp_path: Path) -> None:
    """What is to be cleared is on disk with the move."""
    async with pair(tmp_path) as made:
        job = await made.submit(picture(1, **LONG), tunnel="default")
        await made.reaches(job, Status.RUNNING)
        made.link_down()
        made.other_down()
        await made.scheduler.move_to(job.id, "other")
        await made.kill()
        await made.start()
        made.other_up()
        made.link_up()
        moved = await made.reaches(job, Status.RUNNING)
        assert moved.place == "other"
        await cleared(made, "default")
        assert is_idle(made.far)
        await made.scheduler.cancel(job.id)
        await made.ends(job)


async def test_outputs_on_their_way_are_left_and_made_again(tmp_path: Path) -> None:
    """Moved while its file came home: what arrived of the first execution is not taken for one of the second."""
    async with pair(tmp_path) as made:
        made.far.faults.stall_view = 1
        job = await made.submit(picture(1), tunnel="default")
        await made.reaches(job, Stage.FETCHING)
        await made.scheduler.move_to(job.id, "other")
        done = await made.ends(job)
        assert (done.status, done.place, done.executions) == (Status.SUCCEEDED, "other", 2)
        outputs = await made.store.outputs(job.id)
        assert len(outputs) == 1
        assert [path for path in await made.files() if path.name.endswith(".part")] == []


async def test_a_restarted_old_instance_has_nothing_to_clear(tmp_path: Path) -> None:
    async with pair(tmp_path) as made:
        job = await made.submit(picture(1, **LONG), tunnel="default")
        await made.reaches(job, Status.RUNNING)
        made.link_down()
        await made.scheduler.move_to(job.id, "other")
        await made.restart_far()
        made.link_up()
        await cleared(made, "default")
        await made.scheduler.cancel(job.id)
        await made.ends(job)


async def test_a_waiting_job_takes_another_tunnel_at_no_risk(tmp_path: Path) -> None:
    async with pair(tmp_path) as made:
        made.link_down()
        job = await made.submit(picture(1), tunnel="default")
        after = await made.scheduler.move_to(job.id, "other")
        assert (after.tunnel, after.moves) == ("other", 0)
        done = await made.ends(job)
        assert (done.place, done.executions, done.note) == ("other", 1, None)


async def test_what_cannot_be_moved_says_why(tmp_path: Path) -> None:
    async with pair(tmp_path) as made:
        ended = await made.ends(await made.submit(picture(1)))
        running = await made.submit(picture(2, **LONG), tunnel="default")
        await made.reaches(running, Status.RUNNING)

        async def refused(job_id: str, tunnel: str | None, kind: type[Error]) -> Error:
            with pytest.raises(kind) as caught:
                await made.scheduler.move_to(job_id, tunnel)
            return caught.value

        assert "retry" in (await refused(ended.id, "other", RefusedError)).hint
        assert "already" in (await refused(running.id, "default", RefusedError)).message
        unknown = await refused(running.id, "othr", NotFoundError)
        assert (unknown.code_on_wire, unknown.hint) == ("unknown_tunnel", "Did you mean other?")
        made.link_down()
        await made.scheduler.cancel(running.id)
        assert "canceled" in (await refused(running.id, "other", RefusedError)).message
        made.link_up()
        await made.ends(running)
        await made.scheduler.remove_place("other")
        alone = await made.submit(picture(3, **LONG))
        await made.reaches(alone, Status.RUNNING)
        assert "no other tunnel" in (await refused(alone.id, None, RefusedError)).message
        await made.scheduler.cancel(alone.id)
        await made.ends(alone)


async def test_after_the_limit_jobs_that_were_never_sent_go_and_the_others_say_so(tmp_path: Path) -> None:
    async with pair(tmp_path, move_after=0.5) as made:
        sent = await made.submit(picture(1, **LONG), tunnel="default")
        await made.reaches(sent, Status.RUNNING)
        made.link_down()
        waiting = await made.submit(picture(2), tunnel="default")
        before = made.scheduler.waits_for(waiting)
        assert before is not None
        assert before.code == "connection_lost"
        done = await made.ends(waiting)
        assert (done.status, done.place, done.executions) == (Status.SUCCEEDED, "other", 1)
        assert "move_after" in (done.note or "")
        waits = await says(made, sent, lambda waits: waits.code == "instance_away")
        assert f"jobs move {sent.id}" in waits.hint
        still = await made.job(sent)
        assert (still.stage, still.place, still.executions) == (Stage.ON_SERVER, "default", 1)
        made.link_up()
        await made.scheduler.cancel(sent.id)
        await made.ends(sent)


async def test_without_a_limit_a_job_waits_for_its_tunnel(tmp_path: Path) -> None:
    async with pair(tmp_path) as made:
        made.link_down()
        job = await made.submit(picture(1), tunnel="default")
        await made.ends(await made.submit(picture(2)))
        waits = made.scheduler.waits_for(await made.job(job))
        assert waits is not None
        assert waits.code == "connection_lost"
        made.link_up()
        assert (await made.ends(job)).place == "default"


async def test_a_tunnel_that_is_taken_away_is_waited_for_and_said(tmp_path: Path) -> None:
    """What was given to it and what asks for it stay; each can be moved, and a tunnel that comes back clears up after itself."""
    async with pair(tmp_path) as made:
        given = await made.submit(picture(1, **LONG), tunnel="default")
        await made.reaches(given, Status.RUNNING)
        asking = await made.submit(picture(2), tunnel="default")
        await made.reaches(asking, Stage.ON_SERVER)
        behind = await made.submit(picture(3), tunnel="default")
        await made.scheduler.remove_place("default")
        for job in (given, behind):
            waits = made.scheduler.waits_for(await made.job(job))
            assert waits is not None
            assert waits.code == "no_tunnel"
            assert f"jobs move {job.id}" in waits.hint
        for job in (behind, asking):
            await made.scheduler.move_to(job.id, None)
            assert (await made.ends(job)).place == "other"
        assert (await made.job(given)).stage is Stage.ON_SERVER
        made.scheduler.add_place(Place("default", made.client, made.gate))
        await cleared(made, "default")
        await made.scheduler.cancel(given.id)
        assert (await made.ends(given)).status is Status.CANCELED
        assert made.far.executions == [given.id]


async def test_a_job_in_a_stations_hands_is_not_sent_where_it_is_no_longer_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as made:
        made.link_down()
        job = await made.submit(picture(1), tunnel="default")
        halt = Halt(made, monkeypatch, "get")
        made.link_up()
        async with asyncio.timeout(DEADLINE):
            await halt.reached.wait()
        await made.scheduler.move_to(job.id, "other")
        halt.released.set()
        done = await made.ends(job)
        assert (done.place, done.executions, done.moves) == ("other", 1, 0)
        assert made.far.prompts_received == 0


async def test_a_move_in_the_moment_of_the_submission_wins_or_is_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job was read for the last time, and `submitting` is about to be written."""
    async with pair(tmp_path) as made:
        job = await made.submit(picture(1), tunnel="default")
        real = made.store.move

        async def late(job_id: str, **given: Any) -> Job | None:
            if given.get("stage") is Stage.SUBMITTING and given["place"] == "default":
                await made.scheduler.move_to(job_id, "other")
            return await real(job_id, **given)

        monkeypatch.setattr(made.store, "move", late)
        done = await made.ends(job)
        assert (done.place, done.executions) == ("other", 1)
        assert made.far.prompts_received == 0


async def test_a_move_does_not_wait_for_an_upload(tmp_path: Path) -> None:
    async with pair(tmp_path) as made:
        made.far.faults.slow_upload = 15.0
        made.link_down()
        await keep(made, png(0x102030))
        graph = inverted("photo.png")
        async with Assets(made.store).bound(graph) as inputs:
            job = await made.submit(graph, inputs=inputs, tunnel="default")
        made.link_up()
        await says(made, job, lambda waits: waits.code == "inputs")
        await made.scheduler.move_to(job.id, "other")
        done = await made.ends(job)
        assert (done.status, done.place, done.executions) == (Status.SUCCEEDED, "other", 1)
        made.far.faults.slow_upload = 0.0
