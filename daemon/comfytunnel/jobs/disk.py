"""The disk seen from the event loop: blocking work on a thread, and whether a folder takes files now (tried with a real one, which is
removed at once). Decides nothing."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from comfytunnel.jobs.landing import RESERVE

T = TypeVar("T")


async def on_thread(work: Callable[[], T]) -> T:
    """Run `work` on a thread and see it end even when we are cancelled, and again: it holds descriptors that are closed afterwards."""
    doing = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        while not doing.done():
            with contextlib.suppress(asyncio.CancelledError):  # raised below
                await asyncio.wait([doing])
        doing.exception()  # seen: what became of it matters no more
        raise


def try_folder(folder: Path) -> str:
    """Write, sync and remove a small file in `folder`, or where it would be made; return the room there in words.

    Raises OSError; ENOSPC too where less than RESERVE is free, since outputs stop there.
    """
    there = next(path for path in (folder, *folder.parents) if path.exists())
    with tempfile.NamedTemporaryFile(prefix=".comfytunnel-", dir=there) as file:
        file.write(b"doctor")
        file.flush()
        os.fsync(file.fileno())
    free = shutil.disk_usage(there).free
    if free < RESERVE:
        raise OSError(errno.ENOSPC, f"{free / 1e6:.0f} MB are free, {RESERVE / 1e6:.0f} MB must stay so")
    return f"{folder}: {free / 1e9:.1f} GB free"
