"""The copy of a database as it was before a migration. Synchronous; schema.py calls it. Nothing is migrated without one.

It lies beside the database under the name, the version and the time ("jobs.db.v2-20261123-175000"), whole or not at all, for the owner only; the
KEPT newest stay. To go back to the older program: stop the daemon and put the copy in the database's place, without `-wal` and `-shm`.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

KEPT = 2  # copies: that of this upgrade and that of the one before; each is as large as the database was


_STEP = 1024  # pages (4 MiB) between two looks whether it is given up


class GivenUp(Exception):  # noqa: N818 - nothing has failed
    """Nobody waits for the copy any more; nothing of it is left."""


class Copy(NamedTuple):
    made: str
    version: int
    path: Path


def copies(path: Path) -> list[Copy]:
    """The copies of the database at `path`, oldest first."""
    name = re.compile(re.escape(path.name) + r"\.v(\d+)-(\d{8}-\d{6})")
    found = ((each, name.fullmatch(each.name)) for each in path.parent.iterdir())
    return sorted(Copy(match[2], int(match[1]), each) for each, match in found if match)


def back_up(
    connection: sqlite3.Connection, path: Path, version: int, now: datetime, given_up: Callable[[], bool]
) -> Path:
    """Copy the database at `path`, which has had `version` migrations, and forget copies too old. The copy's path.

    Raises sqlite3.Error and OSError: a full disk, most of all; GivenUp soon after `given_up` says so.
    """

    def look(*_: int) -> None:
        if given_up():
            raise GivenUp

    kept = path.with_name(f"{path.name}.v{version}-{now:%Y%m%d-%H%M%S}")
    growing = path.with_name(f"{path.name}.backup")
    growing.unlink(missing_ok=True)  # a crash left it
    try:
        os.close(os.open(growing, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        with contextlib.closing(sqlite3.connect(growing)) as copy:
            connection.backup(copy, pages=_STEP, progress=look)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, whatever the database itself had
        _sync(growing)
        growing.replace(kept)
        _sync(path.parent)
    except BaseException:
        for ending in ("", "-journal", "-wal", "-shm"):
            growing.with_name(growing.name + ending).unlink(missing_ok=True)
        raise
    for old in copies(path)[:-KEPT]:
        old.path.unlink(missing_ok=True)
    return kept


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
