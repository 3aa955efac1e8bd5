"""The outages that have ended: kept in memory, and as JSON lines in the state folder. Owned by app.py.

One line is one outage, written with one write. The memory leads: what the disk does not take now is written when it takes something
again, and a disk that takes nothing costs one line in the log. Of the file only what can be understood is read; a line that a
crash has left half is skipped, here and by whoever else reads it. What an outage is stands in tunnel/outages.py.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from comfytunnel import wire
from comfytunnel.decoding import decode
from comfytunnel.feed import Feed
from comfytunnel.tunnel.outages import SLEEP, Outage
from comfytunnel.tunnel.state import Cause

log = structlog.get_logger(__name__)

KEPT = 1000  # outages; years of a good line, a week of a terrible one
SLACK = 200  # lines above it before the file is written anew
READ_MOST = 4 << 20  # bytes read of the file's end; KEPT lines have a tenth of that


class History:
    """Ended outages of all tunnels, oldest first. run() writes; close() writes what is left. Satisfies api.context.Outages."""

    def __init__(self, path: Path) -> None:
        """Read what there is. Never raises for what the file is or holds."""
        self.ended: Feed[int] = Feed(0)
        self._file = _File(path)
        self._kept = deque(self._file.read(), KEPT)
        self._unwritten: deque[wire.Outage] = deque(maxlen=KEPT)
        self._troubled = False
        self._writing: asyncio.Task[None] | None = None

    def all(self) -> Sequence[wire.Outage]:
        return self._kept

    def since(self, seen: int) -> Sequence[wire.Outage]:
        missed = min(self.ended.value - seen, len(self._kept))
        return list(self._kept)[len(self._kept) - missed :]

    def add(self, outage: wire.Outage) -> None:
        self._kept.append(outage)
        self._unwritten.append(outage)
        log.info(
            "outage",
            tunnel=outage.tunnel,
            cause=outage.cause.code,
            detected_by=outage.detected_by,
            seconds=outage.seconds,
            held=outage.held,
            lost=outage.lost,
        )
        self.ended.set(self.ended.value + 1)

    async def run(self) -> None:
        async for _ in self.ended.changes():
            self._writing = asyncio.create_task(self._write(), name="outages/write")
            await asyncio.shield(self._writing)  # a thread that writes cannot be cancelled

    async def close(self) -> None:
        """Write what run() has not written. To be called when it has ended."""
        if self._writing is not None:
            await self._writing
        await self._write()

    async def _write(self) -> None:
        while self._unwritten:
            batch = list(self._unwritten)
            try:
                await asyncio.to_thread(self._file.write, batch, list(self._kept))
            except OSError as error:
                if not self._troubled:
                    log.warning(
                        "outages",
                        message=f"The outages cannot be written to {self._file.path}: {error.strerror or error}.",
                        hint="They are kept in memory, and written as soon as that can be done.",
                    )
                self._troubled = True
                return
            self._troubled = False
            for _ in batch:
                self._unwritten.popleft()


class _File:
    """outages.jsonl. Blocks; used from one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = 0

    def read(self) -> list[wire.Outage]:
        """What can be understood of the file's end."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - READ_MOST))
                lines = file.read(READ_MOST).splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            log.warning("outages", message=f"{self.path} cannot be read: {error.strerror}.")
            return []
        self._lines = len(lines)
        found = [outage for line in lines if (outage := _understood(line)) is not None]
        if len(found) < len(lines):
            log.warning("outages", message=f"{len(lines) - len(found)} lines of {self.path} make no sense.")
        return found

    def write(self, new: Sequence[wire.Outage], kept: Sequence[wire.Outage]) -> None:
        """Append `new`, or put `kept`, which ends with `new`, in the place of a file that has grown too long. Raises OSError."""
        if self._lines + len(new) > KEPT + SLACK:
            self._replace(kept)
            self._lines = len(kept)
        else:
            self._append(new)
            self._lines += len(new)

    def _append(self, new: Sequence[wire.Outage]) -> None:
        handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(handle).st_size
            whole = size == 0 or os.pread(handle, 1, size - 1) == b"\n"
            data = (b"" if whole else b"\n") + _lines(new)  # half a line must not spoil the next
            if os.write(handle, data) < len(data):
                os.ftruncate(handle, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(handle)

    def _replace(self, kept: Sequence[wire.Outage]) -> None:
        new = self.path.with_suffix(".new")
        new.unlink(missing_ok=True)
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(_lines(kept))
            file.flush()
            os.fsync(handle)
        new.replace(self.path)


def _lines(outages: Sequence[wire.Outage]) -> bytes:
    return b"".join(msgspec.json.encode(outage) + b"\n" for outage in outages)


def _understood(line: bytes) -> wire.Outage | None:
    try:
        return decode(line, wire.Outage)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def _cause(cause: Cause) -> wire.Cause:
    return wire.Cause(cause.code.value, cause.message, cause.hint)


def on_wire(tunnel: str, outage: Outage, now: float) -> wire.Outage:
    """The outage as users see it; `now` on the machine's clock counts for one that goes on."""
    recover = outage.until - outage.known if outage.recovered and outage.until is not None else None
    return wire.Outage(
        tunnel=tunnel,
        began=outage.began,
        ended=outage.ended,
        cause=_cause(outage.cause) if outage.cause else wire.Cause(SLEEP, "The machine went to sleep."),
        last_failure=_cause(outage.last_failure) if outage.last_failure else None,
        detected_by=outage.sign.value,
        detect_seconds=round(outage.known - outage.heard, 3),
        recover_seconds=None if recover is None else round(recover, 3),
        seconds=round(outage.seconds(now), 3),
        attempts=outage.attempts,
        held=outage.held,
        lost=outage.lost,
    )
