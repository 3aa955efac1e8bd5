"""What one ComfyUI told of its node classes (/object_info), kept in a file: some MB that are looked up class by class and never lie in memory.

The file: MAGIC, the length of the head (8 bytes, big-endian), the head (JSON: when, of which process, where each class stands), the classes' entries
as they came. Written whole under another name and renamed; one that cannot be read is no file. Synchronous: callers use a thread.
"""

from __future__ import annotations

import contextlib
import os
import re
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from comfytunnel.comfy.client import MAX_CLASS
from comfytunnel.decoding import decode

MAGIC = b"comfytunnel nodes 1\n"
MAX_CLASSES = 50_000
MAX_ENTRY = 4 * 1024**2
"""Bytes of one class's entry; of a larger one nothing is known. A list of ten thousand models has some 600 kB."""
MAX_HEAD = 16 * 1024**2
KEPT_FILES = 8
"""In the folder: one for each ComfyUI, the oldest go."""

# What Python writes and JSON does not know: limits such as Infinity, and names of files that are not UTF-8. The first are no limits,
# the second cannot be asked for by anybody.
_NO_NUMBER = re.compile(rb"(?:(?<=[:,] )|(?<=\[))(?:-?Infinity|NaN)(?=[,\]}])")
_LONE = re.compile(rb"(\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2})|\\ud[89a-f][0-9a-f]{2}", re.IGNORECASE)


class Told(msgspec.Struct, frozen=True):
    """`at`: when it was told. `marker`: the temp marker of the process that told it, None if it takes none. `replaced`: names of classes that
    are not there, and that it puts others in the place of."""

    at: datetime
    marker: str | None = None
    version: str | None = None
    replaced: list[str] = []


class _Head(msgspec.Struct):
    told: Told
    nodes: dict[str, tuple[int, int]]


class Index(msgspec.Struct, frozen=True):
    """What is known of a whole file. `nodes`: where each class's entry stands, for `Shelf.entry`."""

    told: Told
    nodes: dict[str, tuple[int, int]]
    start: int


def classes(raw: bytes) -> dict[str, msgspec.Raw]:
    """Take an answer of /object_info apart without building it (some 10 ms for 10 MB). Raises ValueError for what is none."""
    try:
        return _apart(raw)
    except msgspec.DecodeError:
        mended = _LONE.sub(lambda found: found[1] or b"\\ufffd", _NO_NUMBER.sub(b"null", raw))
        return _apart(mended)


def _apart(raw: bytes) -> dict[str, msgspec.Raw]:
    try:
        found = decode(raw, dict[str, msgspec.Raw])
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if len(found) > MAX_CLASSES:
        raise ValueError("too many classes")
    return {name: entry for name, entry in found.items() if len(name) <= MAX_CLASS}


def one(raw: bytes, class_type: str) -> bytes | None:
    """The entry of a class out of an answer of /object_info/{class}, None if there is none of that name. Raises ValueError."""
    found = classes(raw).get(class_type)
    return None if found is None else bytes(found)


def put(path: Path, told: Told, raw: bytes) -> int:
    """Keep an answer of /object_info. Returns the number of classes. Raises ValueError for what is none, and OSError."""
    nodes: dict[str, tuple[int, int]] = {}
    at = 0
    found = classes(raw)
    for name, entry in found.items():
        size = len(memoryview(entry))
        nodes[name] = (at, size)
        at += size
    head = msgspec.json.encode(_Head(told, nodes))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    try:
        with os.fdopen(
            os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb"
        ) as file:
            file.write(MAGIC + len(head).to_bytes(8, "big") + head)
            for entry in found.values():
                file.write(memoryview(entry))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _tidy(path.parent)
    return len(nodes)


def _tidy(folder: Path) -> None:
    def age(path: Path) -> float:
        with contextlib.suppress(OSError):
            return path.stat().st_mtime
        return 0.0

    for path in sorted(folder.glob("*.nodes"), key=age, reverse=True)[KEPT_FILES:]:
        path.unlink(missing_ok=True)


class Shelf:
    """A kept file, open between `with` and its end. Raises ValueError and OSError for one that cannot be read."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        found = os.fstat(self._file.fileno())
        self.identity = (found.st_ino, found.st_mtime_ns, found.st_size)
        """Another one for another content."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._file.close()

    def index(self) -> Index:
        """Read the head: some ms for thousands of classes."""
        begin = len(MAGIC) + 8
        first = self._read(0, begin)
        size = int.from_bytes(first[-8:], "big")
        if first[:-8] != MAGIC or size > MAX_HEAD:
            raise ValueError("it is not ours")
        head = decode(self._read(begin, size), _Head)
        return Index(head.told, head.nodes, begin + size)

    def entry(self, index: Index, class_type: str) -> bytes | None:
        """The JSON of a class that `index` has, None for one that is too long."""
        offset, size = index.nodes[class_type]
        return self._read(index.start + offset, size) if 0 <= size <= MAX_ENTRY else None

    def _read(self, offset: int, size: int) -> bytes:
        found = os.pread(self._file.fileno(), size, offset)
        if len(found) != size:
            raise ValueError("it ends too early")
        return found
