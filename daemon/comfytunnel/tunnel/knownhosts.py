"""The known_hosts file as text: the line of a key, taking one name out, and replacing the file without losing what others write.

What ssh wrote stays as it is: only the one name goes, alone on its line, in a list, or hashed. Comments, `@` lines, patterns with
`*` or `?` and lines that cannot be read are never touched. Whom to trust is decided elsewhere (hostkeys.py, trust.py). Blocks on the disk.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hmac
import os
import re
import stat
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

import asyncssh

TRIES = 40  # to find the file at rest; ssh and ssh-keygen are done with it in milliseconds
_PAUSE = 0.05  # seconds between two tries
_LINE = re.compile(
    r"([ \t]*)([^ \t#@]\S*)([ \t]+\S.*)", re.DOTALL
)  # indent, names, key; no comment, no marker


@dataclass(frozen=True, slots=True)
class Cut:
    """A known_hosts text without one name. `lines`: how many named it; `hashed`: one of them did so hashed; `patterns`: those that
    match the name too, and stand as they did."""

    text: str
    lines: int
    hashed: bool
    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Replaced:
    """`backup`: the file as it was, None if nothing had to be taken out."""

    backup: Path | None
    patterns: tuple[str, ...]


def without(text: str, name: str) -> Cut:
    """Take `name` (lower case, see hostkeys.name_of) out of every line that holds a key for it."""
    kept: list[str] = []
    patterns: list[str] = []
    lines, hashed = 0, False
    for line in text.split("\n"):
        found = _LINE.fullmatch(line)
        if found is None:
            kept.append(line)
            continue
        indent, names, key = found.groups()
        if names.startswith("|"):
            if _is_hash_of(names, name):
                lines, hashed = lines + 1, True
            else:
                kept.append(line)
            continue
        every = names.split(",")
        others = [other for other in every if other.lower() != name]
        patterns += _matching(others, name)
        if len(others) == len(every):
            kept.append(line)
            continue
        lines += 1
        if others:
            kept.append(f"{indent}{','.join(others)}{key}")
    return Cut("\n".join(kept), lines, hashed, tuple(patterns))


def _matching(names: list[str], name: str) -> list[str]:
    """The patterns of one line by which it names `name`, as ssh reads them: only `*` and `?` are special, `!` forbids."""

    def matches(pattern: str) -> bool:
        return fnmatchcase(name, pattern.lower().replace("[", "[[]"))

    if any(matches(other[1:]) for other in names if other.startswith("!")):
        return []
    return [other for other in names if not other.startswith("!") and matches(other)]


def line_of(name: str, key: asyncssh.SSHKey, *, hashed: bool = False) -> str:
    """The line that makes `key` known for `name`, with its newline; hashed as by HashKnownHosts of ssh_config(5)."""
    algorithm, data = key.export_public_key("openssh").decode("ascii").split()[:2]
    return f"{_hash(name, os.urandom(20)) if hashed else name} {algorithm} {data}\n"


def _hash(name: str, salt: bytes) -> str:
    digest = hmac.digest(salt, name.encode(), "sha1")  # the format knows no other
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def _is_hash_of(field: str, name: str) -> bool:
    try:
        _, version, salt, _ = field.split("|")
        return version == "1" and _hash(name, base64.b64decode(salt, validate=True)) == field
    except ValueError:
        return False  # no hash that ssh could have written


def append(path: Path, text: str) -> None:
    """Add whole lines at the end; makes the file (0600) and its folder (0700) where they are missing. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    data = text.encode("utf-8", "surrogateescape")
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            data = b"\n" + data  # an editor left the last line open
        # One write to an O_APPEND file: two daemons and an ssh do not mix their lines. What a full disk cut short stays there: it is
        # no line that anybody can read, and to take it back might take another's with it.
        if os.write(handle, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(handle)
    finally:
        os.close(handle)


def replace(path: Path, name: str, key: asyncssh.SSHKey) -> Replaced:
    """Make `key` the only one that lines for `name` hold. Raises OSError, and then nothing has changed.

    A file from which something is taken out is replaced in one step, where a link leads to, after a copy was put beside it under a
    name that was free. Another replacement of ours waits for this one (flock); a line that ssh, which knows no lock, appends
    meanwhile is read again before the step, and carried over after it.
    """
    real = Path(os.path.realpath(path))
    for _ in range(TRIES):
        try:
            old = real.open("rb")
        except FileNotFoundError:
            append(path, line_of(name, key))
            return Replaced(None, ())
        with old:
            done = _try(real, old, name, key) if _locked(old) else None
        if done is not None:
            return done
        time.sleep(_PAUSE)
    raise OSError(errno.EBUSY, "another program changes it again and again")


def _locked(old: BinaryIO) -> bool:
    try:
        fcntl.flock(old, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks: the file is compared before the step all the same
    return True


def _try(real: Path, old: BinaryIO, name: str, key: asyncssh.SSHKey) -> Replaced | None:
    """One attempt on the file that is open as `old`; None if the file has changed meanwhile."""
    before = old.read()
    cut = without(before.decode("utf-8", "surrogateescape"), name)
    entry = line_of(name, key, hashed=cut.hashed)
    if not cut.lines:
        append(real, entry)
        return Replaced(None, cut.patterns)
    gap = "" if not cut.text or cut.text.endswith("\n") else "\n"
    with contextlib.ExitStack() as undo:
        temporary = _write_beside(real, old, f"{cut.text}{gap}{entry}")
        undo.callback(temporary.unlink, missing_ok=True)
        backup = _back_up(real, old, before)
        undo.callback(backup.unlink, missing_ok=True)
        if real.read_bytes() != before:
            return None
        temporary.replace(real)
        undo.pop_all()
    _sync_folder(real.parent)
    if late := old.read():  # by one that had opened the file before the step
        append(real, late.decode("utf-8", "surrogateescape"))
    return Replaced(backup, cut.patterns)


def _write_beside(real: Path, old: BinaryIO, text: str) -> Path:
    """A file in the same folder with the owner and the mode of the old one, on the disk."""
    handle, name = tempfile.mkstemp(dir=real.parent, prefix=f".{real.name}.")
    try:
        _fill(handle, old, text.encode("utf-8", "surrogateescape"))
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def _back_up(real: Path, old: BinaryIO, data: bytes) -> Path:
    stem = f"{real.name}.bak-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    for number in range(1, 100):
        backup = real.with_name(stem if number == 1 else f"{stem}-{number}")
        try:
            handle = os.open(backup, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            continue
        try:
            _fill(handle, old, data)
        except BaseException:
            backup.unlink(missing_ok=True)
            raise
        return backup
    raise OSError(errno.EEXIST, "there are 99 backups of this second beside it")


def _fill(handle: int, like: BinaryIO, data: bytes) -> None:
    found = os.fstat(like.fileno())
    with os.fdopen(handle, "wb") as file:
        with contextlib.suppress(PermissionError):  # only root can keep another owner; the mode counts
            os.fchown(handle, found.st_uid, found.st_gid)
        os.fchmod(handle, stat.S_IMODE(found.st_mode))
        file.write(data)
        file.flush()
        os.fsync(handle)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
