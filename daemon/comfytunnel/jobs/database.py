"""One SQLite file and the one thread that may touch it: opening, transactions, the revision. What stands in it is the business of store.py.

SQLite, WAL, synchronous=FULL: what a method has returned survives a power cut. A caller that is cancelled leaves either all of its change
or nothing, and those who wait for a revision hear of it all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from comfytunnel.errors import StateError
from comfytunnel.feed import Feed
from comfytunnel.jobs.schema import open_database, translated

T = TypeVar("T")


class Database:
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
    async def open(cls, path: Path) -> Self:
        """Open or make the database; a broken one is moved aside (see `notice`), never deleted.

        Raises StateError: the folder is not writable, the disk is full, or the file was written by a newer version. Whoever is cancelled leaves
        the database as it was, however long its copy before a migration would have taken.
        """
        store, given_up = cls(path), threading.Event()

        def begin() -> str | None:
            store._db, notice = open_database(path, datetime.now(UTC), given_up.is_set)
            store._count = store._one("SELECT revision FROM counter")[0]
            return notice

        try:
            store.notice = await store._run(begin)
        except BaseException:
            given_up.set()
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

    # For the room's other tables (assetstore.py): `work` runs whole on the store's thread.

    async def reading(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._run(lambda: work(self._db))

    async def writing(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """One transaction: all of it or nothing."""
        return await self._write(lambda: work(self._db))

    # What follows runs on the thread.

    def _next(self) -> int:
        self._db.execute("UPDATE counter SET revision = revision + 1")
        return int(self._one("SELECT revision FROM counter")[0])

    def _one(self, sql: str, given: Iterable[Any] = ()) -> Any:
        return self._db.execute(sql, tuple(given)).fetchone()

    # What follows runs in the event loop.

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
