"""The jobs on disk. The program's SQL is here, in schema.py (the tables), strays.py (a job's row, and what moved jobs leave
behind), outputstore.py (what came home), assetstore.py (uploads), hookstore.py (webhooks), claims.py (Idempotency-Keys)
and attic.py (what is forgotten).

Every change of a job takes the next revision, so the table is the event log: `revision` only pokes, readers ask `since(n)`.

Each method is one function that runs whole on one thread of the store's own, so it is one transaction: two callers never share one,
and a caller that is cancelled leaves either all of it or nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Unpack
from uuid import uuid4

import msgspec

from comfytunnel.decoding import decode, decoder
from comfytunnel.errors import UsageError
from comfytunnel.jobs.claims import Claims
from comfytunnel.jobs.hookstore import HookStore
from comfytunnel.jobs.model import Input, Job, NewJob, NodeTime, Output, Stage, Status
from comfytunnel.jobs.outputstore import OutputStore
from comfytunnel.jobs.transitions import Changes, apply

_jobs = decoder(Job)
_times = decoder(list[NodeTime])
_inputs = decoder(Input)


def _said(name: str) -> str:
    """SQL for a field of a job that has no column of its own. Read of each row in turn: some 5 µs."""
    return f"json_extract(CAST(body AS TEXT), '$.{name}')"


class Store(OutputStore, HookStore, Claims):
    """Open with `await Store.open(path)`; every method may raise StateError (full disk, broken file)."""

    async def add(self, new: NewJob, *, now: datetime, claim: str | None = None) -> Job:
        """Accept a job: on disk when this returns, and with it the `claim` (see `claimed`). Raises UsageError
        (`idempotency_key_reuse`) if that was taken."""
        workflow = msgspec.json.encode(new.workflow)
        job_id = str(uuid4())

        def insert() -> Job:
            if claim is not None:
                self.claim(claim, job_id, now)
            revision = self._next()
            job = Job(
                id=job_id,
                seq=self._one(
                    "SELECT coalesce(max(seq), 0) + 1 FROM (SELECT seq FROM sqlite_sequence WHERE name='jobs')"
                )[0],
                revision=revision,
                status=Status.QUEUED,
                stage=Stage.WAITING,
                tunnel=new.tunnel,
                label=new.label,
                priority=new.priority,
                ttl=new.ttl,
                time_to_run=new.time_to_run,
                fail_fast=new.fail_fast,
                partner_key=new.partner_key,
                webhook=new.webhook is not None,
                created_at=now,
                nodes_total=len(new.workflow),
                retry_of=new.retry_of,
                warnings=new.warnings,
                generated=new.generated,
            )
            self._db.execute(
                "INSERT INTO jobs (seq, id, revision, status, stage, body) VALUES (?, ?, ?, ?, ?, ?)",
                (job.seq, job.id, revision, job.status, job.stage, msgspec.json.encode(job)),
            )
            self._db.execute("INSERT INTO workflows VALUES (?, ?)", (job.id, workflow))
            self._db.executemany(
                "INSERT INTO inputs VALUES (?, ?, ?, ?)",
                [(job.id, n, item.blake3, msgspec.json.encode(item)) for n, item in enumerate(new.inputs)],
            )
            if new.webhook is not None:
                self._add_hook(job.id, new.webhook)
            return job

        return await self._write(insert)

    async def get(self, job_id: str) -> Job | None:
        return await self._run(lambda: self._get(job_id))

    async def listing(
        self,
        *,
        status: Status | None = None,
        prefix: str | None = None,
        label: str | None = None,
        tunnel: str | None = None,
        since: datetime | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> tuple[list[Job], str | None]:
        """Newest first, and the cursor of the next page (None at the end). `prefix`: what the id begins with; `label`: what stands in its label, whatever the
        case; `tunnel`: that it was given to, else asks for; `since`: of this time or later. Raises UsageError for a cursor that is not ours."""
        if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
            raise UsageError(
                f"{cursor[:80]!r} is not a cursor.", hint="Use the `next_cursor` of the page before."
            )
        before = int(cursor) if cursor is not None else 2**62
        which, given = "", list[Any]()
        if status is not None:
            which, given = "status = ? AND", [status]
        if prefix is not None:
            which, given = f"{which} id >= ? AND id < ? AND", [*given, prefix, f"{prefix}g"]  # g: after f
        if label is not None:
            which, given = f"{which} instr(lower({_said('label')}), lower(?)) AND", [*given, label]
        if tunnel is not None:
            which = f"{which} coalesce({_said('place')}, {_said('tunnel')}) = ? AND"
            given = [*given, tunnel]
        if since is not None:
            which, given = (
                f"{which} julianday({_said('created_at')}) >= julianday(?) AND",
                [*given, since.isoformat()],
            )
        sql = f"SELECT body FROM jobs WHERE {which} seq < ? ORDER BY seq DESC LIMIT ?"  # noqa: S608 (no value is put in)
        found = await self._select(sql, [*given, before, limit + 1])
        more = len(found) > limit
        return found[:limit], str(found[limit - 1].seq) if more else None

    async def since(self, revision: int, limit: int = 1000) -> list[Job]:
        """Jobs changed after `revision`, in the order of their latest change."""
        return await self._select(
            "SELECT body FROM jobs WHERE revision > ? ORDER BY revision LIMIT ?", (revision, limit)
        )

    async def told_since(self, revision: int, limit: int) -> tuple[list[Job], dict[str, list[Output]]]:
        """As `since` and `outputs_of`."""

        def read() -> tuple[list[Job], dict[str, list[Output]]]:
            sql = "SELECT body FROM jobs WHERE revision > ? ORDER BY revision LIMIT ?"
            jobs = [_jobs.decode(row[0]) for row in self._db.execute(sql, (revision, limit))]
            return jobs, self._outputs_of([job.id for job in jobs])

        return await self._run(read)

    async def waiting(self) -> list[Job]:
        """Every job that waits, oldest first."""
        return await self._select("SELECT body FROM jobs WHERE stage = 'waiting' ORDER BY seq", ())

    async def active(self) -> list[Job]:
        """Every job that was given to a place and has not ended, oldest first."""
        return await self._select(
            "SELECT body FROM jobs WHERE stage IN ('submitting', 'on_server', 'fetching') ORDER BY seq", ()
        )

    async def in_line(self) -> int:
        """How many jobs wait."""
        return await self._run(lambda: int(self._one("SELECT count(*) FROM jobs WHERE stage = 'waiting'")[0]))

    async def on_server(self) -> int:
        """How many jobs were given to a place and have not ended."""
        sql = "SELECT count(*) FROM jobs WHERE stage IN ('submitting', 'on_server', 'fetching')"
        return await self._run(lambda: int(self._one(sql)[0]))

    async def workflow(self, job_id: str) -> dict[str, Any] | None:
        return await self._run(lambda: self._workflow(job_id))

    async def inputs(self, job_id: str) -> list[Input]:
        """What of the job's graph is a file of ours."""
        return await self._run(lambda: self._inputs(job_id))

    async def brief(self, job_id: str) -> tuple[Job | None, dict[str, Any], list[Input]]:
        """All that is needed to carry a job: itself, its workflow and its inputs."""
        return await self._run(
            lambda: (self._get(job_id), self._workflow(job_id) or {}, self._inputs(job_id))
        )

    async def counts(self) -> dict[Status, int]:
        """How many jobs are in each status; every status is there."""

        def read() -> dict[Status, int]:
            found: dict[str, int] = dict(
                self._db.execute("SELECT status, count(*) FROM jobs GROUP BY status")
            )
            return {status: found.get(status.value, 0) for status in Status}

        return await self._run(read)

    async def move(
        self,
        job_id: str,
        *,
        expect: Stage | set[Stage],
        at: str | None = None,
        canceled: bool | None = None,
        leaving: datetime | None = None,
        times: Sequence[NodeTime] = (),
        **changes: Unpack[Changes],
    ) -> Job | None:
        """Compare and set: the job after the move, or None if its stage is not (any more) as expected. `at`: nor if it may not go to this place
        (any more). `canceled`: nor if a cancel was asked for meanwhile, or was not. `leaving`: now; what it leaves behind at its place is written down with the move. `times`: of its nodes,
        as far as it has run.

        Raises IllegalMoveError for a move that transitions.py does not allow.
        """
        expected = expect if isinstance(expect, set) else {expect}

        def change() -> Job | None:
            job = self._get(job_id)
            if job is None or job.stage not in expected or (at is not None and job.tunnel not in (None, at)):
                return None
            if canceled not in (None, job.cancel_requested):
                return None
            if leaving is not None:
                self._leave(job, leaving)
            after = self._put(apply(job, changes, self._next()))
            if (
                after.stage is Stage.WAITING
            ):  # it will run again: what came home of the lost execution is not of the next one
                self._db.execute("DELETE FROM outputs WHERE job_id = ?", (job_id,))
                self._db.execute("DELETE FROM node_times WHERE job_id = ?", (job_id,))
            elif times:
                body = msgspec.json.encode(times)
                self._db.execute("INSERT OR REPLACE INTO node_times VALUES (?, ?)", (job_id, body))
            if after.ended and after.webhook:
                self._arm(after)
            return after

        return await self._write(change)

    async def node_times(self, job_id: str) -> list[NodeTime]:
        """How long the nodes of a job took that has run, in the order of their beginnings; [] where nothing was heard of it."""

        def read() -> list[NodeTime]:
            row = self._one("SELECT body FROM node_times WHERE job_id = ?", (job_id,))
            return [] if row is None else _times.decode(row[0])

        return await self._run(read)

    async def remark(self, job_id: str, note: str) -> Job | None:
        """Say that ComfyUI was given a job once more than was wanted, be it at its end by now: nothing else of that changes."""

        def change() -> Job | None:
            job = self._get(job_id)
            if job is None:
                return None
            more, said = job.executions + 1, f"{job.note} {note}" if job.note else note
            return self._put(msgspec.structs.replace(job, note=said, executions=more, revision=self._next()))

        return await self._write(change)

    async def doubted(self, since: datetime) -> list[Job]:
        """Jobs of which a POST was given up unheard, but for those that had ended by then."""
        sql = "SELECT body FROM jobs WHERE (ended_at IS NULL OR ended_at >= ?) AND json_extract(CAST(body AS TEXT), '$.doubts') > 0"
        return await self._select(sql, (since.timestamp(),))

    async def remembered(self, key: str, first: str) -> str:
        """A small lasting value; `first` is kept and returned when there is none yet."""

        def keep() -> str:
            self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, first))
            return str(self._one("SELECT value FROM meta WHERE key = ?", (key,))[0])

        return await self._write(keep)

    async def recalled(self, key: str) -> str | None:
        """A small lasting value, if there is one."""

        def read() -> str | None:
            row = self._one("SELECT value FROM meta WHERE key = ?", (key,))
            return None if row is None else str(row[0])

        return await self._run(read)

    async def remember(self, key: str, value: str) -> None:
        """Set a small lasting value."""
        await self._write(lambda: self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value)))

    # What follows runs on the store's thread.

    def _workflow(self, job_id: str) -> dict[str, Any] | None:
        row = self._db.execute("SELECT workflow FROM workflows WHERE job_id = ?", (job_id,)).fetchone()
        return None if row is None else decode(row[0], dict[str, Any])

    def _inputs(self, job_id: str) -> list[Input]:
        rows = self._db.execute("SELECT body FROM inputs WHERE job_id = ? ORDER BY ord", (job_id,))
        return [_inputs.decode(row[0]) for row in rows]

    # What follows runs in the event loop.

    async def _select(self, sql: str, given: Iterable[Any]) -> list[Job]:
        return await self._run(lambda: [_jobs.decode(row[0]) for row in self._db.execute(sql, tuple(given))])
