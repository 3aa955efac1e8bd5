"""The tables, one migration per version, and how a database file is opened, judged and moved aside. Synchronous; store.py's thread runs it.

`user_version` counts the migrations that a file has had. A file from a newer program is refused; one of an older program is copied (backup.py)
and migrated; a broken one is moved aside under a name with the time, never deleted. Before you add a migration: tests/jobs/databases.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import structlog

from comfytunnel.errors import StateError
from comfytunnel.jobs.backup import back_up, copies

logger = structlog.get_logger(__name__)

MIGRATIONS = (
    """
    CREATE TABLE counter (revision INTEGER NOT NULL);
    INSERT INTO counter VALUES (0);
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE jobs (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        revision INTEGER NOT NULL UNIQUE,
        status TEXT NOT NULL,
        stage TEXT NOT NULL,
        body BLOB NOT NULL
    );
    CREATE INDEX jobs_by_status ON jobs (status, seq);
    CREATE INDEX jobs_by_stage ON jobs (stage, seq);
    CREATE TABLE workflows (
        job_id TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
        workflow BLOB NOT NULL
    );
    CREATE TABLE outputs (
        asset_id TEXT PRIMARY KEY,
        job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
        ord INTEGER NOT NULL,
        body BLOB NOT NULL,
        UNIQUE (job_id, ord)
    );
    """,
    """
    CREATE TABLE assets (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        blake3 TEXT NOT NULL,
        file_path TEXT,
        expires REAL,
        body BLOB NOT NULL
    );
    CREATE INDEX assets_by_hash ON assets (blake3, seq);
    CREATE INDEX assets_by_path ON assets (file_path, seq);
    CREATE INDEX assets_by_end ON assets (expires) WHERE expires IS NOT NULL;
    CREATE TABLE inputs (
        job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
        ord INTEGER NOT NULL,
        blake3 TEXT NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (job_id, ord)
    ) WITHOUT ROWID;
    CREATE INDEX inputs_by_hash ON inputs (blake3);
    """,
    """
    CREATE TABLE claims (key TEXT PRIMARY KEY, made TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
    ALTER TABLE jobs ADD COLUMN ended_at REAL;
    UPDATE jobs SET ended_at = CAST(strftime('%s', json_extract(CAST(body AS TEXT), '$.completed_at')) AS REAL)
        WHERE stage = 'ended';
    CREATE INDEX jobs_by_end ON jobs (ended_at) WHERE ended_at IS NOT NULL;
    ALTER TABLE outputs ADD COLUMN path TEXT NOT NULL DEFAULT '';
    ALTER TABLE outputs ADD COLUMN size INTEGER NOT NULL DEFAULT 0;
    UPDATE outputs SET path = json_extract(CAST(body AS TEXT), '$.path'), size = json_extract(CAST(body AS TEXT), '$.size');
    CREATE INDEX outputs_by_path ON outputs (path);
    """,
    """
    CREATE TABLE hooks (
        job_id TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
        target TEXT NOT NULL,
        due REAL,
        body BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX hooks_by_due ON hooks (due, target) WHERE due IS NOT NULL;
    """,
    """
    CREATE TABLE strays (
        place TEXT NOT NULL,
        given_id TEXT NOT NULL,
        prompt_id TEXT NOT NULL,
        server TEXT,
        job_id TEXT NOT NULL,
        counted INTEGER NOT NULL,
        doomed INTEGER NOT NULL,
        at REAL NOT NULL,
        PRIMARY KEY (place, given_id)
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE node_times (
        job_id TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
        body BLOB NOT NULL
    ) WITHOUT ROWID;
    """,
)
"""`body` is the whole Job, Output, Asset, Input or Hook, or all NodeTimes of a job, as JSON; what is searched for stands in columns of its own beside it."""

CHECKED_SIZE = 32 * 1024**2
"""Bytes up to which a file is checked whole at the start (some 30 ms); in a larger one only what is read is judged."""

BROKEN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

TABLES = frozenset({"counter", "meta", "jobs", "workflows", "outputs"})
"""What a file that has had the first migration holds; before it, it holds nothing."""


class _WrongContent(sqlite3.DatabaseError):
    """The file is a database and not, or not whole, ours."""


def open_database(
    path: Path, now: datetime, given_up: Callable[[], bool] = lambda: False
) -> tuple[sqlite3.Connection, str | None]:
    """A connection to a database of this version, and what the user must be told. Raises StateError, and GivenUp while it is copied."""
    with translated(path):
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700, parents=True)
        try:
            return _open(path, now, given_up), None
        except sqlite3.DatabaseError as error:
            if not _is_broken(error):
                raise
            reason = str(error)
        kept = _move_aside(path, now)
        notice = (
            f"The job database {path} was broken ({reason}). It is kept as {kept}, and an empty one was begun: "
            "jobs that it held are not run."
        )
        return _open(path, now, given_up), notice


def _open(path: Path, now: datetime, given_up: Callable[[], bool]) -> sqlite3.Connection:
    os.close(
        os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    )  # SQLite gives its -wal and -shm the mode of the file
    path.chmod(0o600)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    try:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > len(MIGRATIONS):
            raise StateError(
                f"{path} was written by a newer comfytunnel (version {version}, this one knows {len(MIGRATIONS)}).",
                hint=_way_back(path),
            )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA fullfsync=ON")  # macOS; without effect elsewhere
        connection.execute("PRAGMA foreign_keys=ON")
        if path.stat().st_size <= CHECKED_SIZE:
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise _WrongContent(verdict)
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if names if version == 0 else TABLES - names:
            raise _WrongContent("its tables are not those of comfytunnel")
        if 0 < version < len(MIGRATIONS):
            logger.info("migrating", backup=str(back_up(connection, path, version, now, given_up)))
        for number in range(version, len(MIGRATIONS)):
            connection.executescript(
                f"BEGIN IMMEDIATE; {MIGRATIONS[number]} PRAGMA user_version={number + 1}; COMMIT;"
            )
        if connection.execute("SELECT revision FROM counter").fetchone() is None:
            raise _WrongContent("its counter is missing")
        return connection
    except BaseException:
        connection.close()
        raise


def _way_back(path: Path) -> str:
    """What to do about a database that is newer than this program."""
    hint = "Upgrade comfytunnel, or point COMFYTUNNEL_STATE_DIR at another folder."
    fitting = [copy for copy in copies(path) if copy.version <= len(MIGRATIONS)]
    if fitting:
        hint += f" Or put {fitting[-1].path} in its place, as it was before the upgrade: later jobs are not in it."
    return hint


def _is_broken(error: sqlite3.DatabaseError) -> bool:
    """Nothing but damage: a mistake of ours, in a migration say, must not put the user's jobs aside."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, _WrongContent) or (code is not None and (code & 0xFF) in BROKEN)


def _move_aside(path: Path, now: datetime) -> Path:
    stem = f"{path.name}.broken-{now:%Y%m%d-%H%M%S}"
    kept = path.with_name(stem)
    number = 2
    while kept.exists():
        kept = path.with_name(f"{stem}-{number}")
        number += 1
    for ending in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + ending).rename(kept.with_name(kept.name + ending))
    return kept


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """What sqlite3 and the file system raise becomes a StateError that names the next step."""
    try:
        yield
    except sqlite3.Error as error:
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise _no_room(path) from error
        if code in BROKEN:
            hint = "Restart comfytunnel: it moves the broken file aside and begins a new one."
            raise StateError(f"The job database {path} is broken ({error}).", hint=hint) from error
        hint = f"Check that {path.parent} exists, is writable and has room."
        raise StateError(f"The job database {path} cannot be used ({error}).", hint=hint) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_room(path) from error
        hint = f"Check that {path.parent} exists, is writable and has room."
        raise StateError(f"{path} cannot be used ({error.strerror or error}).", hint=hint) from error


def _no_room(path: Path) -> StateError:
    return StateError(f"There is no room on the disk for {path}.", hint="Free some space.", code="disk_full")
