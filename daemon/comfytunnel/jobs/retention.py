"""Forgets what the user has asked to be forgotten: records of ended jobs, and apart from them files of theirs, by age and by size.

Nothing is deleted without a limit in the config or an order, and a file only if it is still the very file that we put there: one that was changed
or replaced belongs to the user. A job is not forgotten before its files while those have a limit: nobody else knows where they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from comfytunnel.errors import RefusedError, StateError
from comfytunnel.jobs import manifest
from comfytunnel.jobs.attic import Attic, Old
from comfytunnel.jobs.model import Job, Output
from comfytunnel.jobs.place import Keep

log = structlog.get_logger(__name__)

INTERVAL = 600.0
"""Seconds between two rounds."""
BATCH = 200
"""What is looked at in one go: the store serves others in between."""


async def keep_house(
    store: Attic, keep: Callable[[], Keep], now: Callable[[], datetime], changed: asyncio.Event
) -> None:
    """Make a round now, when the limits have `changed`, and from time to time, for ever."""
    while True:
        changed.clear()
        try:
            await tidy(store, keep(), now())
        except StateError as error:
            log.warning("state", why=error.message)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(INTERVAL):
                await changed.wait()


async def tidy(store: Attic, keep: Keep, now: datetime) -> None:
    """One round. Raises StateError."""
    if keep.outputs_age is not None or keep.outputs_size is not None:
        await _tidy_outputs(store, keep, now)
    if keep.jobs_age is not None or keep.jobs_size is not None:
        await _tidy_jobs(store, keep, now)


async def forget(
    store: Attic, job: Job, found: Sequence[Output], *, files: bool
) -> tuple[list[str], list[str]]:
    """Forget an ended job, and with `files` those of its files that are still what we put there and no other job's.

    Returns the paths of the files that are gone, and of those that stay. Raises RefusedError (`job_not_ended`, `webhook_pending`), StateError.
    """
    if not job.ended:
        raise RefusedError(
            f"The job {job.id} has not ended: it is {job.status}.",
            hint=f"Wait for it, or end it first: comfytunnel jobs cancel {job.id}",
            code="job_not_ended",
        )
    if not await store.forgettable(job.id):
        raise RefusedError(
            f"The webhook of the job {job.id} has not been told of its end yet.",
            hint="It is tried for three days: `comfytunnel jobs show` says how it stands.",
            code="webhook_pending",
        )
    gone, stay = list[str](), list[str]()
    for output in found:
        mine = files and not await store.others_with(output)
        (gone if mine and await asyncio.to_thread(remove_file, output) else stay).append(output.path)
    if gone and not stay:
        await asyncio.to_thread(remove_manifest, found[-1], job.id)
    await store.forget_jobs([job.id])
    log.info("job removed", job=job.id, files=len(gone))
    return gone, stay


async def _tidy_outputs(store: Attic, keep: Keep, now: datetime) -> None:
    while True:
        found, total = await store.oldest_outputs(BATCH)
        old = doomed(found, total, keep.outputs_age, keep.outputs_size, now)
        for each in old:
            assert each.output is not None
            removed = not await store.others_with(each.output) and await asyncio.to_thread(
                remove_file, each.output
            )
            await store.forget_output(each.output.asset_id)
            if not await store.has_outputs(each.job_id):
                await asyncio.to_thread(remove_manifest, each.output, each.job_id)
            log.info("output forgotten", job=each.job_id, path=each.output.path, removed=removed)
        if len(old) < BATCH:
            return


async def _tidy_jobs(store: Attic, keep: Keep, now: datetime) -> None:
    files_first = keep.outputs_age is not None or keep.outputs_size is not None
    while True:
        found, total = await store.oldest_jobs(BATCH, without_outputs=files_first)
        old = doomed(found, total, keep.jobs_age, keep.jobs_size, now)
        if old:
            await store.forget_jobs(each.job_id for each in old)
            log.info("jobs forgotten", number=len(old))
        if len(old) < BATCH:
            return


def doomed(found: list[Old], total: int, age: float | None, size: int | None, now: datetime) -> list[Old]:
    """Of what was found, the oldest first, that which is over a limit: it ended `age` seconds ago, or all together (`total`) is more
    than `size` bytes."""
    old = []
    for each in found:
        aged = age is not None and each.ended_at <= now - timedelta(seconds=age)
        if not aged and (size is None or total <= size):
            break
        total -= each.size
        old.append(each)
    return old


def remove_manifest(last: Output, job_id: str) -> None:
    """Delete what tells of a job's files, after the `last` of them."""
    try:
        (Path(last.path).parent / manifest.name(job_id)).unlink(missing_ok=True)
    except OSError as error:
        log.warning("manifest not removed", job=job_id, why=error.strerror)


def remove_file(output: Output) -> bool:
    """Delete the file if it is still ours, byte for byte; whether it was. One that cannot be deleted is left, and said."""
    try:
        descriptor = os.open(output.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            there = os.fstat(descriptor)
            if not stat.S_ISREG(there.st_mode) or there.st_size != output.size:
                return False
            if hashlib.file_digest(file, "sha256").hexdigest() != output.sha256:
                return False
        Path(output.path).unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        log.warning("output not removed", path=output.path, why=error.strerror)
        return False
    return True
