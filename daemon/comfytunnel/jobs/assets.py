"""Uploaded files: taken in as a stream, kept once for each content under its BLAKE3 hash, handed to jobs, thrown away when nobody needs them.

The folder is ours alone (0700, files 0600). Bytes come into `.part`, are fsynced, renamed to their hash, and only then recorded, so what
has a record is whole. Deleting an asset deletes its record at once; its bytes stay while another record, or a job that was given them
and has not ended, needs them. No name that anybody sends becomes a path here.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import msgspec
import structlog

from comfytunnel.errors import NotFoundError, RefusedError, StateError, UsageError
from comfytunnel.jobs import names
from comfytunnel.jobs.about import About, too_large
from comfytunnel.jobs.assetstore import AssetStore
from comfytunnel.jobs.disk import on_thread
from comfytunnel.jobs.landing import NO_ROOM, Landing
from comfytunnel.jobs.model import Asset, Input, Output
from comfytunnel.jobs.references import Reference, references
from comfytunnel.jobs.store import Store

T = TypeVar("T")
log = structlog.get_logger(__name__)

MAX_UPLOAD = 2000 * 10**6
"""Bytes of one upload. ComfyUI itself takes 100 MB by default (--max-upload-size); the rest is for those who raised that."""
BATCH = 1024**2
"""Bytes that are written and hashed at a time: a thread costs some 0.1 ms."""
SWEEP = 600.0
"""Seconds between two looks for bytes that nobody needs any more."""
PART = ".part"

_OURS = re.compile(r"[0-9a-f]{64}")
_SUFFIX = re.compile(r"\.[a-z0-9]{1,10}")


def utc_now() -> datetime:
    return datetime.now(UTC)


class Assets:
    """Call `open` once before all else. Whatever touches the disk may raise StateError (`disk_full`, `state_error`)."""

    def __init__(
        self, store: Store, *, max_upload: int = MAX_UPLOAD, now: Callable[[], datetime] = utc_now
    ) -> None:
        self.max_upload = max_upload
        self.now = now
        self._store = store
        self._folder = store.files
        self._records = AssetStore(store)
        self._lock = asyncio.Lock()  # between the bytes' coming or going and the record that needs them

    async def open(self) -> None:
        """Make the folder, and clear away what a killed process left half done. Where the database was moved aside because it was broken, its
        files are, too: the new one needs none of them, but whoever mends the old one will."""

        def sweep() -> None:
            if self._store.notice is not None and self._folder.exists():
                self._folder.rename(
                    self._folder.with_name(f"{self._folder.name}.broken-{self.now():%Y%m%d-%H%M%S}")
                )
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for left in self._folder.glob(f"*{PART}"):
                left.unlink(missing_ok=True)

        await self._disk(sweep)
        await self.sweep()

    async def run(self) -> None:
        """Sweep now and then, for ever."""
        while True:
            await asyncio.sleep(SWEEP)
            try:
                await self.sweep()
            except StateError as error:
                log.warning("state", why=error.message)

    async def sweep(self) -> None:
        """Forget expired records, and remove bytes that nobody needs."""
        async with self._lock:
            expired = await self._records.expire(self.now())
            needed = await self._records.needed()

            def remove() -> int:
                idle = [
                    path
                    for path in self._folder.iterdir()
                    if _OURS.fullmatch(path.name) and path.name not in needed
                ]
                for path in idle:
                    path.unlink(missing_ok=True)
                return len(idle)

            removed = await self._disk(remove)
        if expired or removed:
            log.info("assets swept", expired=expired, removed=removed)

    # --- coming in --------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def incoming(self) -> AsyncIterator[Incoming]:
        """A file that is being uploaded; nothing of it stays unless `keep` got it."""
        landing = Landing(self._folder, f"{uuid4().hex}{PART}", 0o600)
        try:
            await self._disk(lambda: landing.open(None))
            yield Incoming(landing, self.max_upload, self._disk)
        finally:
            landing.drop()

    async def keep(
        self, upload: Incoming, about: About, *, expected: str | None = None, claim: str | None = None
    ) -> tuple[Asset, bool]:
        """Record a file that has come in whole; whether its bytes are new. RefusedError `hash_mismatch` if they are not
        `expected`. UsageError `idempotency_key_reuse`."""
        landing = await upload.end()
        if expected is not None and expected != landing.blake3:
            raise RefusedError(
                f"The file that arrived has the hash blake3:{landing.blake3}, not blake3:{expected}.",
                hint="It was damaged on its way, or changed meanwhile: upload it again.",
                code="hash_mismatch",
            )
        async with self._lock:
            new = await self._disk(landing.keep)
            asset = self._record(landing.blake3, landing.size, about)
            await self._records.add(asset, claim=claim)
        log.info("asset kept", asset=asset.id, size=asset.size, new=new)
        return asset, new

    async def from_hash(self, blake3: str | None, about: About) -> tuple[Asset, bool]:
        """A record of bytes that are here already; False with one that was there. NotFoundError `blob_not_found`."""
        async with self._lock:
            known = None if blake3 is None else await self._records.of_hash(blake3, self.now())
            if known is None or not await self._there(known.blake3):
                raise NotFoundError(
                    "There are no bytes of that hash.", hint="Upload the file.", code="blob_not_found"
                )
            if about.content_type is None:
                guessed = names.content_type(about.file_path or "")
                same_name = about.file_path in (None, known.file_path)
                kind = known.content_type if same_name or guessed == "application/octet-stream" else guessed
                about = msgspec.structs.replace(about, content_type=kind)
            asset = self._record(known.blake3, known.size, about)
            like = await self._records.like(asset, self.now())
            if like is None:
                await self._records.add(asset)
        return like or asset, like is None

    def _record(self, blake3: str, size: int, about: About) -> Asset:
        return Asset(
            id=str(uuid4()),
            blake3=blake3,
            size=size,
            content_type=about.content_type or "application/octet-stream",
            file_path=about.file_path,
            tags=about.tags,
            created_at=self.now(),
            expires_at=about.expires_at,
        )

    # --- there ------------------------------------------------------------------------------------------------------

    async def get(self, asset_id: str) -> Asset | None:
        return await self._records.get(asset_id, self.now())

    async def has(self, blake3: str | None) -> bool:
        """Whether `from_hash` would find these bytes."""
        known = None if blake3 is None else await self._records.of_hash(blake3, self.now())
        return known is not None and await self._there(known.blake3)

    def path(self, blake3: str) -> Path:
        return self._folder / blake3

    async def _there(self, blake3: str) -> bool:
        return await self._disk(self.path(blake3).is_file)

    async def delete(self, asset_id: str) -> bool:
        """Whether there was such a record. Its bytes go, too, when nobody else needs them."""
        gone = await self._records.delete(asset_id, self.now())
        if gone:
            await self.sweep()
        return gone

    # --- going into jobs --------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def bound(self, workflow: Mapping[str, Any]) -> AsyncIterator[tuple[Input, ...]]:
        """What of a graph means a file of ours. None of the bytes goes away before the job is on disk, if it is written inside.

        UsageError `missing_asset`, with `node_errors`, when a reference leads nowhere.
        """
        found = references(workflow)
        typed = any(reference.name is None for reference in found)
        if not typed and not (await self._lookup(found))[1]:
            yield ()
            return
        async with self._lock:
            yield await self._resolve(found)

    @asynccontextmanager
    async def again(self, inputs: Sequence[Input]) -> AsyncIterator[tuple[Input, ...]]:
        """The inputs of an ended job for another one like it; their bytes stay as with `bound`. UsageError `missing_asset` if they are gone."""
        async with self._lock:
            for item in inputs:
                if not await self._there(item.blake3):
                    raise UsageError(
                        f"The input {item.name} of that job is not here any more.",
                        hint="Upload it again, and submit the workflow again.",
                        code="missing_asset",
                    )
            yield tuple(inputs)

    async def _lookup(self, found: list[Reference]) -> tuple[dict[str, Asset | Output], dict[str, Asset]]:
        ids = {reference.id for reference in found if reference.id is not None}
        paths = {reference.name for reference in found if reference.name is not None}
        return await self._records.find(ids, paths, self.now())

    async def _resolve(self, found: list[Reference]) -> tuple[Input, ...]:
        by_id, by_path = await self._lookup(found)
        bound: list[Input] = []
        for reference in found:
            if reference.name is not None:
                meant: Asset | Output | None = by_path.get(reference.name)
                if meant is None:
                    continue  # an ordinary text
            elif reference.id is None:
                raise _missing(reference, "the reference is malformed: `info.id` must be a text")
            elif (meant := by_id.get(reference.id)) is None:
                raise _missing(reference, f"there is no asset {reference.id[:80]!r}")
            if not await self._have(meant):
                raise _missing(reference, "its file is gone, or is not what it was")
            name = (meant.file_path or meant.id) if isinstance(meant, Asset) else meant.name
            bound.append(
                Input(
                    at=reference.at,
                    blake3=meant.blake3,
                    size=meant.size,
                    name=name,
                    suffix=_suffix(meant, name),
                )
            )
        return tuple(bound)

    async def _have(self, meant: Asset | Output) -> bool:
        """Whether the bytes lie in our folder. What a job has made is copied there first: in the user's folder it may change or go."""
        if await self._there(meant.blake3):
            return True
        if isinstance(meant, Asset):
            return False
        landing = Landing(self._folder, f"{uuid4().hex}{PART}", 0o600)
        try:
            copied = await self._disk(partial(_copy, Path(meant.path), landing))
            if not copied or landing.blake3 != meant.blake3:
                return False
            await self._disk(landing.keep)
        finally:
            landing.drop()
        return True

    async def _disk(self, work: Callable[[], T]) -> T:
        try:
            return await on_thread(work)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise StateError(
                    f"There is no room on the disk for the file, in {self._folder}.",
                    hint="Free some space, then send it again.",
                    code="disk_full",
                ) from error
            raise StateError(
                f"Files cannot be kept in {self._folder} ({error.strerror or error}).",
                hint="Check that the folder is yours and writable.",
            ) from error


