"""What must hold at the end of a walk.

Each accepted job has reached exactly one end; it was run at most once more than ComfyUI has provably lost it; if it has succeeded, each of its
outputs is on the disk with the bytes that ComfyUI made in one execution. And nothing ended for a reason that the walk did not give.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from comfytunnel.jobs.model import Job, Output, Status
from tests.walks.world import World

WATCH = """
CREATE TABLE walked (id TEXT, was TEXT, stage TEXT, status TEXT);
CREATE TRIGGER walks AFTER UPDATE ON jobs BEGIN INSERT INTO walked VALUES (new.id, old.stage, new.stage, new.status); END;
"""
"""Every change of a job, written down by the database itself."""


@dataclass
class Asked:
    """What the walk knows of a job that it submitted."""

    kind: str
    label: str
    outputs: int
    canceled_while_waiting: bool = False
    told_to_stop: bool = False


@dataclass
class Judge:
    """`removed`, `interrupted`: ids of jobs that somebody else stopped on the server; `unproven`: a loss may not have been provable, or (`markerless`)
    never was. `overlong`: one POST may have come after the settle time; `doubled`: the job that was therefore run twice, if it was."""

    world: World
    asked: Mapping[str, Asked]
    removed: Set[str]
    interrupted: Set[str]
    unproven: bool
    markerless: bool
    overlong: bool
    doubled: list[Job] = field(default_factory=list)

    def check(self, jobs: Sequence[Job], outputs: Mapping[str, Sequence[Output]]) -> None:
        """Raises AssertionError."""
        ran = Counter(self.world.far.executions)
        by_id = {job.id: job for job in jobs}
        assert set(self.asked) <= set(by_id), "an accepted job is gone"
        with sqlite3.connect(self.world.folder / "jobs.db") as watched:
            moves = watched.execute("SELECT id, was, stage, status FROM walked").fetchall()
        watched.close()
        ends = Counter(job_id for job_id, was, stage, _ in moves if stage == "ended" and was != "ended")
        for job in jobs:
            assert ends[job.id] == 1, f"{job.label} has {ends[job.id]} ends"
            last = {
                (stage, status) for job_id, was, stage, status in moves if job_id == job.id and was == "ended"
            }
            assert last <= {("ended", job.status)}, f"{job.label} was changed after its end: {last}"
            most = 1 + job.losses + self.world.reruns[job.id]
            if self.unproven and self.world.restarts:
                most += (
                    job.doubts
                )  # a POST that was run, and lost before we looked: without a marker nobody can tell
            if self.overlong and job.doubts and ran[job.id] > most:
                most += 1
                self.doubled.append(job)
            assert ran[job.id] <= most, f"{job.label} was run {ran[job.id]} times, {most} are allowed"
            self._check_end(job, ran[job.id])
            if job.status is Status.SUCCEEDED:
                self._check_files(job, outputs.get(job.id, []))
        assert len(self.doubled) <= 1, "one POST was late, and two jobs were run twice"
        left = [path.name for path in (self.world.folder / "pictures").rglob(".*")]
        assert not left, f"left behind: {left}"

    def _check_end(self, job: Job, ran: int) -> None:
        """It ended for a reason that there was."""
        asked = self.asked.get(job.id) or Asked("unheard", job.label or "", 0)
        code = job.error.code if job.error is not None else None
        what = f"{job.label} ({asked.kind}) ended as {job.status} ({code}, {job.note})"
        restarts = self.world.restarts
        assert job.losses <= (0 if self.markerless else restarts), what
        if asked.canceled_while_waiting:
            assert ran == 0, f"{what}, and ran all the same"
        match job.status, code:
            case Status.SUCCEEDED, None:
                assert "fails" not in asked.kind, what
                assert "invalid" not in asked.kind, what
                assert "endless" not in asked.kind, what
                assert not asked.told_to_stop or "before the cancel" in (job.note or ""), what
            case Status.CANCELED, None:
                assert asked.told_to_stop or asked.kind == "unheard" or job.cancel_requested, what
            case Status.CANCELED, "removed_on_server":
                assert job.id in self.removed, what
            case Status.CANCELED, "interrupted_on_server":
                assert job.id in self.interrupted, what
            case Status.EXPIRED, "not_started_in_time":
                assert job.ttl is not None, what
            case Status.FAILED, "node_execution_error":
                assert "fails" in asked.kind or asked.kind == "unheard", what
            case Status.FAILED, "invalid_workflow":
                assert "invalid" in asked.kind or asked.kind == "unheard", what
            case Status.FAILED, "lost_repeatedly":
                assert restarts >= 3, what
            case Status.FAILED, "lost_unproven":
                assert self.unproven, what
                assert restarts or job.id in self.removed, what
            case Status.FAILED, "output_missing":
                assert self.unproven, what
                assert restarts, what
            case _:
                raise AssertionError(what)

    def _check_files(self, job: Job, outputs: Sequence[Output]) -> None:
        asked = self.asked.get(job.id)
        assert asked is None or len(outputs) == asked.outputs, f"{job.label} has {len(outputs)} outputs"
        assert len({output.path for output in outputs}) == len(outputs)
        runs = set()
        for output in outputs:
            there = Path(output.path).read_bytes()
            assert there in self.world.made, f"{output.path} is nothing that ComfyUI made"
            whose, run = self.world.made[there]
            runs.add(run)
            assert whose == job.id, f"{output.path} is another job's"
            assert hashlib.sha256(there).hexdigest() == output.sha256
        assert len(runs) == 1, f"the outputs of {job.label} come from different executions"
