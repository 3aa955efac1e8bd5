"""The jobs on disk: with assetstore.py, which goes through here, the only SQL of the program (schema.py holds the tables).

One SQLite file, WAL, synchronous=FULL: what a method has returned survives a power cut. Every change of a job takes the next
revision, so the table is the event log: `revision` only pokes, readers ask `since(n)`.

Each method is one function that runs whole on one thread of the store's own, so it is one transaction: two callers never share one,
and a caller that is cancelled leaves either all of it or nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, Unpack
from uuid import uuid4

import msgspec

from comfytunnel.errors import StateError, UsageError
from comfytunnel.feed import Feed
from comfytunnel.jobs.model import Changes, Input, Job, NewJob, Output, Stage, Status, apply
from comfytunnel.jobs.schema import open_database, translated

T = TypeVar("T")

_jobs = msgspec.json.Decoder(Job)
_outputs = msgspec.json.Decoder(Output)
_inputs = msgspec.json.Decoder(Input)


class Store:
    """Open with `await Store.open(path)`; every method may raise StateError (full disk, broken file)."""

    notice: str | None
    """What the user must be told about the opening (a broken database was moved aside), or None."""

    revision: Feed[int]
    """The revision of the latest change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._db: sqlite3.Connection
        self._count = 0

    @classmethod
    async def open(cls, path: Path) -> Store:
        """Open or make the database; a broken one is moved aside (see `notice`), never deleted.

        Raises StateError: the folder is not writable, the disk is full, or the file was written by a newer version.
        """
        store = cls(path)

        def begin() -> str | None:
            store._db, notice = open_database(path, datetime.now(UTC))
            store._count = store._one("SELECT revision FROM counter")[0]
            return notice

        try:
            store.notice = await store._run(begin)
        except BaseException:
            store._thread.shutdown(wait=False)
            raise
        store.revision = Feed(store._count)
        return store

    @property
    def files(self) -> Path:
        """The folder of the uploaded files, beside the database."""
        return self._path.parent / "assets"

    async def close(self) -> None:
        await self._run(self._db.close)
        self._thread.shutdown(wait=False)

    async def add(self, new: NewJob, *, now: datetime) -> Job:
        """Accept a job: on disk when this returns."""
        workflow = msgspec.json.encode(new.workflow)
        job_id = str(uuid4())

        def insert() -> Job:
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
                created_at=now,
                nodes_total=len(new.workflow),
                retry_of=new.retry_of,
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
            return job

        return await self._write(insert)

    async def get(self, job_id: str) -> Job | None:
        return await self._run(lambda: self._get(job_id))

    async def listing(
        self, *, status: Status | None = None, cursor: str | None = None, limit: int = 100
    ) -> tuple[list[Job], str | None]:
        """Newest first, and the cursor of the next page (None at the end). Raises UsageError for a cursor that is not ours."""
        if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
            raise UsageError(
                f"{cursor[:80]!r} is not a cursor.", hint="Use the `next_cursor` of the page before."
            )
        before = int(cursor) if cursor is not None else 2**62
        which = "status = ? AND" if status is not None else ""
        given = [status, before, limit + 1] if status is not None else [before, limit + 1]
        sql = f"SELECT body FROM jobs WHERE {which} seq < ? ORDER BY seq DESC LIMIT ?"  # noqa: S608 (no value is put in)
        found = await self._select(sql, given)
        more = len(found) > limit
        return found[:limit], str(found[limit - 1].seq) if more else None

    async def since(self, revision: int, limit: int = 1000) -> list[Job]:
        """Jobs changed after `revision`, in the order of their latest change."""
        return await self._select(
            "SELECT body FROM jobs WHERE revision > ? ORDER BY revision LIMIT ?", (revision, limit)
        )

    async def waiting(self) -> list[Job]:
        """Every job that waits, oldest first."""
        return await self._select("SELECT body FROM jobs WHERE stage = 'waiting' ORDER BY seq", ())

    async def active(self) -> list[Job]:
        """Every job that was given to a place and has not ended, oldest first."""
        return await self._select(
            "SELECT body FROM jobs WHERE stage IN ('submitting', 'on_server', 'fetching') ORDER BY seq", ()
        )

    async def workflow(self, job_id: str) -> dict[str, Any] | None:
        def read() -> dict[str, Any] | None:
            row = self._db.execute("SELECT workflow FROM workflows WHERE job_id = ?", (job_id,)).fetchone()
            return None if row is None else msgspec.json.decode(row[0], type=dict[str, Any])

        return await self._run(read)

    async def inputs(self, job_id: str) -> list[Input]:
        """What of the job's graph is a file of ours."""

        def read() -> list[Input]:
            rows = self._db.execute("SELECT body FROM inputs WHERE job_id = ? ORDER BY ord", (job_id,))
            return [_inputs.decode(row[0]) for row in rows]

        return await self._run(read)

    async def counts(self) -> dict[Status, int]:
        """How many jobs are in each status; every status is there."""

        def read() -> dict[Status, int]:
            found: dict[str, int] = dict(
                self._db.execute("SELECT status, count(*) FROM jobs GROUP BY status")
            )
            return {status: found.get(status.value, 0) for status in Status}

        return await self._run(read)

    async def move(
        self, job_id: str, *, expect: Stage | set[Stage], **changes: Unpack[Changes]
    ) -> Job | None:
        """Compare and set: the job after the move, or None if its stage is not (any more) as expected.

        Raises IllegalMoveError for a move that the model does not allow.
        """
        expected = expect if isinstance(expect, set) else {expect}

        def change() -> Job | None:
            job = self._get(job_id)
            if job is None or job.stage not in expected:
                return None
            after = self._put(apply(job, changes, self._next()))
            if (
                after.stage is Stage.WAITING
            ):  # it will run again: what came home of the lost execution is not of the next one
                self._db.execute("DELETE FROM outputs WHERE job_id = ?", (job_id,))
            return after

        return await self._write(change)

    async def add_output(self, output: Output) -> None:
        """Say that a file has come home: the job takes the next revision. The same `ord` again replaces the record."""

        def insert() -> None:
            job = self._get(output.job_id)
            if job is None or job.ended:
                return
            self._db.execute(
                "INSERT OR REPLACE INTO outputs (asset_id, job_id, ord, body) VALUES (?, ?, ?, ?)",
                (output.asset_id, output.job_id, output.ord, msgspec.json.encode(output)),
            )
            self._put(apply(job, {}, self._next()))

        await self._write(insert)

    async def outputs(self, job_id: str) -> list[Output]:
        """In the order in which ComfyUI named them."""

        def read() -> list[Output]:
            rows = self._db.execute("SELECT body FROM outputs WHERE job_id = ? ORDER BY ord", (job_id,))
            return [_outputs.decode(row[0]) for row in rows]

        return await self._run(read)

    async def asset(self, asset_id: str) -> Output | None:
        def read() -> Output | None:
            row = self._db.execute("SELECT body FROM outputs WHERE asset_id = ?", (asset_id,)).fetchone()
            return None if row is None else _outputs.decode(row[0])

        return await self._run(read)

    async def remembered(self, key: str, first: str) -> str:
        """A small lasting value; `first` is kept and returned when there is none yet."""

        def keep() -> str:
            self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, first))
            return str(self._one("SELECT value FROM meta WHERE key = ?", (key,))[0])

        return await self._write(keep)

    # For the room's other tables (assetstore.py): `work` runs whole on the store's thread.

    async def reading(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._run(lambda: work(self._db))

    async def writing(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """One transaction: all of it or nothing."""
        return await self._write(lambda: work(self._db))

    # What follows runs on the store's thread.

    def _get(self, job_id: str) -> Job | None:
        row = self._db.execute("SELECT body FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return None if row is None else _jobs.decode(row[0])

    def _put(self, job: Job) -> Job:
        self._db.execute(
            "UPDATE jobs SET revision = ?, status = ?, stage = ?, body = ? WHERE id = ?",
            (job.revision, job.status, job.stage, msgspec.json.encode(job), job.id),
        )
        return job

    def _next(self) -> int:
        self._db.execute("UPDATE counter SET revision = revision + 1")
        return int(self._one("SELECT revision FROM counter")[0])

    def _one(self, sql: str, given: Iterable[Any] = ()) -> Any:
        return self._db.execute(sql, tuple(given)).fetchone()

    # What follows runs in the event loop.

    async def _select(self, sql: str, given: Iterable[Any]) -> list[Job]:
        return await self._run(lambda: [_jobs.decode(row[0]) for row in self._db.execute(sql, tuple(given))])

    async def _write(self, change: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()

        def whole() -> T:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                result = change()
                revision = int(self._one("SELECT revision FROM counter")[0])
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody is left to poke
                loop.call_soon_threadsafe(self._poke, revision)
            return result

        return await self._run(whole)

    def _poke(self, revision: int) -> None:
        """From the thread's side, so that a caller that was cancelled meanwhile does not keep its change to itself."""
        self.revision.set(max(revision, self.revision.value))

    async def _run(self, work: Callable[[], T]) -> T:
        def guarded() -> T:
            with translated(self._path):
                return work()

        try:
            doing = asyncio.get_running_loop().run_in_executor(self._thread, guarded)
        except RuntimeError as error:
            raise StateError("The job database is closed: comfytunnel is stopping.") from error
        return await doing
