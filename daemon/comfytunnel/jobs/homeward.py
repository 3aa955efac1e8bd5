"""The last part of a job's way: its outputs come home, and then it has succeeded. What is fetched, and how, is outputs.py's.

Also what every part of the way needs: the moves on disk, and whether the ComfyUI that answers is the one that was given the job.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from comfytunnel.comfy.client import Client
from comfytunnel.comfy.errors import ComfyError
from comfytunnel.jobs import names, outputs
from comfytunnel.jobs.frames import Frames
from comfytunnel.jobs.marker import Marker
from comfytunnel.jobs.meter import Meter
from comfytunnel.jobs.model import Failure, Job, NodeTime, Output, Stage, Status
from comfytunnel.jobs.patience import Patience
from comfytunnel.jobs.place import JobsSettings, Place
from comfytunnel.jobs.stopwatch import Stopwatch
from comfytunnel.jobs.store import Store
from comfytunnel.jobs.transitions import Changes
from comfytunnel.jobs.verdict import Process, ended, lost

LATE = 2.0
"""Seconds after the end of its job in which a file may still have been written: Last-Modified is rounded up to a whole one, and a file system may
be slow. A ComfyUI needs longer than that to begin anew."""
UNSERVED_ODD = 6
"""Times in a row that ComfyUI gives no answer about one output with a control character in its name, and answers all else, until it is taken for
one that never comes (some 8 s): a prefix of two lines breaks the answer off each time (measured, 0.33)."""
UNSERVED = 60
"""The same of any other name (some 5 min): there the trouble may pass, and the picture is worth it."""


class Homeward(Patience):
    """What a Run does once its job has run. `frames`: the pictures that came over the websocket."""

    def __init__(
        self,
        job: Job,
        place: Place,
        store: Store,
        settings: JobsSettings,
        marker: Marker,
        *,
        now: Callable[[], datetime],
        changed: Callable[[], None],
    ) -> None:
        super().__init__(place, marker, settings, now=now, changed=changed)
        self.job = job
        self.meter: Meter | None = None
        self.stopwatch: Stopwatch | None = None
        self.frames = Frames()
        self._fresh = False  # it has ended just now: nothing has come home, nor begun to
        self._unserved: Counter[int] = Counter()
        self._client: Client = place.client
        self._store = store

    @abstractmethod
    def note(self, job: Job) -> None:
        """Take up a newer state of the job, whoever made it."""

    def _folder(self) -> Path:
        """A folder a day, by the local date of the submission; the path stays the same however often we start again."""
        return (
            self.settings.output_dir.expanduser().absolute() / f"{self.job.created_at.astimezone():%Y-%m-%d}"
        )

    async def _fetch(self) -> None:
        total, fresh, self._fresh = len(self.job.wanted), self._fresh, False
        here: list[Output] | None = None
        if self.job.folder != str(self._folder()) and not await self._store.outputs(self.job.id):
            await outputs.forget_parts(self.job)
            await self._move({"folder": str(self._folder())})  # the user has set another one meanwhile
        link = await self._gate_open() if total else None
        try:
            here = await outputs.fetch(
                self.job,
                self._client,
                self._store,
                fresh=fresh,
                max_file_size=self.settings.max_file_size,
                frames=self.frames.pictures,
                progress=lambda done: self._fetched(done, total),
                foreign=self._foreign,
                moving=self._settle_down,
                unserved=lambda ord_: self._never_comes(ord_, link),
            )
        except outputs.Gone as gone:
            await outputs.forget_parts(self.job)  # of a process that was killed while it fetched
            if await self._process() is Process.OTHER:
                changes = lost(self.job, self._now(), "its outputs")
            else:
                changes = ended(Status.FAILED, self._now(), _missing(gone))
        except outputs.TooLarge as large:
            await outputs.forget_parts(self.job)
            limit = self.settings.max_file_size
            text = f"An output of node {large.wanted.node_id} has {large.size} bytes; at most {limit} are fetched."
            failure = Failure("output_too_large", text, large.wanted.node_id)
            changes = ended(Status.FAILED, self._now(), failure)
        else:
            changes = self.frames.verdict({output.node_id for output in here}, self._now())
        if changes["stage"] is Stage.ENDED:
            if here is None:
                here = await self._store.outputs(self.job.id)
            version = self._marker.version_of(self.job.server)
            await outputs.put_manifest(self.job, here, self._store, version, self._now())
        await self._move(changes)

    async def _foreign(self, written: float | None) -> bool:
        """Whether an output's file that was written then is another job's: after this one's end, and not by the process that ran it. A ComfyUI that begins
        anew with an empty folder gives old names to new pictures. (A cached output is older than its job, and a node may write a bit later.)"""
        ours = self.job.finished
        if written is None or ours is None or written <= ours + LATE:
            return False
        process = await self._process()
        if process is Process.UNKNOWN:  # the history dies with its process, too
            entry = await self._client.history(self.job.prompt_id)
            return entry is None or entry.finished != ours
        return process is Process.OTHER

    async def _never_comes(self, ord_: int, link: int | None) -> bool:
        """Whether ComfyUI has given no answer about an output so often that it never will: each time it answered another question right after,
        through the same `link`."""
        try:
            await self._client.version()
        except ComfyError:
            self._unserved.clear()
            return False
        if link != self._place.gate.value.link:
            self._unserved.clear()
            return False
        self._unserved[ord_] += 1
        odd = not self.job.wanted[ord_].filename.isprintable()
        return self._unserved[ord_] >= (UNSERVED_ODD if odd else UNSERVED)

    def _fetched(self, done: int, total: int) -> None:
        if self.meter is not None:
            self.meter.fetching(done, total)
        self._changed()

    async def _process(self) -> Process:
        return await self._marker.process(self.job.server)

    async def _move(
        self,
        changes: Changes,
        at: str | None = None,
        decided: Job | None = None,
        times: Sequence[NodeTime] = (),
    ) -> None:
        """Compare and set on disk; if somebody else was faster, or the job may not go to `at` any more, or a cancel has come since it was `decided` (as
        the job was then; None: just now), take up what is there."""
        job = decided or self.job
        after = await self._store.move(
            job.id, expect=job.stage, at=at, canceled=job.cancel_requested, times=times, **changes
        )
        after = after or await self._store.get(self.job.id)
        if after is not None:
            self.note(after)


def _missing(gone: outputs.Gone) -> Failure:
    """ComfyUI does not have the file, and that it was restarted cannot be proven."""
    named = (
        f"ComfyUI names the output {names.safe_name(gone.wanted.filename)} (node {gone.wanted.node_id}) and"
    )
    if gone.replaced:
        text = f"{named} has another file of that name now, written after the job had ended: it is another job's. Retry it."
    elif gone.unserved:
        text = (
            f"{named} gives no answer when it is asked for it, though it answers all else. A filename_prefix with a line break or another "
            "control character does this: mend it, and submit it again. Else look into ComfyUI's log."
        )
    else:
        text = (
            f"{named} does not have the file: somebody deleted it, and an unchanged workflow is answered from the cache. "
            "Change the seed, or restart ComfyUI, and retry."
        )
    return Failure("output_missing", text, gone.wanted.node_id)
