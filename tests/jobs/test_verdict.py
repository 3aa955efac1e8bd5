"""The pure rules of a job: a walk through any observations ends once, and never runs a job twice without a proven loss."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given as given_by
from hypothesis import settings
from hypothesis import strategies as st

from comfytunnel.jobs.model import MAX_LOSSES, Failure, Job, Stage, Status, Wanted
from comfytunnel.jobs.transitions import MOVES, STATUSES, Changes, IllegalMoveError, apply
from comfytunnel.jobs.verdict import (
    Look,
    Process,
    Seen,
    decide,
    ended,
    given,
    lost,
    not_given,
    overdue,
    stopped,
)
from comfytunnel.words import TERMINAL

NOW = datetime(2026, 5, 6, tzinfo=UTC)
FILE = Wanted(node_id="9", kind="image", filename="a.png")


def a_job(stage: Stage = Stage.WAITING, **changes: object) -> Job:
    status = {Stage.FETCHING: Status.RUNNING, Stage.ENDED: Status.FAILED}.get(stage, Status.QUEUED)
    plain = Job(id="j", seq=1, revision=1, status=status, stage=stage, created_at=NOW)
    return msgspec.structs.replace(plain, **changes)


LOOKS = st.one_of(
    st.sampled_from([Look(seen) for seen in (Seen.PENDING, Seen.RUNNING, Seen.INTERRUPTED, Seen.ABSENT)]),
    st.just(Look(Seen.SUCCEEDED, wanted=(FILE,))),
    st.just(Look(Seen.FAILED, failure=Failure("node_execution_error", "x"))),
)


@settings(max_examples=500)
@given_by(
    st.lists(
        st.tuples(LOOKS, st.sampled_from(Process), st.booleans(), st.integers(0, 9)), min_size=1, max_size=60
    )
)
def test_any_walk_keeps_the_rules(steps: list[tuple[Look, Process, bool, int]]) -> None:
    """Whatever is seen in whatever order: legal moves only, one end, executions within 1 + proven losses."""
    job = a_job()
    for look, process, settled, dice in steps:
        if job.ended:
            break
        changes: Changes | None
        if job.stage is Stage.WAITING:
            changes = {"stage": Stage.SUBMITTING, "attempts": job.attempts + 1}
        elif dice == 0 and job.stage is not Stage.FETCHING:
            changes = {"cancel_requested": True, "status": Status.CANCELING}
        elif job.stage is Stage.FETCHING:
            changes = lost(job, NOW) if dice < 3 else ended(Status.SUCCEEDED, NOW)
        elif job.stage is Stage.SUBMITTING and dice == 1:
            changes = given(job, "j", NOW)
        elif job.stage is Stage.SUBMITTING and dice == 2:
            changes = not_given(job, NOW, refused=True)
        else:
            changes = decide(job, look, NOW, process=process, settled=settled, folder="/x")
            if look.seen is Seen.ABSENT and not settled:
                assert changes is None
        if changes is None:
            continue
        before, job = job, apply(job, changes, job.revision + 1)
        assert job.stage is before.stage or job.stage in MOVES[before.stage]
        assert job.status in STATUSES[job.stage]
        assert job.executions <= 1 + job.losses
        assert job.losses <= MAX_LOSSES + 1
        assert (job.status in TERMINAL) == (job.stage is Stage.ENDED) == (job.completed_at is not None)
        if before.cancel_requested:
            assert job.stage is not Stage.WAITING
            assert job.status not in (Status.QUEUED, Status.RUNNING) or job.stage is Stage.FETCHING


@pytest.mark.parametrize("stage", [Stage.SUBMITTING, Stage.ON_SERVER])
@pytest.mark.parametrize("process", list(Process))
def test_absence_that_is_not_settled_decides_nothing(stage: Stage, process: Process) -> None:
    assert decide(a_job(stage), Look(Seen.ABSENT), NOW, process=process) is None


@pytest.mark.parametrize(
    ("stage", "process", "status", "code"),
    [
        (Stage.SUBMITTING, Process.SAME, Status.QUEUED, None),
        (Stage.SUBMITTING, Process.UNKNOWN, Status.QUEUED, None),
        (Stage.SUBMITTING, Process.OTHER, Status.QUEUED, None),
        (Stage.ON_SERVER, Process.SAME, Status.CANCELED, "removed_on_server"),
        (Stage.ON_SERVER, Process.UNKNOWN, Status.FAILED, "lost_unproven"),
        (Stage.ON_SERVER, Process.OTHER, Status.QUEUED, None),
    ],
)
def test_settled_absence_is_judged_by_the_process(
    stage: Stage, process: Process, status: Status, code: str | None
) -> None:
    job = a_job(stage)
    changes = decide(job, Look(Seen.ABSENT), NOW, process=process, settled=True)
    assert changes is not None
    after = apply(job, changes, 2)
    assert (after.status, after.error.code if after.error else None) == (status, code)
    assert after.losses == (1 if process is Process.OTHER else 0)


def test_a_cancel_is_not_forgotten_by_a_later_move() -> None:
    job = a_job(Stage.SUBMITTING, cancel_requested=True, status=Status.CANCELING)
    assert apply(job, given(job, "j", NOW), 2).status is Status.CANCELING


def test_only_refusals_count_as_refusals() -> None:
    """Tunnel troubles before it must not have the first 500 fail the job."""
    job = a_job()
    for refused in [False, False, False, True, False, True, True]:
        assert job.stage is Stage.WAITING
        job = apply(job, {"stage": Stage.SUBMITTING, "attempts": job.attempts + 1}, 2)
        job = apply(job, not_given(job, NOW, refused=refused), 2)
    assert job.error is not None
    assert (job.status, job.error.code) == (Status.FAILED, "server_error")
    assert "3 times" in job.error.message


def test_a_loss_begins_to_count_refusals_anew() -> None:
    job = a_job(Stage.ON_SERVER, refusals=2)
    assert apply(job, lost(job, NOW), 2).refusals == 0


def test_an_ended_job_wants_nothing_any_more() -> None:
    job = a_job(Stage.FETCHING, wanted=(FILE,))
    assert apply(job, ended(Status.SUCCEEDED, NOW), 2).wanted == ()


def test_an_ended_job_never_changes() -> None:
    for stage in Stage:
        with pytest.raises(IllegalMoveError):
            apply(a_job(Stage.ENDED), {"stage": stage}, 2)


def test_an_id_that_the_server_made_up_is_kept() -> None:
    job = a_job(Stage.SUBMITTING)
    assert apply(job, given(job, "theirs", NOW), 2).prompt_id == "theirs"
    assert apply(job, given(job, "j", NOW), 2).remote_id is None


@pytest.mark.parametrize(
    ("seen", "seconds", "code"),
    [
        (Seen.PENDING, 9.9, None),
        (Seen.PENDING, 10.0, "not_started_in_time"),
        (Seen.RUNNING, 24.9, None),  # it began after five seconds, in time
        (Seen.RUNNING, 25.0, "ran_too_long"),
        (Seen.SUCCEEDED, 99.0, None),
        (Seen.FAILED, 99.0, None),
        (Seen.INTERRUPTED, 99.0, None),
        (Seen.ABSENT, 99.0, None),
    ],
)
def test_a_limit_counts_only_for_what_it_is_a_limit_of(seen: Seen, seconds: float, code: str | None) -> None:
    started = NOW + timedelta(seconds=5) if seen is Seen.RUNNING else None
    job = a_job(Stage.ON_SERVER, ttl=10.0, time_to_run=20.0, started_at=started)
    failure = overdue(job, seen, NOW + timedelta(seconds=seconds))
    assert (failure.code if failure else None) == code
    assert overdue(a_job(Stage.ON_SERVER, started_at=started), seen, NOW + timedelta(days=99)) is None
    asked = msgspec.structs.replace(job, cancel_requested=True)
    assert overdue(asked, seen, NOW + timedelta(days=99)) is None


@pytest.mark.parametrize(
    ("because", "status"),
    [
        (None, Status.CANCELED),
        (Failure("not_started_in_time", "x"), Status.EXPIRED),
        (Failure("ran_too_long", "x"), Status.FAILED),
    ],
)
@pytest.mark.parametrize("way", ["interrupted", "absent", "not given", "lost", "its outputs were lost"])
def test_a_job_that_was_stopped_ends_as_the_one_who_stopped_it_says_however_it_ends(
    because: Failure | None, status: Status, way: str
) -> None:
    stage = {"not given": Stage.SUBMITTING, "its outputs were lost": Stage.FETCHING}.get(way, Stage.ON_SERVER)
    job = a_job(stage, status=Status.CANCELING, cancel_requested=True, because=because)
    ways: dict[str, Callable[[], Changes | None]] = {
        "interrupted": lambda: decide(job, Look(Seen.INTERRUPTED), NOW),
        "absent": lambda: decide(job, Look(Seen.ABSENT), NOW, process=Process.SAME, settled=True),
        "not given": lambda: not_given(job, NOW),
        "lost": lambda: decide(job, Look(Seen.ABSENT), NOW, process=Process.OTHER, settled=True),
        "its outputs were lost": lambda: lost(job, NOW, "its outputs"),
    }
    changes = ways[way]()
    assert changes is not None
    after = apply(job, changes, 2)
    assert (after.status, after.error) == (status, because)
    assert apply(job, stopped(job, NOW), 2).status is status


def test_a_job_that_finishes_before_it_is_stopped_comes_home_and_says_so() -> None:
    because = Failure("ran_too_long", "x")
    job = a_job(Stage.ON_SERVER, status=Status.CANCELING, cancel_requested=True, because=because)
    changes = decide(job, Look(Seen.SUCCEEDED, wanted=(FILE,)), NOW)
    assert changes is not None
    after = apply(job, changes, 2)
    assert (after.stage, after.note) == (Stage.FETCHING, "It finished before the cancel took effect.")