class Incoming:
    """One upload: `write` what comes, in order. `most`: bytes that are taken."""

    def __init__(self, landing: Landing, most: int, disk: Callable[[Callable[[], None]], Any]) -> None:
        self.most = most
        self._landing = landing
        self._disk = disk
        self._batch = bytearray()

    async def write(self, data: bytes) -> None:
        """UsageError `file_too_large` as soon as it is too long. StateError."""
        self._batch += data
        if self._landing.size + len(self._batch) > self.most:
            raise too_large(self.most)
        if len(self._batch) >= BATCH:
            await self._flush()

    async def _flush(self) -> None:
        batch, self._batch = bytes(self._batch), bytearray()
        await self._disk(partial(self._landing.write, batch))

    async def end(self) -> Landing:
        await self._flush()
        await self._disk(self._landing.sync)
        return self._landing


def _missing(reference: Reference, why: str) -> UsageError:
    node = str(reference.at[0])
    reason = {"field": str(reference.at[1])[:200], "reason": "missing_asset", "message": why}
    return UsageError(
        f"An input of the workflow is missing: {why} ({reference.where}).",
        hint="Upload the file again, and submit the workflow with the new asset's id.",
        code="missing_asset",
        details={"node_errors": {node[:200]: [reason]}},
    )


def _suffix(meant: Asset | Output, name: str) -> str:
    """The extension that nodes look at: that of the name if it is a plain one, else that of the type."""
    own = names.split(name)[1].lower()
    if _SUFFIX.fullmatch(own):
        return own
    return next((suffix for suffix, kind in names.TYPES.items() if kind == meant.content_type), "")


def _copy(source: Path, landing: Landing) -> bool:
    """Blocks. False when the source is no regular file (any more)."""
    try:
        there = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    with os.fdopen(there, "rb", buffering=0) as file:
        found = os.fstat(there)
        if not stat.S_ISREG(found.st_mode):
            return False
        landing.open(found.st_size)
        while batch := file.read(BATCH):
            landing.write(batch)
        landing.sync()
    return True
