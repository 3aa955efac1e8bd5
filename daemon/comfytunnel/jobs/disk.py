"""Whether a folder takes files now: tried with a real one, which is removed at once. Blocks on the disk; decides nothing."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from comfytunnel.jobs.landing import RESERVE


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
