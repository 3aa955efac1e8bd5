"""Putting one file down whole: a hidden .part, hashed while it is written, fsynced, then given its name without overwriting.

Synchronous; outputs.py runs it on a thread. All work is relative to the folder's descriptor, and no symlink is followed below the
folder that the user chose. Running it again after a crash at any point ends with one file: a name that is taken by the very same bytes is
taken as ours (we crashed between naming and noting it, or ComfyUI gave out a cached file), any other gets the next number. But where the
file system knows no hard links, a crash in the moment between taking the name and filling it leaves an empty file of that name.

A large .part that is cut short stays, with a note beside it (.tag) of what it is a part of, and is gone on with: hashed again from its first byte,
and never over a restart of the machine, after which a file may have its length without its bytes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
from pathlib import Path
from uuid import uuid4

from comfytunnel.jobs.names import numbered

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""EFBIG: the limit on file sizes of this process or file system; to the user it is the same trouble."""
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
MAX_NUMBER = 100_000
RESERVE = 64 * 1024**2
"""Bytes that are left free: the job database, which is often on the same disk, must be able to go on."""

RESUMABLE = 1024**2
"""Bytes from which on a file is gone on with; a smaller one is sooner fetched again."""
REHASH = 32 * 1024**2
"""Bytes of a .part that are hashed at a time (some 50 ms): a stop of the daemon waits for no more."""


def this_run() -> str:
    """A name for the time since the machine was started; where the system gives none, for this process: what was written before it
    may not have reached the disk."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return _PROCESS


_PROCESS = str(uuid4())


class Trouble(Exception):  # noqa: N818 (not a mistake: a state of the user's disk, which may mend by itself)
    """`code`: disk_full or folder_unwritable."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


def trouble(error: OSError, folder: Path) -> Trouble:
    """What an OSError of our own disk means to the user."""
    if error.errno in NO_ROOM:
        return Trouble(
            "disk_full",
            f"There is no room for outputs in {folder}.",
            "Free some space; it goes on by itself.",
        )
    if error.errno == errno.EROFS:
        return Trouble(
            "folder_unwritable",
            f"Outputs cannot be written to {folder}: it is read-only here.",
            "A service may write only where `comfytunnel install` was told: run it again. Or set another output_dir in [jobs].",
        )
    return Trouble(
        "folder_unwritable",
        f"Outputs cannot be written to {folder} ({error.strerror or error}).",
        "Make the folder writable, or set another output_dir in [jobs]; it goes on by itself.",
    )


