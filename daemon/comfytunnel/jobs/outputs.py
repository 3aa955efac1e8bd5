"""Files down: from what ComfyUI's history names to whole files in the user's folder.

Which outputs: everything that lies in ComfyUI's output folder, and texts. Previews (type `temp`) come home only when a job has nothing
else, so that a workflow with both does not fill the folder with drafts, and one with PreviewImage alone still gives its picture.
Each is fetched to `.part`, compared with the announced size, hashed, fsynced and named (landing.py), and only then recorded; what
is recorded is not fetched again, and what was cut is gone on with where it is still the same file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from comfytunnel.comfy.client import Client
from comfytunnel.comfy.download import Download
from comfytunnel.comfy.errors import Ambiguous, ComfyError, Cut, Refused
from comfytunnel.comfy.shapes import History
from comfytunnel.jobs import manifest, names
from comfytunnel.jobs.disk import on_thread
from comfytunnel.jobs.frames import Picture
from comfytunnel.jobs.landing import Landing, trouble
from comfytunnel.jobs.model import Job, Output, Wanted
from comfytunnel.jobs.store import Store

T = TypeVar("T")
Work = Callable[[], None]
Foreign = Callable[[float | None], Awaitable[bool]]

BATCH = 1024**2
"""Bytes that are written and hashed at a time: a thread costs some 0.1 ms."""

CHANGED = (412, 416)
"""What /view says to a request for the rest of a file that is another one now."""


class Gone(Exception):  # noqa: N818 (an observation)
    """ComfyUI has no such file (any more); `replaced`: it has another job's under that name; `unserved`: it has it, and cannot send it."""

    def __init__(self, wanted: Wanted, *, replaced: bool = False, unserved: bool = False) -> None:
        super().__init__(wanted.filename)
        self.wanted = wanted
        self.replaced = replaced
        self.unserved = unserved


class TooLarge(Exception):  # noqa: N818 (an observation)
    """A file is larger than we accept. `size` in bytes, as announced or as read so far."""

    def __init__(self, wanted: Wanted, size: int) -> None:
        super().__init__(wanted.filename)
        self.wanted = wanted
        self.size = size


def wanted_from(history: History) -> tuple[Wanted, ...]:
    """What of a finished prompt comes home, in ComfyUI's order, each file once."""
    found = [
        Wanted(
            node_id=output.node_id,
            kind="text"
            if output.text is not None
            else names.kind(names.safe_name(output.filename), output.group),
            filename=output.filename[-4096:],
            subfolder=output.subfolder[-4096:],
            type=output.type
            if output.type in ("output", "temp", "input")
            else "text"
            if output.text
            else "output",
            text=output.text,
            cached=output.cached,
        )
        for output in history.outputs
    ]
    kept = [wanted for wanted in found if wanted.type in ("output", "text")]
    if not any(wanted.type == "output" for wanted in kept):
        kept += [wanted for wanted in found if wanted.type == "temp"]
    return tuple(dict.fromkeys(kept))


async def fetch(
    job: Job,
    client: Client,
    store: Store,
    *,
    fresh: bool = False,
    max_file_size: int,
    frames: Sequence[Picture] = (),
    progress: Callable[[int], None],
    foreign: Foreign,
    moving: Callable[[], None],
    unserved: Callable[[int], Awaitable[bool]],
) -> list[Output]:
    """Bring home every output of `job.wanted` that is not recorded yet, into `job.folder`, and put down the `frames` behind them. Safe to call
    again at any point; `fresh` says that it is the first time, so that there is nothing to go on with. `foreign` is asked of each file, once it was read,
    whether one that was written then (Download.modified) is another job's; `unserved`, when a download got no answer, whether to do without that output.
    `progress` is told how many are here, `moving` when something has reached the disk. Returns all that is recorded.

    Raises Gone, TooLarge, Trouble (our disk), ComfyError (the road or the server) and StateError.
    """
    assert job.folder is not None
    folder = Path(job.folder)
    done = {output.ord: output for output in ([] if fresh else await store.outputs(job.id))}
    gone: Gone | None = None
    for ord_, wanted in enumerate(job.wanted):
        progress(len(done))
        if ord_ in done:
            continue
        try:
            output = await _fetch_one(
                job, folder, ord_, wanted, client, max_file_size, foreign, moving, fresh=fresh
            )
        except Gone as error:
            gone = gone or error  # the others are still worth having
            continue
        except Ambiguous as error:
            if isinstance(error, Cut) or not await unserved(ord_):
                raise
            gone = gone or Gone(wanted, unserved=True)
            continue
        await store.add_output(output)
        done[ord_] = output
        moving()
    for ord_, frame in enumerate(frames, len(job.wanted)):
        if ord_ not in done:
            name = f"websocket_{frame.node_id}_{ord_ - len(job.wanted) + 1:05}_.png"
            picture = Wanted(frame.node_id, "image", name)
            done[ord_] = await _put_down(job, folder, ord_, picture, frame.data)
            await store.add_output(done[ord_])
    if gone is not None:
        raise gone
    return [done[ord_] for ord_ in sorted(done)]


