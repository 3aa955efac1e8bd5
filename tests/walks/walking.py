"""Runs one walk on a loop of its own, and tells all of it when something does not hold."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from random import Random

from tests.walks.virtual import Stuck, VirtualLoop
from tests.walks.walk import Walk


def walk(folder: Path, template: Path, seed: int, *, late: float, once_late: float = 0.0) -> Walk:
    """Raises AssertionError, with the seed and all that happened."""
    loop = VirtualLoop(Random(seed + 1))
    walking = Walk(loop, folder, template, seed, late, once_late)
    try:
        loop.run_until_complete(walking.run())
    except BaseException as error:
        _bury(loop)
        raise AssertionError(
            f"WALK_SEED={seed}\n" + "\n".join(walking.world.told) + f"\n{error!r}"
        ) from error
    finally:
        loop.close()
    return walking


def _bury(loop: VirtualLoop) -> None:
    """End what a failed walk has left."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    with contextlib.suppress(Stuck):
        loop.run_until_complete(asyncio.wait(left, timeout=60.0))
