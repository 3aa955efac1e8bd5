"""The line: higher priority first, then by age or where somebody put a job; there is always room between two."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from comfytunnel.jobs.line import Line, between, key_of
from comfytunnel.jobs.model import Job, Stage, Status

NOW = datetime(2026, 5, 6, tzinfo=UTC)


def a_job(seq: int, priority: int = 0, tunnel: str | None = None, *, hasty: bool = False) -> Job:
    return Job(
        id=f"job{seq}",
        seq=seq,
        revision=seq,
        status=Status.QUEUED,
        stage=Stage.WAITING,
        created_at=NOW,
        priority=priority,
        tunnel=tunnel,
        fail_fast=hasty,
    )


def order(line: Line, jobs: list[Job]) -> list[int]:
    return [job.seq for job in sorted(jobs, key=lambda job: line.ahead(job.id) or 0)]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), max_size=60))
def test_a_job_stands_where_it_was_put_however_often_jobs_are_moved(moves: list[tuple[int, int]]) -> None:
    """Beside a plain list that does the same; 6 is the end of the line."""
    line = Line()
    jobs = {seq: a_job(seq, priority=1 if seq < 3 else 0) for seq in range(1, 7)}
    for job in jobs.values():
        line.add(job)
    wanted = [1, 2, 3, 4, 5, 6]
    for which, to in moves:
        seq, before = which + 1, to + 1
        if seq == before:
            continue
        slot = line.slot(f"job{seq}", f"job{before}" if before < 7 else None)
        assert slot is not None
        jobs[seq] = msgspec.structs.replace(jobs[seq], priority=slot[0], rank=slot[1])
        line.remove(f"job{seq}")
        line.add(jobs[seq])
        wanted.remove(seq)
        wanted.insert(wanted.index(before) if before < 7 else len(wanted), seq)
        assert order(line, list(jobs.values())) == wanted


def test_a_new_job_stands_behind_one_that_was_moved_to_the_end() -> None:
    line = Line()
    jobs = [a_job(seq) for seq in (1, 2, 3)]
    for job in jobs:
        line.add(job)
    for _ in range(50):
        slot = line.slot("job1", None)
        assert slot is not None
        line.remove("job1")
        line.add(msgspec.structs.replace(jobs[0], priority=slot[0], rank=slot[1]))
    late = a_job(4)
    line.add(late)
    assert order(line, [*jobs, late]) == [2, 3, 1, 4]


def test_there_is_always_room_between_two_ranks() -> None:
    low, high = key_of(a_job(7)).rank, key_of(a_job(8)).rank
    for _ in range(500):
        high = between(low, high)
        assert low < high
    for _ in range(500):
        low = between(low, high)
        assert low < high


def test_a_slot_before_a_job_that_does_not_wait_is_none() -> None:
    line = Line()
    line.add(a_job(1))
    assert line.slot("job1", "job2") is None
    assert line.slot("job1", None) == (0, key_of(a_job(1)).rank)


def test_the_first_job_for_a_tunnel_is_the_first_that_may_go_through_it() -> None:
    line = Line()
    for job in (a_job(1, tunnel="b"), a_job(2, tunnel="a"), a_job(3)):
        line.add(job)
    assert (line.first("a"), line.first("b"), line.first("c")) == ("job2", "job1", "job3")
    assert (line.wanting("a"), line.wanting("c")) == (2, 1)


def test_the_hasty_are_known_while_they_stand() -> None:
    line = Line()
    line.add(a_job(1, hasty=True))
    line.add(a_job(2, tunnel="a", hasty=True))
    line.add(a_job(3))
    assert {tunnel: set(ids) for tunnel, ids in line.hasty.items()} == {None: {"job1"}, "a": {"job2"}}
    key = line.remove("job2")
    assert key is not None
    assert not line.hasty["a"]
    line.put_back(key)
    assert line.hasty["a"] == {"job2"}