async def _fetch_one(
    job: Job,
    folder: Path,
    ord_: int,
    wanted: Wanted,
    client: Client,
    max_file_size: int,
    foreign: Foreign,
    moving: Callable[[], None],
    *,
    fresh: bool,
) -> Output:
    if wanted.text is not None:
        return await _put_down(job, folder, ord_, wanted, wanted.text.encode(errors="replace"))

    async def pour(landing: Landing) -> Work:
        rest, written = await _download(landing, folder, wanted, client, max_file_size, moving, fresh=fresh)
        if await foreign(written):
            raise Gone(wanted, replaced=True)
        return rest

    return await _landed(job, folder, ord_, wanted, pour)


async def _put_down(job: Job, folder: Path, ord_: int, wanted: Wanted, data: bytes) -> Output:
    async def pour(landing: Landing) -> Work:
        return _each(lambda: landing.open(len(data)), lambda: landing.write(data))

    return await _landed(job, folder, ord_, wanted, pour)


async def _landed(
    job: Job, folder: Path, ord_: int, wanted: Wanted, pour: Callable[[Landing], Awaitable[Work]]
) -> Output:
    """Have `pour` fill a landing; what it leaves to be done is done at one go with the last of it, since each turn of a thread costs."""
    name = names.safe_name(wanted.filename)
    landing = _landing(job.id, folder, ord_)
    try:
        rest = await pour(landing)

        def settle() -> Path:
            rest()
            return landing.settle(name)

        path = await _disk(settle, folder)
    except (ComfyError, asyncio.CancelledError):
        landing.leave()
        raise
    finally:
        landing.drop()  # does nothing to one that was left
    return Output(
        asset_id=str(uuid4()),
        job_id=job.id,
        node_id=wanted.node_id,
        name=path.name,
        kind=wanted.kind,
        content_type=names.content_type(path.name),
        size=landing.size,
        blake3=landing.blake3,
        sha256=landing.sha256,
        path=str(path),
        cached=wanted.cached,
        ord=ord_,
    )


async def _download(
    landing: Landing,
    folder: Path,
    wanted: Wanted,
    client: Client,
    max_file_size: int,
    moving: Callable[[], None],
    *,
    fresh: bool,
) -> tuple[Work, float | None]:
    """What is left to do, and when the file was written, if that was said."""
    view = partial(client.view, wanted.filename, wanted.subfolder, wanted.type)
    try:
        tag = None if fresh else await _disk(landing.resume, folder)
        if tag is not None:
            while await _disk(landing.rehash, folder):
                pass
            try:
                async with view(start=landing.size, tag=tag) as rest:
                    left = (rest.size or 0) - landing.size
                    need = partial(landing.need, left)
                    return await _pour(
                        rest, landing, need, folder, wanted, max_file_size, moving
                    ), rest.modified
            except Refused as error:
                if error.status not in CHANGED:
                    raise
            landing.drop()
        async with view() as whole:
            if whole.size is not None and whole.size > max_file_size:
                raise TooLarge(wanted, whole.size)
            begin = partial(landing.open, whole.size, whole.tag)
            return await _pour(whole, landing, begin, folder, wanted, max_file_size, moving), whole.modified
    except Refused as error:
        # 404: not there. 400 and 403: a name that /view itself takes for an attack; it will never be served.
        raise Gone(wanted) from error


async def _pour(
    download: Download,
    landing: Landing,
    begin: Work,
    folder: Path,
    wanted: Wanted,
    max_file_size: int,
    moving: Callable[[], None],
) -> Work:
    """`begin`, then write what comes; while one batch is written and hashed the next is read. Returns what is left to do: the batch that
    completes the file, which is all of a small one."""
    size, left = download.start, begin
    reading = asyncio.ensure_future(download.read(BATCH))
    try:
        while batch := await reading:
            size += len(batch)
            if size > max_file_size:
                raise TooLarge(wanted, size)
            reading = asyncio.ensure_future(download.read(BATCH))
            left = _each(left, partial(landing.write, batch))
            if size != download.size:
                await _disk(left, folder)
                left = _each()
                moving()
        if download.size is not None and size != download.size:
            raise Cut(f"the download ended after {size} of {download.size} bytes")
    finally:
        reading.cancel()
        await asyncio.wait([reading])
        if not reading.cancelled():
            reading.exception()  # seen: it was raised above, or matters no more
    return left


async def put_manifest(
    job: Job, here: Sequence[Output], store: Store, comfyui: str | None, now: datetime
) -> None:
    """Say beside the job's outputs (`here`) how they were made, if it has any. Raises Trouble and StateError."""
    if not here:
        return
    workflow = await store.workflow(job.id) or {}
    folder = Path(here[0].path).parent
    await _disk(
        lambda: manifest.write(folder, job.id, manifest.contents(job, workflow, here, comfyui, now)), folder
    )


async def forget_parts(job: Job) -> None:
    """Remove what was left of a job's cut downloads and of a killed manifest: it ends without them, or they go elsewhere."""
    if job.folder is not None:
        folder = Path(job.folder)
        parts = [_landing(job.id, folder, ord_) for ord_ in range(len(job.wanted))]
        parts.append(Landing(folder, manifest.part(job.id)))

        def forget() -> None:
            for part in parts:
                part.forget()

        await on_thread(forget)


def _landing(job_id: str, folder: Path, ord_: int) -> Landing:
    return Landing(folder, f".comfytunnel-{job_id}-{ord_}.part")


def _each(*work: Work) -> Work:
    """One after the other."""

    def whole() -> None:
        for each in work:
            each()

    return whole


async def _disk(work: Callable[[], T], folder: Path) -> T:
    try:
        return await on_thread(work)
    except OSError as error:
        raise trouble(error, folder) from error