def _sync(descriptor: int) -> None:
    """fsync; on macOS that leaves data in the drive's cache, and F_FULLFSYNC does not."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is None:
        os.fsync(descriptor)
    else:
        fcntl.fcntl(descriptor, full)


class Landing:
    """One file on its way into `folder`. Call in this order: open (or resume, rehash...), write..., settle or keep; or drop, or leave. Raises OSError."""

    def __init__(self, folder: Path, part: str, mode: int = 0o666) -> None:
        self._folder = folder
        self._part = part
        self._note = f"{part}.tag"
        self._resumable = False
        self._mode = mode
        self._dir = -1
        self._file = -1
        self.size = 0
        self.sha256 = ""
        self.blake3 = ""

    def open(self, expected: int | None, tag: str | None = None) -> None:
        """Make the folder and the .part. Fails at once if there is no room for the `expected` bytes (None: unknown) and RESERVE.
        `tag`: what names these very bytes at their source, so that they can be gone on with."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._dir = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        self.need(expected or 0)
        # Unlinked, never truncated: after a crash the old .part may share its bytes with the finished file.
        for name in (self._part, self._note):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._dir)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        self._resumable = tag is not None and (expected or 0) >= RESUMABLE
        if self._resumable:
            with os.fdopen(os.open(self._note, flags, 0o600, dir_fd=self._dir), "w") as note:
                note.write(f"{this_run()} {tag}")
        self._file = os.open(self._part, flags, self._mode, dir_fd=self._dir)
        self._begin()

    def _begin(self) -> None:
        from blake3 import blake3  # here, so that a daemon without jobs never pays for the import

        self._sha256, self._blake3 = hashlib.sha256(), blake3()
        self.size = 0

    def resume(self) -> str | None:
        """Take up the .part that was left, without its last byte (so that there is always something left to ask for), and return its tag;
        None if there is none to trust. `rehash` until it returns False, then write on."""
        try:
            self._dir = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            run, _, tag = self._read_note().partition(" ")
            if run == this_run() and tag:
                self._file = os.open(self._part, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._dir)
                there = os.fstat(self._file)
                # a second name: the finished file shares these bytes
                if stat.S_ISREG(there.st_mode) and there.st_nlink == 1 and there.st_size > 1:
                    os.ftruncate(self._file, there.st_size - 1)
                    self._begin()
                    self._resumable = True
                    return tag
        except OSError:
            pass  # whatever is wrong with it: it is fetched from the beginning, and what is wrong with the folder is said then
        self.close()
        return None

    def _read_note(self) -> str:
        descriptor = os.open(self._note, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._dir)
        with os.fdopen(descriptor, "rb") as note:
            return note.read(200).decode("ascii", "replace")

    def rehash(self) -> bool:
        """Hash the next bytes of what is there; False once that was all."""
        data = os.read(self._file, REHASH)
        self._count(data)
        return bool(data)

    def need(self, size: int) -> None:
        """Fails if there is no room for so many bytes and RESERVE."""
        room = os.fstatvfs(self._dir)
        if room.f_bavail * room.f_frsize < size + RESERVE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, data: bytes) -> None:
        self.need(len(data))
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        self._count(data)

    def _count(self, data: bytes) -> None:
        self._sha256.update(data)
        self._blake3.update(data)
        self.size += len(data)

    def sync(self) -> None:
        """Make the bytes last; size and hashes are known from here on."""
        _sync(self._file)
        self.sha256, self.blake3 = self._sha256.hexdigest(), self._blake3.hexdigest()

    def keep(self) -> bool:
        """After `sync`: give it its BLAKE3 hash as the name. False if those very bytes lay there already; damaged ones are replaced."""
        new = not self._is_ours(self.blake3)
        if new:
            os.replace(self._part, self.blake3, src_dir_fd=self._dir, dst_dir_fd=self._dir)
            _sync(self._dir)
        self.drop()
        return new

    def settle(self, name: str) -> Path:
        """Make it last and give it `name`, or the next free number of it. Returns where it lies."""
        self.sync()
        for number in range(1, MAX_NUMBER):
            chosen = numbered(name, number)
            if self._publish(chosen):
                break
            if self._is_ours(chosen):
                os.unlink(self._part, dir_fd=self._dir)
                break
        else:
            raise OSError(errno.EEXIST, f"there are {MAX_NUMBER} files called {name}")
        self._forget_note()
        _sync(self._dir)
        self.close()
        return self._folder / chosen

    def replace(self, name: str) -> None:
        """Make it last and put it in the place of what is called `name`, if anything is. Only for a name that is ours alone."""
        self.sync()
        os.replace(self._part, name, src_dir_fd=self._dir, dst_dir_fd=self._dir)
        _sync(self._dir)
        self.close()

    def _publish(self, name: str) -> bool:
        """Give the .part its name; False if the name is taken."""
        try:
            os.link(self._part, name, src_dir_fd=self._dir, dst_dir_fd=self._dir, follow_symlinks=False)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
        else:
            os.unlink(self._part, dir_fd=self._dir)
            return True
        try:  # no hard links here (exFAT, some network shares): take the name first, then replace what is ours
            os.close(
                os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666, dir_fd=self._dir)
            )
        except FileExistsError:
            return False
        os.replace(self._part, name, src_dir_fd=self._dir, dst_dir_fd=self._dir)
        return True

    def _is_ours(self, name: str) -> bool:
        """Whether a regular file of that name holds exactly these bytes."""
        try:
            there = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._dir)
        except OSError:
            return False
        with os.fdopen(there, "rb") as file:
            found = os.fstat(there)
            if not stat.S_ISREG(found.st_mode) or found.st_size != self.size:
                return False
            return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256

    def _forget_note(self) -> None:
        if self._resumable:
            with contextlib.suppress(OSError):
                os.unlink(self._note, dir_fd=self._dir)

    def drop(self) -> None:
        """Leave nothing behind; may be called at any point."""
        if self._dir != -1:
            with contextlib.suppress(OSError):
                os.unlink(self._part, dir_fd=self._dir)
            self._forget_note()
        self.close()

    def leave(self) -> None:
        """Leave behind what can be gone on with; may be called at any point."""
        if self._resumable:
            self.close()
        else:
            self.drop()

    def forget(self) -> None:
        """Remove what `leave` has left, if it did."""
        for name in (self._part, self._note):
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()

    def close(self) -> None:
        for descriptor in (self._file, self._dir):
            if descriptor != -1:
                os.close(descriptor)
        self._file = self._dir = -1
